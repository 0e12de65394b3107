//! Bringing what a room says is missing: history, auth chains, the state at a gap.
//!
//! The rooms decide and write; this asks other servers. Every answer is bounded before it is looked at
//! and checked before it is handed over, and the number of requests for one event is bounded too.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex;
use resuni_dag::{Edges, Pdu, topological_order};
use resuni_rooms::{Received, RoomError, RoomView, Rooms, tables::Place};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UInt,
    api::federation::{
        authorization::get_event_authorization::v1 as event_auth,
        event::{
            get_event::v1 as get_event, get_missing_events::v1 as missing_events,
            get_room_state::v1 as room_state, get_room_state_ids::v1 as state_ids,
        },
    },
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex as AsyncMutex;

use crate::{
    checks::Checker,
    client::{Client, Terms},
    error::FederationError,
    keys::Needed,
    unverified::Notes,
};

/// Events asked for at once where history is missing.
const MISSING_LIMIT: u32 = 50;
/// How often more history is asked for before the gap is left open.
const MISSING_ROUNDS: usize = 3;
/// States fetched for one event: a slice of a graph in which many write at once begins at as many places as an event
/// may have `prev_events`, and at each of them the state is wanted.
const MAX_STATES: usize = 20;
/// Extremities told to the other server.
const MAX_EARLIEST: usize = 20;
/// Events of a state, or of its auth chain, that are accepted.
const MAX_STATE: usize = 100_000;
/// Events of a state that are checked and written at once.
const STATE_PART: usize = 2_000;
/// Up to this many unknown events are fetched one by one, more as a whole state.
const ONE_BY_ONE: usize = 50;
/// Events fetched at once.
const CONCURRENT: usize = 8;
/// Servers that are asked for the same thing.
pub(crate) const MAX_SERVERS: usize = 3;
const TERMS: Terms = Terms::BACKGROUND
    .within(Duration::from_secs(30))
    .up_to(8 << 20);
const STATE_TERMS: Terms = Terms {
    heed_backoff: true,
    ..Terms::STATE
};

/// The answer to `GET /_matrix/federation/v1/state/{roomId}`, its events where they lie in the body.
#[derive(Deserialize)]
struct WholeState<'a> {
    #[serde(borrow)]
    pdus: Vec<&'a RawValue>,
    #[serde(borrow)]
    auth_chain: Vec<&'a RawValue>,
}

/// Fetches events.
pub struct Fetcher {
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) client: Arc<Client>,
    checker: Checker,
    notes: Arc<Notes>,
    pub(crate) own: OwnedServerName,
    /// One backfill per room at a time.
    turns: Mutex<HashMap<OwnedRoomId, Arc<AsyncMutex<()>>>>,
}

impl Fetcher {
    /// A fetcher for the server `own`.
    #[must_use]
    pub fn new(
        own: OwnedServerName,
        rooms: Arc<Rooms>,
        client: Arc<Client>,
        checker: Checker,
        notes: Arc<Notes>,
    ) -> Self {
        Self {
            rooms,
            client,
            checker,
            notes,
            own,
            turns: Mutex::default(),
        }
    }

    /// A room's turn to be backfilled.
    pub(crate) fn turn(&self, room: &RoomId) -> Arc<AsyncMutex<()>> {
        let mut turns = self.turns.lock();
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(room.to_owned()).or_default())
    }

    /// Takes in an event that was checked and builds on something unknown.
    ///
    /// # Errors
    /// When what it needs can't be had.
    pub async fn bring(
        &self,
        room: &RoomId,
        origin: &ServerName,
        json: &str,
    ) -> Result<Received, FederationError> {
        let view = self.view(room).await?;
        let pdu = Pdu::parse(json, view.rules())
            .map_err(|e| FederationError::Internal(format!("a staged event is malformed: {e}")))?;
        let mut failure = None;
        for server in self.sources(&view, origin, &pdu).await? {
            match self.bring_from(room, &server, &pdu).await {
                Ok(received) => return Ok(received),
                Err(error) => {
                    tracing::debug!(%room, %server, event = %pdu.event_id(), %error, "history can't be had here");
                    failure.get_or_insert(error);
                }
            }
        }
        Err(failure
            .unwrap_or_else(|| FederationError::NotFound("there is nobody to ask".to_owned())))
    }

    /// Whom to ask: who sent it, whose it is, then others in the room.
    async fn sources(
        &self,
        view: &RoomView,
        origin: &ServerName,
        pdu: &Pdu,
    ) -> Result<Vec<OwnedServerName>, FederationError> {
        let mut servers = vec![origin.to_owned()];
        let others = view.servers(MAX_SERVERS * 4).await?;
        for server in [pdu.sender().server_name().to_owned()]
            .into_iter()
            .chain(others)
        {
            if !servers.contains(&server) && server != self.own {
                servers.push(server);
            }
        }
        servers.truncate(MAX_SERVERS);
        Ok(servers)
    }

    async fn bring_from(
        &self,
        room: &RoomId,
        server: &ServerName,
        pdu: &Pdu,
    ) -> Result<Received, FederationError> {
        // However the other server answers, no more than this many states are fetched for one event.
        let mut states = MAX_STATES;
        for _ in 0..MISSING_ROUNDS {
            match self.rooms.receive(room, pdu.clone()).await? {
                Received::Missing { prev, .. } if !prev.is_empty() => {
                    let brought = self.history(room, server, pdu, &mut states).await?;
                    if brought == 0 {
                        break;
                    }
                }
                Received::Missing { auth, .. } => {
                    self.auth_chain(room, server, pdu.event_id(), &auth).await?;
                }
                done => return Ok(done),
            }
        }
        // The event itself has to follow events that its server divulges. Were the state there taken on
        // its word instead, a server could detach what it sends from the history that everybody has.
        match self.rooms.receive(room, pdu.clone()).await? {
            Received::Missing { .. } => Err(unavailable(pdu)),
            done => Ok(done),
        }
    }

    /// Asks for what lies between our extremities and the event. How many events were new.
    async fn history(
        &self,
        room: &RoomId,
        server: &ServerName,
        pdu: &Pdu,
        states: &mut usize,
    ) -> Result<usize, FederationError> {
        let view = self.view(room).await?;
        let mut earliest = view.extremities().await?;
        earliest.truncate(MAX_EARLIEST);
        let latest = vec![pdu.event_id().to_owned()];
        let mut request = missing_events::Request::new(room.to_owned(), earliest, latest);
        request.limit = UInt::from(MISSING_LIMIT);
        let answer = self.client.send(server, request, TERMS).await?;
        if answer.events.len() > MISSING_LIMIT as usize * 2 {
            return Err(FederationError::bad_answer(
                server,
                "it has more events than asked for",
            ));
        }
        let events = self.checked(&view, answer.events).await;
        let mut new = 0;
        for event in topological_order(events, Edges::Prev) {
            // The first of them may itself follow something that is too far back: there the state is
            // fetched, and what follows stands on it.
            match self.settle(room, server, &event, states).await {
                Ok(Received::Known | Received::Missing { .. }) => {}
                Ok(_) => new += 1,
                Err(error) => {
                    tracing::debug!(%room, event = %event.event_id(), %error, "fetched history was not taken in");
                }
            }
        }
        Ok(new)
    }

    /// Takes in an event whose history is as complete as it gets: what it refers to is brought, and
    /// where its `prev_events` stay unknown, the state there.
    async fn settle(
        &self,
        room: &RoomId,
        server: &ServerName,
        pdu: &Pdu,
        states: &mut usize,
    ) -> Result<Received, FederationError> {
        let mut state: Option<Vec<OwnedEventId>> = None;
        let mut asked_auth = false;
        loop {
            let received = match &state {
                Some(state) => {
                    self.rooms
                        .receive_at_gap(room, pdu.clone(), state.clone())
                        .await?
                }
                None => self.rooms.receive(room, pdu.clone()).await?,
            };
            let Received::Missing { prev, auth } = received else {
                return Ok(received);
            };
            // The state first: what the event is authorised by is part of it, or of its auth chain.
            if !prev.is_empty() && state.is_none() && *states > 0 {
                *states -= 1;
                state = Some(self.state_before(room, server, pdu, &prev).await?);
            } else if !auth.is_empty() && !asked_auth {
                asked_auth = true;
                self.auth_chain(room, server, pdu.event_id(), &auth).await?;
            } else {
                return Err(unavailable(pdu));
            }
        }
    }

    /// Brings the auth chain of an event.
    async fn auth_chain(
        &self,
        room: &RoomId,
        server: &ServerName,
        event: &EventId,
        missing: &[OwnedEventId],
    ) -> Result<(), FederationError> {
        let view = self.view(room).await?;
        let request = event_auth::Request::new(room.to_owned(), event.to_owned());
        let events = match self.client.send(server, request, STATE_TERMS).await {
            Ok(answer) if answer.auth_chain.len() <= MAX_STATE => {
                self.checked(&view, answer.auth_chain).await
            }
            Ok(_) => {
                return Err(FederationError::bad_answer(
                    server,
                    "the auth chain is too long",
                ));
            }
            Err(error) if error.is_unreachable() => return Err(error),
            Err(_) => self.events(&view, server, missing).await,
        };
        self.outliers(&view, events).await
    }

    /// The ids of the state before an event, all of them known to the room afterwards.
    async fn state_before(
        &self,
        room: &RoomId,
        server: &ServerName,
        pdu: &Pdu,
        missing: &[OwnedEventId],
    ) -> Result<Vec<OwnedEventId>, FederationError> {
        // With one parent, the state before the event is that after the parent, which most servers that
        // have both can tell; some know the state at the parent only.
        if let [parent] = missing {
            match self.state_ids(room, server, parent).await {
                // What of it can't be had now can't be had by asking for it at another event.
                Ok(ids) => {
                    let before = pdu.event_id();
                    return self.advance(room, server, ids, (parent, before)).await;
                }
                Err(error) if error.is_unreachable() => return Err(error),
                Err(error) => {
                    tracing::debug!(%room, event = %parent, %error, "no state at a missing event");
                }
            }
        }
        self.state_at(room, server, pdu.event_id()).await
    }

    /// The ids of the state after an event that is not here. It is wanted as the state before another event.
    pub(crate) async fn state_after(
        &self,
        room: &RoomId,
        server: &ServerName,
        (event, before): (&OwnedEventId, &EventId),
    ) -> Result<Vec<OwnedEventId>, FederationError> {
        let ids = self.state_ids(room, server, event).await?;
        self.advance(room, server, ids, (event, before)).await
    }

    /// The state before an event brought, and the event added to it.
    async fn advance(
        &self,
        room: &RoomId,
        server: &ServerName,
        ids: state_ids::Response,
        (event, before): (&OwnedEventId, &EventId),
    ) -> Result<Vec<OwnedEventId>, FederationError> {
        let mut state = self.bring_state(room, server, (event, before), ids).await?;
        let view = self.view(room).await?;
        let ids = std::slice::from_ref(event);
        let (mut events, lacking) = self.events_or_needs(&view, server, ids).await;
        let Some(event) = events.pop() else {
            if lacking.is_empty() {
                let reason = "it does not give the event itself";
                return Err(FederationError::bad_answer(server, reason));
            }
            // Whose key can't be had today may never be: the room must not wait for it.
            self.notes.note(room, before, lacking).await;
            return Ok(state);
        };
        if event.is_state() {
            let replaced = self.same_key(&view, &state, &event).await?;
            state.retain(|id| Some(id) != replaced.as_ref());
            state.push(event.event_id().to_owned());
            self.outliers(&view, vec![event]).await?;
        }
        Ok(state)
    }

    /// The event of `state` that `newer` takes the place of.
    async fn same_key(
        &self,
        view: &RoomView,
        state: &[OwnedEventId],
        newer: &Pdu,
    ) -> Result<Option<OwnedEventId>, FederationError> {
        for id in state {
            let Some(event) = view.event(id).await? else {
                continue;
            };
            if event.pdu.kind() == newer.kind() && event.pdu.state_key() == newer.state_key() {
                return Ok(Some(id.clone()));
            }
        }
        Ok(None)
    }

    pub(crate) async fn state_at(
        &self,
        room: &RoomId,
        server: &ServerName,
        event: &EventId,
    ) -> Result<Vec<OwnedEventId>, FederationError> {
        let ids = self.state_ids(room, server, event).await?;
        self.bring_state(room, server, (event, event), ids).await
    }

    async fn state_ids(
        &self,
        room: &RoomId,
        server: &ServerName,
        event: &EventId,
    ) -> Result<state_ids::Response, FederationError> {
        let request = state_ids::Request::new(event.to_owned(), room.to_owned());
        let ids = self.client.send(server, request, STATE_TERMS).await?;
        if ids.pdu_ids.len() > MAX_STATE || ids.auth_chain_ids.len() > MAX_STATE {
            return Err(FederationError::bad_answer(
                server,
                "the state is too large",
            ));
        }
        Ok(ids)
    }

    /// Makes the events of a state and of its auth chain known to the room. The ids of the state, of those events
    /// that passed their checks. What lacks only a key is noted for the event `before` which the state is wanted.
    async fn bring_state(
        &self,
        room: &RoomId,
        server: &ServerName,
        (event, before): (&EventId, &EventId),
        ids: state_ids::Response,
    ) -> Result<Vec<OwnedEventId>, FederationError> {
        let view = self.view(room).await?;
        let mut unknown = Vec::new();
        let mut seen = HashSet::new();
        for id in ids.auth_chain_ids.iter().chain(&ids.pdu_ids) {
            if seen.insert(id) && !is_known(&view, id).await? {
                unknown.push(id.clone());
            }
        }
        let (mut events, mut lacking) = (Vec::new(), Vec::new());
        if unknown.len() <= ONE_BY_ONE {
            (events, lacking) = self.events_or_needs(&view, server, &unknown).await;
        }
        let all = events.len() + lacking.len() == unknown.len();
        self.outliers(&view, events).await?;
        // What can't be had one by one is asked for once more as a whole: then nothing is missing because the network
        // failed.
        if !all {
            lacking = self.bring_whole_state(&view, server, event).await?;
        }
        self.notes.note(room, before, lacking).await;
        // What could not be had or did not pass its checks is no part of the state.
        let view = self.view(room).await?;
        let mut known = Vec::with_capacity(ids.pdu_ids.len());
        for id in ids.pdu_ids {
            if is_known(&view, &id).await? {
                known.push(id);
            }
        }
        Ok(known)
    }

    /// Makes the events of the state before an event known to the room, and those of its auth chain: the answer is held
    /// once, and of what is made of it only a part at a time. The keys that some of them could not be checked without.
    async fn bring_whole_state(
        &self,
        view: &RoomView,
        server: &ServerName,
        event: &EventId,
    ) -> Result<Vec<Needed>, FederationError> {
        let request = room_state::Request::new(event.to_owned(), view.room_id().to_owned());
        let answer = self.client.answer(server, request, STATE_TERMS).await?;
        let state: WholeState<'_> = serde_json::from_slice(&answer.body)
            .map_err(|error| FederationError::bad_answer(server, error))?;
        if state.pdus.len() > MAX_STATE || state.auth_chain.len() > MAX_STATE {
            return Err(FederationError::bad_answer(
                server,
                "the state is too large",
            ));
        }
        // The auth chain at once, as its events may come in any order; then everything that the state builds on is here.
        let parts = std::iter::once(&state.auth_chain[..]).chain(state.pdus.chunks(STATE_PART));
        let mut lacking = Vec::new();
        for part in parts {
            let raws = part.iter().map(|raw| (*raw).to_owned()).collect();
            let (events, needs) = self.checked_or_needs(view, raws).await;
            self.outliers(view, events).await?;
            lacking.extend(needs);
        }
        Ok(lacking)
    }

    /// Fetches events by id, as far as they can be had.
    pub(crate) async fn events(
        &self,
        view: &RoomView,
        server: &ServerName,
        ids: &[OwnedEventId],
    ) -> Vec<Pdu> {
        self.events_or_needs(view, server, ids).await.0
    }

    /// The same, and the keys that others of them could not be checked without.
    async fn events_or_needs(
        &self,
        view: &RoomView,
        server: &ServerName,
        ids: &[OwnedEventId],
    ) -> (Vec<Pdu>, Vec<Needed>) {
        let mut requests = Vec::with_capacity(ids.len());
        for id in ids {
            requests.push(self.raw_event(server, id).boxed());
        }
        let raws: Vec<Box<RawValue>> = stream::iter(requests)
            .buffer_unordered(CONCURRENT)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let (mut events, needs) = self.checked_or_needs(view, raws).await;
        // What was not asked for is not taken.
        events.retain(|pdu| ids.iter().any(|id| id == pdu.event_id()));
        (events, needs)
    }

    async fn raw_event(&self, server: &ServerName, id: &EventId) -> Option<Box<RawValue>> {
        let request = get_event::Request::new(id.to_owned());
        let answer = self.client.send(server, request, TERMS.up_to(256 << 10));
        answer.await.ok().map(|answer| answer.pdu)
    }

    /// Hands auth chains and states over to the room, ancestors first.
    pub(crate) async fn outliers(
        &self,
        view: &RoomView,
        events: Vec<Pdu>,
    ) -> Result<(), FederationError> {
        if events.is_empty() {
            return Ok(());
        }
        self.rooms.receive_outliers(view.room_id(), events).await?;
        Ok(())
    }

    /// Those that pass the checks.
    pub(crate) async fn checked(&self, view: &RoomView, raws: Vec<Box<RawValue>>) -> Vec<Pdu> {
        self.checked_or_needs(view, raws).await.0
    }

    async fn checked_or_needs(
        &self,
        view: &RoomView,
        raws: Vec<Box<RawValue>>,
    ) -> (Vec<Pdu>, Vec<Needed>) {
        let checked = self.checker.check(view.room_id(), view.rules(), raws).await;
        let (mut passed, mut needs) = (Vec::with_capacity(checked.len()), Vec::new());
        for event in checked {
            match event {
                Ok(pdu) => passed.push(pdu),
                Err(dropped) => {
                    tracing::debug!(room = %view.room_id(), event = ?dropped.event_id, reason = dropped.reason, "a fetched event was dropped");
                    needs.extend(dropped.needs);
                }
            }
        }
        (passed, needs)
    }

    pub(crate) async fn view(&self, room: &RoomId) -> Result<RoomView, FederationError> {
        let view = self.rooms.view(room).await?;
        Ok(view.ok_or_else(|| RoomError::UnknownRoom(room.to_owned()))?)
    }
}

/// Whether an event is here and can be part of a state: an invite that was taken without the room is not.
async fn is_known(view: &RoomView, id: &EventId) -> Result<bool, RoomError> {
    let row = view.event_row(id).await?;
    Ok(row.is_some_and(|(_, row)| row.place != Place::Unchecked))
}

fn unavailable(pdu: &Pdu) -> FederationError {
    FederationError::NotFound(format!(
        "{} refers to events that can't be had",
        pdu.event_id()
    ))
}
