//! Whether other servers have the same state of a room as we do (MSC4500).
//!
//! Every transaction says which states its sender has around its events. Where ours differ, the operator is
//! told, once in a while for each room, and it is found out in the background at which event the two servers
//! part. From there on it is judged again ([`heal`]). What the other server says never changes a state: it only tells
//! where to look.

pub mod check;
mod heal;
pub mod wire;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use resuni_rooms::{RoomView, Rooms, StateHash, StateHashes};
use resuni_store::SharedClock;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, serde::Raw};
use tokio::sync::Semaphore;

use crate::{client::Client, client::Terms, error::FederationError, fetch::Fetcher};
use wire::{Mismatch, Told, accumulated, accumulator, hex};

/// A room's difference is looked into, and logged, this often at most.
const QUIET_MS: u64 = 10 * 60_000;
/// Rooms that are looked into at the same time.
const AT_ONCE: usize = 8;
/// Rooms of which it is remembered when that was; with more in so short a time no others are looked into.
const MAX_ROOMS: usize = 10_000;
/// Accumulators that are asked for to find one event: twice the steps of a bisection of [`MAX_BACK`].
const MAX_ASKED: usize = 30;
/// How many events back it is looked.
const MAX_BACK: usize = 4_096;
/// An answer has 2 KiB of lattice.
const TERMS: Terms = Terms::BACKGROUND.up_to(16 << 10);

/// Compares states with those of other servers.
pub struct Divergences {
    rooms: Arc<Rooms>,
    client: Arc<Client>,
    fetcher: Arc<Fetcher>,
    clock: SharedClock,
    /// When a room's difference was last looked into.
    looked: Mutex<HashMap<OwnedRoomId, u64>>,
    looks: Arc<Semaphore>,
    found: AtomicU64,
}

/// Where two servers part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parting {
    /// The earliest event found after which the states differ.
    pub event: OwnedEventId,
    /// Whether they are known to be the same before it: then this very event was judged differently.
    pub same_before: bool,
}

/// How a server's state at an event compares with ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The same.
    Same,
    /// Another: ours and theirs.
    Differs(StateHash, StateHash),
    /// The server does not tell, or we don't know the state there ourselves.
    Unknown,
}

impl Divergences {
    /// Looks with `client` for what differs from `rooms`, and brings with `fetcher` what is missing here.
    #[must_use]
    pub fn new(
        rooms: Arc<Rooms>,
        client: Arc<Client>,
        fetcher: Arc<Fetcher>,
        clock: SharedClock,
    ) -> Self {
        Self {
            rooms,
            client,
            fetcher,
            clock,
            looked: Mutex::default(),
            looks: Arc::new(Semaphore::new(AT_ONCE)),
            found: AtomicU64::new(0),
        }
    }

    /// How many events came with a state that is not ours, since the start.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }

    /// Compares what `origin` says about the states around an event that was taken in with ours. Where we
    /// know none, nothing is said.
    ///
    /// # Errors
    /// When the room can't be read.
    pub async fn compare(
        self: &Arc<Self>,
        origin: &ServerName,
        view: &RoomView,
        event: &EventId,
        told: &Raw<Told>,
    ) -> Result<Option<Mismatch>, FederationError> {
        let Ok(told) = told.deserialize() else {
            return Ok(None);
        };
        let Some(ours) = view.state_hashes(event).await? else {
            return Ok(None);
        };
        metrics::counter!("resuni_federation_states_compared_total").increment(1);
        let own = Told::of(&ours);
        if own.before == told.before && own.after == told.after {
            return Ok(None);
        }
        self.found.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("resuni_federation_states_differing_total").increment(1);
        // Who says so in many rooms at once is looked after in a few of them at a time.
        if let Ok(permit) = Arc::clone(&self.looks).try_acquire_owned()
            && self.may_look(view.room_id())
        {
            warn(origin, view.room_id(), event, &ours, &told);
            let (this, origin) = (Arc::clone(self), origin.to_owned());
            let (room, event) = (view.room_id().to_owned(), event.to_owned());
            tokio::spawn(async move {
                this.look(&origin, &room, &event).await;
                drop(permit);
            });
        }
        Ok((own.after != told.after).then_some(Mismatch {
            expected_after: own.after,
            received_after: told.after,
        }))
    }

    /// Whether it is time to look into a room's difference. If so, it is not for a while.
    fn may_look(&self, room: &RoomId) -> bool {
        let now = self.clock.now_ms();
        let mut looked = self.looked.lock();
        if looked
            .get(room)
            .is_some_and(|at| now.saturating_sub(*at) < QUIET_MS)
        {
            return false;
        }
        if looked.len() >= MAX_ROOMS {
            looked.retain(|_, at| now.saturating_sub(*at) < QUIET_MS);
        }
        let may = looked.len() < MAX_ROOMS;
        if may {
            looked.insert(room.to_owned(), now);
        }
        may
    }

    async fn look(&self, server: &OwnedServerName, room: &RoomId, event: &EventId) {
        match self.locate(server, room, event).await {
            Ok(Some(parting)) => {
                let where_ = if parting.same_before {
                    "this event was judged differently"
                } else {
                    "the states differ from here on at least"
                };
                tracing::warn!(%room, %server, event = %parting.event, "{where_}");
                self.try_to_heal(server, room, event, parting).boxed().await;
            }
            Ok(None) => tracing::info!(%room, %server, "the states are the same again"),
            Err(error) => {
                tracing::info!(%room, %server, %error, "where the states part could not be found out");
            }
        }
    }

    /// How the state after an event compares with that of another server.
    ///
    /// # Errors
    /// When the server can't be reached, or its answer contradicts itself.
    pub async fn at(
        &self,
        server: &ServerName,
        view: &RoomView,
        event: &EventId,
    ) -> Result<Comparison, FederationError> {
        let Some(ours) = view.state_hashes(event).await? else {
            return Ok(Comparison::Unknown);
        };
        let request = accumulator::Request::new(view.room_id().to_owned(), event.to_owned());
        let answer = match self.client.send(server, request, TERMS).await {
            Ok(answer) => answer,
            // It does not know the event, or nothing of all this.
            Err(FederationError::Remote(remote))
                if remote.status == http::StatusCode::NOT_FOUND =>
            {
                return Ok(Comparison::Unknown);
            }
            Err(error) => return Err(error),
        };
        let theirs = accumulated(&answer)
            .filter(|_| answer.event_id == event)
            .ok_or_else(|| {
                FederationError::bad_answer(server, "the accumulator and its digest disagree")
            })?;
        Ok(if theirs.digest == ours.after.digest {
            Comparison::Same
        } else {
            Comparison::Differs(ours.after, theirs)
        })
    }

    /// Finds the earliest event, on the way back from `event`, after which the state differs from that of
    /// `server`. None if they agree. First in steps that double, then between the last two.
    ///
    /// # Errors
    /// As [`Divergences::at`].
    pub async fn locate(
        &self,
        server: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Option<Parting>, FederationError> {
        let view = self.rooms.view_known(room).await?;
        let mut asked = 0;
        if self.at(server, &view, event).await? == Comparison::Same {
            return Ok(None);
        }
        let mut way = vec![event.to_owned()];
        // `way[differs]` is known to differ; at `bound.0` it is the same, or (`bound.1` false) not known.
        let (mut differs, mut bound, mut step) = (0, None, 1);
        while bound.is_none() && asked < MAX_ASKED {
            let next = differs + step;
            extend(&view, &mut way, next).await?;
            let next = next.min(way.len() - 1);
            if next == differs {
                break;
            }
            asked += 1;
            match self.at(server, &view, &way[next]).await? {
                Comparison::Same => bound = Some((next, true)),
                Comparison::Differs(..) => differs = next,
                Comparison::Unknown => bound = Some((next, false)),
            }
            step *= 2;
        }
        while let Some((end, _)) = bound
            && end - differs > 1
            && asked < MAX_ASKED
        {
            let middle = differs + (end - differs) / 2;
            asked += 1;
            match self.at(server, &view, &way[middle]).await? {
                Comparison::Same => bound = Some((middle, true)),
                Comparison::Differs(..) => differs = middle,
                Comparison::Unknown => bound = Some((middle, false)),
            }
        }
        let same_before = bound == Some((differs + 1, true));
        Ok(Some(Parting {
            event: way.swap_remove(differs),
            same_before,
        }))
    }
}

/// Makes the way back reach the given length, by the first of each event's `prev_events` that we have, if
/// there is so much.
async fn extend(
    view: &RoomView,
    way: &mut Vec<OwnedEventId>,
    to: usize,
) -> Result<(), FederationError> {
    while way.len() <= to.min(MAX_BACK) {
        let Some(last) = way.last() else {
            return Ok(());
        };
        let Some(event) = view.event(last).await? else {
            return Ok(());
        };
        let mut parent = None;
        for id in event.pdu.prev_events() {
            if view.state_hashes(id).await?.is_some() {
                parent = Some(id.clone());
                break;
            }
        }
        match parent {
            Some(parent) => way.push(parent),
            None => return Ok(()),
        }
    }
    Ok(())
}

fn warn(origin: &ServerName, room: &RoomId, event: &EventId, ours: &StateHashes, told: &Told) {
    let (before, after) = (hex(&ours.before.digest), hex(&ours.after.digest));
    tracing::warn!(
        %room, server = %origin, %event, before, after, entries = ours.after.count,
        their_before = told.before, their_after = told.after, their_entries = %told.n_after,
        "the state of a room is another there; `resuni room check` compares it with every server"
    );
}
