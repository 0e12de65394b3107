//! Transactions of other servers.
//!
//! An event whose history is complete goes straight into its room and is on disk before the
//! transaction is answered. One that refers to something unknown is *staged* on disk and answered too: a worker
//! of its room fetches what is missing, so that a slow room holds up neither the others nor the sender.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use resuni_accounts::Accounts;
use resuni_dag::Pdu;
use resuni_rooms::{Received, RoomView, Rooms, Typing};
use resuni_store::{Batch, Direction, ScanRange, SharedClock, Store};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::{
    acl,
    checks::{Checker, Dropped},
    divergence::{
        Divergences,
        wire::{Hashes, Outcome, transaction},
    },
    edus,
    error::FederationError,
    fetch::Fetcher,
    invites::Invites,
    joining::Joining,
    tables::{STAGED, Staged},
    unverified::Unverified,
};

/// Events of one transaction (server-server API, "Transactions").
pub const MAX_PDUS: usize = 50;
/// Ephemeral messages of one transaction.
pub const MAX_EDUS: usize = 100;
/// Transactions whose answers are remembered.
const ANSWERS: usize = 2_000;
/// Staged events of one room. More are refused, and found as missing later.
const MAX_STAGED: usize = 500;
/// How often what a staged event misses is fetched in vain before it is dropped.
const MAX_ATTEMPTS: u32 = 6;
/// Pause after the first failure; it doubles.
const RETRY_AFTER: Duration = Duration::from_secs(2);

type Results = Vec<(OwnedEventId, Result<(), String>)>;
type Answer = Arc<OnceCell<transaction::Response>>;

/// Takes transactions in.
pub struct Ingest {
    rooms: Arc<Rooms>,
    store: Store,
    checker: Checker,
    fetcher: Arc<Fetcher>,
    invites: Arc<Invites>,
    divergences: Arc<Divergences>,
    unverified: Arc<Unverified>,
    edus: edus::Receivers,
    joining: Arc<Joining>,
    clock: SharedClock,
    stop: CancellationToken,
    answers: Cache<(OwnedServerName, String), Answer>,
    staged: Mutex<HashMap<OwnedRoomId, usize>>,
    next_staged: AtomicU64,
}

/// The parts of an [`Ingest`].
pub struct IngestParts {
    /// The rooms.
    pub rooms: Arc<Rooms>,
    /// Our people.
    pub accounts: Arc<Accounts>,
    /// The store they are in.
    pub store: Store,
    /// Checks events.
    pub checker: Checker,
    /// Fetches what is missing.
    pub fetcher: Arc<Fetcher>,
    /// Invites that are taken back.
    pub invites: Arc<Invites>,
    /// Compares states.
    pub divergences: Arc<Divergences>,
    /// Completes states that lack events of a server.
    pub unverified: Arc<Unverified>,
    /// The joins under way.
    pub joining: Arc<Joining>,
    /// Who types.
    pub typing: Arc<Typing>,
    /// The time.
    pub clock: SharedClock,
    /// Ends everything.
    pub stop: CancellationToken,
}

impl Ingest {
    /// Goes on with what was staged before the last stop.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(parts: IngestParts) -> Result<Arc<Self>, FederationError> {
        let IngestParts {
            rooms,
            accounts,
            store,
            checker,
            fetcher,
            invites,
            divergences,
            unverified,
            joining,
            typing,
            clock,
            stop,
        } = parts;
        let edus = edus::Receivers {
            rooms: Arc::clone(&rooms),
            accounts,
            typing,
        };
        let rows = store
            .snapshot()
            .scan(&STAGED, ScanRange::all(), Direction::Forward, usize::MAX)
            .await?;
        let mut staged: HashMap<OwnedRoomId, usize> = HashMap::new();
        let mut last = clock.now_ms();
        for ((_, number), row) in rows {
            *staged.entry(row.room).or_default() += 1;
            last = last.max(number + 1);
        }
        let waiting: Vec<_> = staged.keys().cloned().collect();
        let ingest = Arc::new(Self {
            rooms,
            store,
            checker,
            fetcher,
            invites,
            divergences,
            unverified,
            edus,
            joining,
            clock,
            stop,
            answers: Cache::new(ANSWERS),
            staged: Mutex::new(staged),
            next_staged: AtomicU64::new(last),
        });
        for room in waiting {
            tokio::spawn(Arc::clone(&ingest).work(room));
        }
        Ok(ingest)
    }

    /// Takes a transaction in. The same one again is answered the same, also while the first is still
    /// being worked on.
    ///
    /// # Errors
    /// When it has more events or messages than allowed; nothing else fails a whole transaction.
    pub async fn transaction(
        self: &Arc<Self>,
        origin: &ServerName,
        request: transaction::Request,
    ) -> Result<transaction::Response, FederationError> {
        if request.pdus.len() > MAX_PDUS || request.edus.len() > MAX_EDUS {
            return Err(FederationError::invalid(format!(
                "a transaction holds at most {MAX_PDUS} PDUs and {MAX_EDUS} EDUs"
            )));
        }
        let key = (origin.to_owned(), request.transaction_id.to_string());
        let answer = self
            .answers
            .get_or_insert_with(
                &key,
                || Ok::<_, std::convert::Infallible>(Answer::default()),
            )
            .unwrap_or_default();
        let work = || async {
            // In a task of its own, so that it ends what it began when the sender hangs up.
            let (this, origin) = (Arc::clone(self), origin.to_owned());
            let task = tokio::spawn(async move { this.process(&origin, request).await });
            let response = task.await;
            // What could not be written is to come again: an answer would say that it was taken, or that
            // something is wrong with it.
            if let Some(error) = self.store.has_ended() {
                return Err(error.into());
            }
            response.map_err(|e| FederationError::Internal(e.to_string()))
        };
        let response = answer.get_or_try_init(work).await?;
        Ok(transaction::Response::new(response.pdus.clone()))
    }

    async fn process(
        self: Arc<Self>,
        origin: &ServerName,
        request: transaction::Request,
    ) -> transaction::Response {
        metrics::counter!("resuni_federation_pdus_in_total").increment(request.pdus.len() as u64);
        self.unverified.heard(origin).await;
        let rooms = by_room(request.pdus);
        let work = rooms
            .into_iter()
            .map(|(room, raws)| self.room_outcomes(origin, room, raws, &request.state_hashes));
        let outcomes = join_all(work).await.into_iter().flatten().collect();
        // After the events: a receipt may be for one of them.
        for edu in &request.edus {
            if let Err(error) = edus::receive(&self.edus, origin, edu).await {
                tracing::debug!(%origin, %error, "an ephemeral message was dropped");
            }
        }
        transaction::Response::new(outcomes)
    }

    /// Takes the events of one room in, and compares the states around them with the sender's.
    async fn room_outcomes(
        self: &Arc<Self>,
        origin: &ServerName,
        room: OwnedRoomId,
        raws: Vec<Box<RawValue>>,
        hashes: &Hashes,
    ) -> Vec<(OwnedEventId, Outcome)> {
        let results = self.room_events(origin, room.clone(), raws).await;
        let mut outcomes: Vec<_> = results
            .into_iter()
            .map(|(id, result)| (id, Outcome::of(result)))
            .collect();
        if !hashes.is_empty()
            && let Err(error) = self.compare(origin, &room, hashes, &mut outcomes).await
        {
            tracing::warn!(%room, %origin, %error, "states could not be compared");
        }
        outcomes
    }

    async fn compare(
        &self,
        origin: &ServerName,
        room: &RoomId,
        hashes: &Hashes,
        outcomes: &mut [(OwnedEventId, Outcome)],
    ) -> Result<(), FederationError> {
        let Some(view) = self.rooms.view(room).await? else {
            return Ok(());
        };
        for (event, outcome) in outcomes.iter_mut() {
            if outcome.error.is_none()
                && let Some(told) = hashes.get(event)
            {
                let compared = self.divergences.compare(origin, &view, event, told).await?;
                outcome.mismatch = compared;
            }
        }
        Ok(())
    }

    async fn room_events(
        self: &Arc<Self>,
        origin: &ServerName,
        room: OwnedRoomId,
        raws: Vec<Box<RawValue>>,
    ) -> Results {
        if self.joining.is_under_way(&room)
            && let Ok(None) = self.rooms.participating(&room).await
        {
            self.joining.settled(&room).await;
        }
        match self.rooms.view(&room).await {
            Ok(Some(view)) => match acl::allows(&view, origin).await {
                Ok(true) => self.known_room(origin, &view, raws).await,
                Ok(false) => refuse(
                    &view,
                    &raws,
                    "this server is denied access by the room's ACL",
                ),
                Err(error) => refuse(&view, &raws, &error.to_string()),
            },
            Ok(None) => self.invites.receive(origin, &room, raws).await,
            Err(error) => {
                tracing::error!(%room, %error, "a room can't be read");
                Vec::new()
            }
        }
    }

    async fn known_room(
        self: &Arc<Self>,
        origin: &ServerName,
        view: &RoomView,
        raws: Vec<Box<RawValue>>,
    ) -> Results {
        let checked = self.checker.check(view.room_id(), view.rules(), raws).await;
        // All at once, and yet in this order: each waits for its turn in the room's lane, and while one
        // waits for the disk the next is worked on, so that many share one sync.
        let work = checked.into_iter().map(|checked| async move {
            match checked {
                Ok(pdu) => {
                    let id = pdu.event_id().to_owned();
                    Some((id, self.event(origin, view, pdu).await))
                }
                Err(Dropped {
                    event_id, reason, ..
                }) => {
                    tracing::info!(%origin, room = %view.room_id(), ?event_id, reason, "an event was dropped");
                    event_id.map(|id| (id, Err(reason)))
                }
            }
        });
        join_all(work).await.into_iter().flatten().collect()
    }

    async fn event(
        self: &Arc<Self>,
        origin: &ServerName,
        view: &RoomView,
        pdu: Pdu,
    ) -> Result<(), String> {
        let sender = pdu.sender().server_name();
        if sender != origin && !acl::allows(view, sender).await.map_err(|e| e.to_string())? {
            return Err(format!("{sender} is denied access by the room's ACL"));
        }
        match self.rooms.receive(view.room_id(), pdu.clone()).await {
            // While members are missing the last word is not spoken (MSC3902).
            Ok(Received::Rejected { .. }) if view.is_partial() => Ok(()),
            Ok(Received::Rejected { reason }) => Err(reason),
            Ok(Received::Missing { .. }) => self
                .stage(origin, view.room_id(), &pdu)
                .await
                .map_err(|e| e.to_string()),
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(room = %view.room_id(), event = %pdu.event_id(), %error, "an event could not be taken in");
                Err(error.to_string())
            }
        }
    }

    /// Keeps an event until what it builds on is here.
    async fn stage(
        self: &Arc<Self>,
        origin: &ServerName,
        room: &RoomId,
        pdu: &Pdu,
    ) -> Result<(), FederationError> {
        let first = {
            let mut staged = self.staged.lock();
            let count = staged.entry(room.to_owned()).or_default();
            if *count >= MAX_STAGED {
                return Err(FederationError::Internal(
                    "too many events of this room wait for others".to_owned(),
                ));
            }
            *count += 1;
            *count == 1
        };
        let number = self.next_staged.fetch_add(1, Ordering::Relaxed);
        let row = Staged {
            room: room.to_owned(),
            origin: origin.to_owned(),
            pdu: pdu.json().to_owned(),
            attempts: 0,
        };
        let mut batch = Batch::new();
        batch.put(&STAGED, &(room.to_string(), number), &row);
        let written = self.store.commit_durable(batch).await;
        if let Err(error) = written {
            self.unstage(room);
            return Err(error.into());
        }
        if first {
            tokio::spawn(Arc::clone(self).work(room.to_owned()));
        }
        Ok(())
    }

    /// One event less waits in the room. Whether none does.
    fn unstage(&self, room: &RoomId) -> bool {
        let mut staged = self.staged.lock();
        match staged.get_mut(room) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => {
                staged.remove(room);
                true
            }
        }
    }

    /// Works off what is staged in a room, in the order it came, one at a time.
    async fn work(self: Arc<Self>, room: OwnedRoomId) {
        loop {
            let range = ScanRange::prefix(&room.to_string());
            let next = self
                .store
                .snapshot()
                .scan(&STAGED, range, Direction::Forward, 1)
                .await;
            let (key, row) = match next {
                Ok(rows) => match rows.into_iter().next() {
                    Some(row) => row,
                    None => {
                        // Counted before it is written: it comes in a moment.
                        if !self.staged.lock().contains_key(&room) {
                            return;
                        }
                        tokio::task::yield_now().await;
                        continue;
                    }
                },
                Err(error) => {
                    tracing::error!(%room, %error, "staged events can't be read");
                    return;
                }
            };
            let pause = self.bring(key, row).await;
            if !pause.is_zero() {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            } else if self.unstage(&room) || self.stop.is_cancelled() {
                return;
            }
        }
    }

    /// Tries one staged event. How long to wait before it is tried again; zero when it is done with.
    async fn bring(&self, key: (String, u64), mut row: Staged) -> Duration {
        let outcome = self.fetcher.bring(&row.room, &row.origin, &row.pdu).await;
        let mut batch = Batch::new();
        let mut pause = Duration::ZERO;
        match outcome {
            Ok(received) => {
                tracing::debug!(room = %row.room, ?received, "a staged event was worked off");
                batch.delete(&STAGED, &key);
            }
            Err(error) if row.attempts + 1 < MAX_ATTEMPTS && error.is_unreachable() => {
                tracing::debug!(room = %row.room, %error, "what a staged event needs can't be had yet");
                pause = RETRY_AFTER * 2_u32.pow(row.attempts);
                row.attempts += 1;
                batch.put(&STAGED, &key, &row);
            }
            Err(error) => {
                tracing::info!(room = %row.room, %error, "an event was dropped: what it needs can't be had");
                batch.delete(&STAGED, &key);
            }
        }
        if let Err(error) = self.store.commit(batch).await {
            tracing::error!(room = %row.room, %error, "a staged event can't be written");
            pause = pause.max(RETRY_AFTER);
        }
        pause
    }

    /// Events that wait for others.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.staged.lock().values().sum()
    }

    /// The time, for tests of this module's users.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }
}

/// The events by room, rooms and events in the order in which they came. What names no room is dropped.
fn by_room(pdus: Vec<Box<RawValue>>) -> Vec<(OwnedRoomId, Vec<Box<RawValue>>)> {
    #[derive(Deserialize)]
    struct InRoom {
        room_id: OwnedRoomId,
    }
    let mut rooms: Vec<(OwnedRoomId, Vec<Box<RawValue>>)> = Vec::new();
    for raw in pdus {
        let Ok(InRoom { room_id }) = serde_json::from_str(raw.get()) else {
            tracing::debug!("an event without a room was dropped");
            continue;
        };
        match rooms.iter_mut().find(|(room, _)| *room == room_id) {
            Some((_, events)) => events.push(raw),
            None => rooms.push((room_id, vec![raw])),
        }
    }
    rooms
}

/// The same answer for all of them, as far as they can be named.
fn refuse(view: &RoomView, raws: &[Box<RawValue>], reason: &str) -> Results {
    raws.iter()
        .filter_map(|raw| Pdu::parse(raw.get(), view.rules()).ok())
        .map(|pdu| (pdu.event_id().to_owned(), Err(reason.to_owned())))
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn events_are_grouped_by_room_in_order() {
        let raws = ["!a:x", "!b:x", "!a:x"]
            .iter()
            .enumerate()
            .map(|(i, room)| {
                RawValue::from_string(format!("{{\"room_id\":\"{room}\",\"n\":{i}}}")).unwrap()
            });
        let nameless = RawValue::from_string("{\"n\":9}".to_owned()).unwrap();
        let grouped = by_room(raws.chain([nameless]).collect());
        let shape: Vec<_> = grouped
            .iter()
            .map(|(room, events)| (room.as_str(), events.len()))
            .collect();
        assert_eq!(shape, [("!a:x", 2), ("!b:x", 1)]);
        assert!(
            grouped[0].1[0].get().contains("\"n\":0") && grouped[0].1[1].get().contains("\"n\":2")
        );
    }
}
