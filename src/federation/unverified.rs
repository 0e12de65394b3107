//! States that lack events because a server's key could not be had.
//!
//! A server that lets us in hands out events of servers that are away, or gone. Where neither they nor a notary give
//! their keys, the events can't be checked and are left out of the state. Which servers these were is written down; when a
//! key of one of them can be had after all, the state is asked for once more and the room is judged again from there on
//! ([`Rooms::judge_again`]).

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use resuni_dag::VerifyKeys;
use resuni_rooms::{RoomError, RoomView, Rooms};
use resuni_store::{Batch, Direction, ScanRange, Store};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    error::FederationError,
    fetch::{Fetcher, MAX_SERVERS},
    keys::{Keys, Needed},
    tables::{LACKING, LackedKey},
};

/// Servers that are written down for one state.
const MAX_LACKED: usize = 200;
/// States that are written down. More are not healed.
const MAX_STATES: usize = 1_000;
/// The pause after which keys are asked for again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3_600);
/// How long a server that is back waits until its events are known here.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes down what is lacking.
pub struct Notes {
    store: Store,
    /// Servers of which a key is lacking.
    lacked: Mutex<HashSet<OwnedServerName>>,
    news: Notify,
}

impl Notes {
    /// Notes in this store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            lacked: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// The state before an event lacks events that were signed with these keys.
    pub(crate) async fn note(&self, room: &RoomId, at: &EventId, needs: Vec<Needed>) {
        let mut keys = BTreeMap::new();
        for need in needs {
            if keys.len() < MAX_LACKED {
                let (key_ids, at_ms) = (need.key_ids, need.at_ms);
                keys.entry(need.server)
                    .or_insert(LackedKey { key_ids, at_ms });
            }
        }
        if keys.is_empty() || self.rows().await.is_ok_and(|rows| rows.len() >= MAX_STATES) {
            return;
        }
        tracing::info!(%room, event = %at, servers = keys.len(), "the state lacks events of servers whose keys can't be had");
        self.lacked.lock().extend(keys.keys().cloned());
        let mut batch = Batch::new();
        for (server, row) in &keys {
            batch.put(&LACKING, &key_of(room, at, server), row);
        }
        if let Err(error) = self.store.commit_durable(batch).await {
            tracing::error!(%room, %error, "what a state lacks can't be written down");
        }
        self.news.notify_one();
    }

    /// The state before an event is not waited for any more, as far as it is for these.
    async fn forget<'a>(
        &self,
        room: &RoomId,
        at: &EventId,
        needs: impl Iterator<Item = &'a Needed>,
    ) -> Result<(), FederationError> {
        let mut batch = Batch::new();
        for need in needs {
            batch.delete(&LACKING, &key_of(room, at, &need.server));
        }
        Ok(self.store.commit_durable(batch).await?)
    }

    /// All states that lack something, each with what.
    async fn rows(&self) -> Result<Vec<(OwnedRoomId, OwnedEventId, Vec<Needed>)>, FederationError> {
        let rows = self
            .store
            .snapshot()
            .scan(
                &LACKING,
                ScanRange::all(),
                Direction::Forward,
                MAX_STATES * MAX_LACKED,
            )
            .await?;
        let mut states: Vec<(OwnedRoomId, OwnedEventId, Vec<Needed>)> = Vec::new();
        for ((room, at, server), LackedKey { key_ids, at_ms }) in rows {
            let names = (room.try_into(), at.try_into(), server.try_into());
            let (Ok(room), Ok(at), Ok(server)) = names else {
                continue;
            };
            let need = Needed {
                server,
                key_ids,
                at_ms,
            };
            match states.last_mut() {
                Some((r, a, needs)) if *r == room && *a == at => needs.push(need),
                _ => states.push((room, at, vec![need])),
            }
        }
        Ok(states)
    }
}

fn key_of(room: &RoomId, at: &EventId, server: &ServerName) -> (String, String, String) {
    (room.to_string(), at.to_string(), server.to_string())
}

/// Completes states as keys turn up.
pub struct Unverified {
    own: OwnedServerName,
    rooms: Arc<Rooms>,
    keys: Arc<Keys>,
    fetcher: Arc<Fetcher>,
    notes: Arc<Notes>,
    stop: CancellationToken,
    /// One look at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Unverified {
    /// Nothing is asked before [`Unverified::run`] or [`Unverified::heard`].
    #[must_use]
    pub fn new(
        own: OwnedServerName,
        rooms: Arc<Rooms>,
        keys: Arc<Keys>,
        fetcher: Arc<Fetcher>,
        notes: Arc<Notes>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            own,
            rooms,
            keys,
            fetcher,
            notes,
            stop,
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Asks for the keys that are lacking, with pauses that grow, until the server stops.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run(&self) -> Result<(), FederationError> {
        let mut pause = FIRST_PAUSE;
        loop {
            if !self.look(None).await? {
                tokio::select! {
                    () = self.stop.cancelled() => return Ok(()),
                    () = self.notes.news.notified() => pause = FIRST_PAUSE,
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    /// A server is there again: if a state lacks its events, they are fetched before anything that builds on them is
    /// judged. Gives up waiting after a while, not working.
    pub async fn heard(self: &Arc<Self>, server: &ServerName) {
        if !self.notes.lacked.lock().contains(server) {
            return;
        }
        let (this, server) = (Arc::clone(self), server.to_owned());
        let look = tokio::spawn(async move {
            if let Err(error) = this.look(Some(&server)).await {
                tracing::warn!(%server, %error, "states that lack its events could not be completed");
            }
        });
        drop(tokio::time::timeout(PATIENCE, look).await);
    }

    /// Looks at the states that lack events, of this server or of any. Whether some still do.
    async fn look(&self, of: Option<&ServerName>) -> Result<bool, FederationError> {
        let _turn = self.turn.lock().await;
        let rows = self.notes.rows().await?;
        for (room, at, needs) in rows {
            let concerned = of.is_none_or(|of| needs.iter().any(|need| need.server == *of));
            if concerned && let Err(error) = self.complete(&room, &at, needs).await {
                tracing::info!(%room, event = %at, %error, "a state that lacks events could not be completed");
            }
        }
        let left = self.notes.rows().await?;
        let servers = left.iter().flat_map(|(_, _, needs)| needs);
        *self.notes.lacked.lock() = servers.map(|need| need.server.clone()).collect();
        Ok(!left.is_empty())
    }

    /// Asks for the state before an event once more if a key that was lacking can be had now.
    async fn complete(
        &self,
        room: &RoomId,
        at: &EventId,
        needs: Vec<Needed>,
    ) -> Result<(), FederationError> {
        let Some(view) = self.rooms.participating(room).await? else {
            return self.notes.forget(room, at, needs.iter()).await;
        };
        // What came while it was partial is judged again first.
        if view.is_partial() {
            return Ok(());
        }
        let keys = self.keys.find(needs.clone()).await;
        let usable: Vec<_> = needs.iter().filter(|need| is_usable(need, &keys)).collect();
        if usable.is_empty() {
            return Ok(());
        }
        let told = self.told(&view, at).await?;
        self.judge(room, at, &told).await?;
        self.notes.forget(room, at, usable.into_iter()).await
    }

    /// The state before an event, from the first server that gives it.
    async fn told(
        &self,
        view: &RoomView,
        at: &EventId,
    ) -> Result<Vec<OwnedEventId>, FederationError> {
        let mut failure = None;
        let servers = view.servers(MAX_SERVERS * 4).await?;
        for server in servers.iter().filter(|server| **server != self.own) {
            match self.fetcher.state_at(view.room_id(), server, at).await {
                Ok(told) => return Ok(told),
                Err(error) => drop(failure.get_or_insert(error)),
            }
        }
        Err(failure
            .unwrap_or_else(|| FederationError::NotFound("there is nobody to ask".to_owned())))
    }

    async fn judge(
        &self,
        room: &RoomId,
        at: &EventId,
        told: &[OwnedEventId],
    ) -> Result<(), FederationError> {
        match self.rooms.judge_again(room, at, told).await {
            Ok(done) => {
                tracing::info!(%room, event = %at, judged = done.judged, changed = done.changed, "a state that lacked events was completed");
                Ok(())
            }
            // Too much has happened since: only a new join would bring them.
            Err(error @ (RoomError::TooLarge(_) | RoomError::NotFound(_))) => {
                tracing::warn!(%room, event = %at, %error, "a state goes on lacking events");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a signature can be checked now that could not.
fn is_usable(need: &Needed, keys: &VerifyKeys) -> bool {
    let known = keys.get(&need.server);
    need.key_ids.iter().any(|id| {
        let key = known.and_then(|known| known.get(id));
        key.is_some_and(|key| key.valid_until_ts >= need.at_ms)
    })
}
