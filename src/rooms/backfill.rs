//! History that is fetched later: events that come before one we have.

use std::collections::{HashMap, HashSet};

use resuni_dag::{Edges, Pdu, topological_order};
use resuni_store::{Direction, ScanRange};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};

use crate::{
    delta::{self, Judged},
    error::RoomError,
    line::Line,
    plan::Verdict,
    receive::Refs,
    rooms::Rooms,
    tables::{Given, Place, TIMELINE},
    work::Era,
};

/// Events that are laid at a time: a batch and a lane's patience are bounded.
pub const MAX_BACKFILL: usize = 500;

/// What became of a piece of history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backfilled {
    /// How many events are in the timeline now that were not before.
    pub laid: usize,
    /// Events that could not be laid because the state before them is not known: fetch it, keep it with
    /// `receive_outliers`, and come again with it in `states`.
    pub need_state: Vec<OwnedEventId>,
    /// Auth events that are not known: fetch these, keep them with `receive_outliers`, and come again.
    pub need_auth: Vec<OwnedEventId>,
}

impl Rooms {
    /// Lays history just before the event `gap`, which is in the timeline: `pdus` in any order, signatures and hashes
    /// checked. `states` gives for the oldest of them, whose `prev_events` we don't have, the ids of the state before.
    /// History is judged by its auth events and by the state before it; the current state is not asked.
    pub async fn backfill(
        &self,
        room: &RoomId,
        gap: &EventId,
        pdus: Vec<Pdu>,
        mut states: HashMap<OwnedEventId, Vec<OwnedEventId>>,
    ) -> Result<Backfilled, RoomError> {
        let room: OwnedRoomId = room.to_owned();
        let mut lane = self.lanes.enter(&room).await;
        let line = Line::open(self, &mut lane, &room).await?;
        let mut line = line.ok_or_else(|| RoomError::UnknownRoom(room.clone()))?;
        line.work.era = Era::History;
        let mut done = Backfilled::default();
        let (mut accepted, mut waiting) = (Vec::new(), HashSet::new());
        let own = pdus
            .into_iter()
            .filter(|pdu| pdu.room_id() == room)
            .take(MAX_BACKFILL);
        let own = line.leading_to(gap, own).await?;
        for pdu in topological_order(own, Edges::Prev) {
            let state = states.remove(pdu.event_id());
            accepted.extend(
                line.judge_history(pdu, state, &mut done, &mut waiting)
                    .await?,
            );
        }
        done.laid = accepted.len();
        line.lay_before(gap, accepted).await?;
        line.finish(lane).await?.durable().await?;
        Ok(done)
    }
}

impl Line<'_> {
    /// Those events that lead to `gap` without passing one that has its place in the timeline: the answer to a
    /// `/backfill` goes on beyond what is missing, and older history has its place before an older event.
    async fn leading_to(
        &self,
        gap: &EventId,
        pdus: impl Iterator<Item = Pdu>,
    ) -> Result<Vec<Pdu>, RoomError> {
        let mut offered: HashMap<OwnedEventId, Pdu> =
            pdus.map(|pdu| (pdu.event_id().to_owned(), pdu)).collect();
        let mut found = Vec::new();
        let reader = &self.work.reader;
        let Some(num) = reader.event_num(gap).await? else {
            return Ok(found);
        };
        let mut todo = reader.pdu(num).await?.prev_events().to_vec();
        while let Some(id) = todo.pop() {
            let Some(pdu) = offered.remove(&id) else {
                continue;
            };
            if let Some(num) = reader.event_num(&id).await?
                && matches!(reader.event_row(num).await?.place, Place::Timeline { .. })
            {
                continue;
            }
            todo.extend_from_slice(pdu.prev_events());
            found.push(pdu);
        }
        Ok(found)
    }

    /// Judges one event of the history; what is accepted gets its place when it is known how many there are. Until then it
    /// reads as rejected or accepted with its states, so that those after it can be judged.
    async fn judge_history(
        &mut self,
        pdu: Pdu,
        state: Option<Vec<OwnedEventId>>,
        done: &mut Backfilled,
        waiting: &mut HashSet<OwnedEventId>,
    ) -> Result<Option<Judged>, RoomError> {
        if let Some(num) = self.work.reader.event_num(pdu.event_id()).await?
            && self.work.reader.event_row(num).await?.place.has_state()
        {
            return Ok(None);
        }
        let refs = Refs::of(&self.work, self.live.num, &pdu).await?;
        if !refs.missing_auth.is_empty() {
            done.need_auth.extend(refs.missing_auth);
            return Ok(None);
        }
        let mut told = Given::Nothing;
        let before = match (refs.missing_prev.is_empty(), state) {
            (true, _) => self.state_before(&refs.prev, None).await?,
            (false, None) => {
                // What follows an event that waits for its state can wait with it.
                let alone = refs.missing_prev.iter().any(|prev| !waiting.contains(prev));
                waiting.insert(pdu.event_id().to_owned());
                done.need_state
                    .extend(alone.then(|| pdu.event_id().to_owned()));
                return Ok(None);
            }
            (false, Some(ids)) => match self.given_state(ids).await? {
                Ok(given) => {
                    told = Given::State(given);
                    self.state_before(&refs.prev, Some(given)).await?
                }
                Err(missing) => {
                    done.need_auth.extend(missing);
                    return Ok(None);
                }
            },
        };
        let before = self.learn(before, &refs.auth).await?;
        let verdict = self.judge_in(&pdu, &refs.auth, before, false).await?;
        let event = self
            .judged(pdu, refs.auth, before, verdict == Verdict::Accept)
            .await?;
        let event = Judged {
            given: told,
            ..event
        };
        if let Verdict::Reject(reason) | Verdict::SoftFail(reason) = verdict {
            let event = Judged {
                place: Place::Rejected,
                reason: Some(reason),
                ..event
            };
            delta::put_event(&mut self.work, self.live.num, event).await?;
            return Ok(None);
        }
        delta::foresee(&mut self.work, self.live.num, &event).await?;
        Ok(Some(event))
    }

    /// Gives events, oldest first, the free places before `gap`: below all that are taken at its position.
    async fn lay_before(&mut self, gap: &EventId, events: Vec<Judged>) -> Result<(), RoomError> {
        let num = self.work.reader.event_num(gap).await?;
        let place = match num {
            Some(num) => {
                Some(self.work.reader.event_row(num).await?).filter(|row| row.room == self.live.num)
            }
            None => None,
        };
        let Some(Place::Timeline { position, .. }) = place.map(|row| row.place) else {
            return Err(RoomError::NotFound(format!(
                "the event {gap} is not in the timeline of this room"
            )));
        };
        let range = ScanRange::prefix(&(self.live.num, position));
        let lowest = self
            .work
            .reader
            .snapshot
            .scan(&TIMELINE, range, Direction::Forward, 1)
            .await?;
        let lowest = lowest.first().map_or(u32::MAX, |((_, _, sub), _)| *sub);
        let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        let first = lowest.checked_sub(count).ok_or_else(|| {
            RoomError::TooLarge(format!(
                "no more history can be laid before the event {gap}"
            ))
        })?;
        let laid: Vec<_> = events
            .iter()
            .map(|event| (event.num, event.pdu.clone()))
            .collect();
        for (sub, event) in (first..lowest).zip(events) {
            let place = Place::Timeline { position, sub };
            delta::put_event(&mut self.work, self.live.num, Judged { place, ..event }).await?;
        }
        self.lay_sticky_history(&laid).await
    }
}
