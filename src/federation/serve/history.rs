//! Events, states and auth chains for servers that are in the room, or were at the events asked for.

use std::collections::{BinaryHeap, HashSet};

use resuni_dag::{Pdu, redact};
use resuni_rooms::{
    EventHash, EventNum, RoomError, RoomView, ServerViewer, StoredEvent,
    tables::{EVENT_IDS, EVENTS, Place},
};
use resuni_store::Direction;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, ServerName, UInt, api,
    api::federation::{
        authorization::get_event_authorization::v1 as event_auth,
        backfill::get_backfill::v1 as backfill,
        event::{
            get_event::v1 as get_event, get_event_by_timestamp::v1 as by_timestamp,
            get_missing_events::v1 as missing_events, get_room_state::v1 as room_state,
            get_room_state_ids::v1 as state_ids,
        },
    },
    serde::Base64,
};
use serde_json::value::RawValue;

use super::{Serve, unknown_event};
use crate::{
    auth_chain,
    divergence::wire::{accumulator, hex},
    error::FederationError,
    handshake::raw,
};

/// Events of one answer to `backfill`.
const MAX_BACKFILL: usize = 100;
/// Events of one answer to `get_missing_events`.
const MAX_MISSING: usize = 50;
/// Event ids of one request.
const MAX_IDS: usize = 100;

impl Serve {
    /// `GET /v1/event/{eventId}`.
    ///
    /// # Errors
    /// 404 when the event is unknown or of a room that the server is not in: the answer does not tell which.
    pub async fn event(
        &self,
        origin: &ServerName,
        request: get_event::Request,
    ) -> Result<get_event::Response, FederationError> {
        let unknown = || unknown_event(&request.event_id);
        let snapshot = self.rooms.store().snapshot();
        let hash = EventHash::of(&request.event_id);
        let num = snapshot.get(&EVENT_IDS, &hash).await?.ok_or_else(unknown)?;
        let row = snapshot.get(&EVENTS, &num).await?.ok_or_else(unknown)?;
        let view = self.rooms.view_num(row.room).await?.ok_or_else(unknown)?;
        let at = std::slice::from_ref(&request.event_id);
        let view = self
            .room_at(origin, view.room_id(), at)
            .await
            .map_err(|_| unknown())?;
        let event = view.event(&request.event_id).await?.ok_or_else(unknown)?;
        let mut viewer = view.server_viewer(origin).await?;
        let pdu = shown(&view, &mut viewer, event)
            .await?
            .ok_or_else(unknown)?;
        Ok(get_event::Response::new(
            self.own.clone(),
            self.now(),
            raw(&pdu)?,
        ))
    }

    /// `GET /v1/state/{roomId}`: the state before an event, and its auth chain.
    ///
    /// # Errors
    /// 403 for servers that are not in the room, 404 for events that are not.
    pub async fn state(
        &self,
        origin: &ServerName,
        request: room_state::Request,
    ) -> Result<room_state::Response, FederationError> {
        let view = self
            .settled_room(origin, &request.room_id, &request.event_id)
            .await?;
        let (state, chain) = state_before(&view, &request.event_id).await?;
        let state = raws(&view.pdus(&state).await?)?;
        Ok(room_state::Response::new(
            raws(&view.pdus(&chain).await?)?,
            state,
        ))
    }

    /// `GET /v1/state_ids/{roomId}`.
    ///
    /// # Errors
    /// As [`Serve::state`].
    pub async fn state_ids(
        &self,
        origin: &ServerName,
        request: state_ids::Request,
    ) -> Result<state_ids::Response, FederationError> {
        let view = self
            .settled_room(origin, &request.room_id, &request.event_id)
            .await?;
        let (state, chain) = state_before(&view, &request.event_id).await?;
        Ok(state_ids::Response::new(
            ids(&view, &chain).await?,
            ids(&view, &state).await?,
        ))
    }

    /// `GET …/state_accumulator/{roomId}?event_id=…` (MSC4500): what the state after an event adds up to.
    ///
    /// # Errors
    /// 403 for servers that are not in the room, 404 where the state is not known, 429 for who asks too often.
    pub async fn state_accumulator(
        &self,
        origin: &ServerName,
        request: accumulator::Request,
    ) -> Result<accumulator::Response, FederationError> {
        let view = self.shared_room(origin, &request.room_id).await?;
        let asker = (origin.to_owned(), request.room_id.clone());
        self.accumulators
            .take(&asker, self.clock.now_ms())
            .map_err(|wait| FederationError::TooOften {
                retry_after_ms: wait.ms,
            })?;
        let (lattice, hash) = view
            .accumulator(&request.event_id)
            .await?
            .ok_or_else(|| unknown_event(&request.event_id))?;
        Ok(accumulator::Response {
            event_id: request.event_id,
            algorithm: accumulator::Response::ALGORITHM.to_owned(),
            lattice: Base64::new(lattice.to_bytes().to_vec()),
            n_state_events: UInt::new_saturating(hash.count),
            digest: hex(&hash.digest),
        })
    }

    /// `GET /v1/event_auth/{roomId}/{eventId}`.
    ///
    /// # Errors
    /// As [`Serve::state`].
    pub async fn event_auth(
        &self,
        origin: &ServerName,
        request: event_auth::Request,
    ) -> Result<event_auth::Response, FederationError> {
        let at = std::slice::from_ref(&request.event_id);
        let view = self.room_at(origin, &request.room_id, at).await?;
        let event = view.event_row(&request.event_id).await?;
        let (num, _) = event
            .filter(|(_, row)| row.place != Place::Unchecked)
            .ok_or_else(|| unknown_event(&request.event_id))?;
        let chain = auth_chain::of(&view, &[num]).await?;
        Ok(event_auth::Response::new(raws(&view.pdus(&chain).await?)?))
    }

    /// `GET /v1/backfill/{roomId}`: the events asked for and what came before them, newest first.
    ///
    /// # Errors
    /// 403 for servers that are not in the room.
    pub async fn backfill(
        &self,
        origin: &ServerName,
        request: backfill::Request,
    ) -> Result<backfill::Response, FederationError> {
        let view = self.room_at(origin, &request.room_id, &request.v).await?;
        let limit = usize::try_from(u64::from(request.limit))
            .unwrap_or(usize::MAX)
            .min(MAX_BACKFILL);
        let mut walk = Walk::new(&view, HashSet::new(), 0);
        for id in request.v.iter().take(MAX_IDS) {
            walk.add(id).await?;
        }
        let events = walk.take(limit).await?;
        let pdus = self.visible(&view, origin, events).await?;
        Ok(backfill::Response::new(self.own.clone(), self.now(), pdus))
    }

    /// `POST /v1/get_missing_events/{roomId}`: what lies between two sets of events, oldest first.
    ///
    /// # Errors
    /// 403 for servers that are not in the room.
    pub async fn missing_events(
        &self,
        origin: &ServerName,
        request: missing_events::Request,
    ) -> Result<missing_events::Response, FederationError> {
        let latest = &request.latest_events;
        let view = self.room_at(origin, &request.room_id, latest).await?;
        let limit = usize::try_from(u64::from(request.limit))
            .unwrap_or(usize::MAX)
            .min(MAX_MISSING);
        let earliest = request
            .earliest_events
            .iter()
            .take(MAX_IDS)
            .cloned()
            .collect();
        let mut walk = Walk::new(&view, earliest, u64::from(request.min_depth));
        for id in request.latest_events.iter().take(MAX_IDS) {
            walk.add_parents(id).await?;
        }
        let mut events = walk.take(limit).await?;
        events.reverse();
        Ok(missing_events::Response::new(
            self.visible(&view, origin, events).await?,
        ))
    }

    /// `GET /v1/timestamp_to_event/{roomId}`: the event nearest to a time that the server may see.
    ///
    /// # Errors
    /// 403 for servers that are not in the room, 404 when there is none.
    pub async fn event_at_time(
        &self,
        origin: &ServerName,
        request: by_timestamp::Request,
    ) -> Result<by_timestamp::Response, FederationError> {
        let view = self.shared_room(origin, &request.room_id).await?;
        let dir = match request.dir {
            api::Direction::Forward => Direction::Forward,
            api::Direction::Backward => Direction::Backward,
        };
        let mut viewer = view.server_viewer(origin).await?;
        for event in view.events_at_time(request.ts.get().into(), dir).await? {
            if viewer.sees(event.row.snap_before, &event.row.pdu).await? {
                let time = UInt::new_saturating(event.fields().timestamp());
                return Ok(by_timestamp::Response::new(
                    event.event_id(),
                    MilliSecondsSinceUnixEpoch(time),
                ));
            }
        }
        Err(FederationError::NotFound(
            "there is no event of this time".to_owned(),
        ))
    }

    /// The events as the server may see them. What it may not see it gets redacted, so that it can
    /// still build on it.
    async fn visible(
        &self,
        view: &RoomView,
        origin: &ServerName,
        events: Vec<StoredEvent>,
    ) -> Result<Vec<Box<RawValue>>, FederationError> {
        let mut viewer = view.server_viewer(origin).await?;
        let mut pdus = Vec::with_capacity(events.len());
        for event in events {
            if let Some(pdu) = shown(view, &mut viewer, event).await? {
                pdus.push(raw(&pdu)?);
            }
        }
        Ok(pdus)
    }
}

/// An event as `viewer` may see it: whole, or redacted. Rejected ones are shown to nobody; outliers
/// are, if they are state, since they are part of the auth chains that servers in the room may have anyway.
async fn shown(
    view: &RoomView,
    viewer: &mut ServerViewer,
    event: StoredEvent,
) -> Result<Option<Pdu>, FederationError> {
    let whole = match event.row.place {
        Place::Rejected | Place::Unchecked => return Ok(None),
        Place::Outlier if !event.pdu.is_state() => return Ok(None),
        Place::Outlier => true,
        Place::Timeline { .. } | Place::SoftFailed => {
            viewer.sees(event.row.snap_before, event.pdu.json()).await?
        }
    };
    if whole {
        // What was redacted since is sent as it was signed: the redaction is an event of its own.
        Ok(Some(event.pdu))
    } else {
        Ok(Some(
            redact(&event.pdu, view.rules()).map_err(RoomError::from)?,
        ))
    }
}

/// The state before an event of this room, and its auth chain.
async fn state_before(
    view: &RoomView,
    event: &EventId,
) -> Result<(Vec<EventNum>, Vec<EventNum>), FederationError> {
    // Of an event of another room nothing is said, whatever the server may see there.
    let (_, row) = view
        .event_row(event)
        .await?
        .ok_or_else(|| unknown_event(event))?;
    if !matches!(row.place, Place::Timeline { .. } | Place::SoftFailed) {
        return Err(unknown_event(event));
    }
    let state = view.state_before(event).await?.nums().await?;
    let chain = auth_chain::of(view, &state).await?;
    Ok((state, chain))
}

async fn ids(view: &RoomView, nums: &[EventNum]) -> Result<Vec<OwnedEventId>, FederationError> {
    let rows = view.snapshot().get_many(&EVENTS, nums).await?;
    Ok(rows
        .into_iter()
        .flatten()
        .map(|row| row.id.to_id())
        .collect())
}

pub(super) fn raws(pdus: &[Pdu]) -> Result<Vec<Box<RawValue>>, FederationError> {
    pdus.iter().map(raw).collect()
}

/// Walks the graph from newer to older events, the deepest first.
struct Walk<'a> {
    view: &'a RoomView,
    seen: HashSet<OwnedEventId>,
    min_depth: u64,
    heap: BinaryHeap<(u64, EventNum, OwnedEventId)>,
}

impl<'a> Walk<'a> {
    fn new(view: &'a RoomView, not: HashSet<OwnedEventId>, min_depth: u64) -> Self {
        Self {
            view,
            seen: not,
            min_depth,
            heap: BinaryHeap::new(),
        }
    }

    /// Begins at this event, if it is in the room's graph.
    async fn add(&mut self, id: &EventId) -> Result<(), FederationError> {
        if !self.seen.insert(id.to_owned()) {
            return Ok(());
        }
        if let Some((num, row)) = self.view.event_row(id).await?
            && row.place.has_state()
            && row.depth >= self.min_depth
        {
            self.heap.push((row.depth, num, id.to_owned()));
        }
        Ok(())
    }

    /// Begins just before this event.
    async fn add_parents(&mut self, id: &EventId) -> Result<(), FederationError> {
        self.seen.insert(id.to_owned());
        if let Some(event) = self.view.event(id).await? {
            for parent in event.pdu.prev_events() {
                self.add(parent).await?;
            }
        }
        Ok(())
    }

    /// The next `limit` events.
    async fn take(mut self, limit: usize) -> Result<Vec<StoredEvent>, FederationError> {
        let mut found = Vec::new();
        while found.len() < limit {
            let Some((_, _, id)) = self.heap.pop() else {
                break;
            };
            let Some(event) = self.view.event(&id).await? else {
                continue;
            };
            for parent in event.pdu.prev_events() {
                self.add(parent).await?;
            }
            found.push(event);
        }
        Ok(found)
    }
}
