//! Events of other servers. Format, signatures and hashes were checked before they get here.

use std::collections::HashSet;

use resuni_dag::{Pdu, create_event_id, limits};
use resuni_store::{Position, StoreError};
use ruma::{OwnedEventId, OwnedRoomId, RoomId};

use crate::{
    build,
    delta::{self, Judged},
    error::RoomError,
    events::Received,
    line::Line,
    plan::{AuthState, Case, Verdict, judge},
    policy::NOT_RECOMMENDED,
    resolve,
    rooms::Rooms,
    send::again,
    tables::{Given, Place},
    types::{EventNum, RoomNum, SnapNum},
    work::Work,
};

/// How far the way from an event to the extremities it follows may lead over soft-failed and rejected events.
const DETOUR: usize = 100;

impl Rooms {
    /// An event of another server: the checks on receipt from the auth events on, and what follows from them.
    pub async fn receive(&self, room: &RoomId, pdu: Pdu) -> Result<Received, RoomError> {
        self.receive_with(room, pdu, None).await
    }

    /// The same for an event some of whose `prev_events` can't be had: `state` is the state before it, as another server
    /// gives it. All of it must be known, as outliers at least.
    pub async fn receive_at_gap(
        &self,
        room: &RoomId,
        pdu: Pdu,
        state: Vec<OwnedEventId>,
    ) -> Result<Received, RoomError> {
        self.receive_with(room, pdu, Some(state)).await
    }

    /// Ends a fork of the room, if it has one now, with an event of one of our members that says nothing: who has only
    /// one of its ends, as a server that just joined there, learns of the others by it.
    pub async fn end_fork(&self, room: &RoomId) -> Result<(), RoomError> {
        let room: OwnedRoomId = room.to_owned();
        let mut lane = self.lanes.enter(&room).await;
        let Some(mut line) = Line::open(self, &mut lane, &room).await? else {
            return Ok(());
        };
        line.tie(1).await?;
        line.finish(lane).await?.durable().await?;
        Ok(())
    }

    async fn receive_with(
        &self,
        room: &RoomId,
        pdu: Pdu,
        state: Option<Vec<OwnedEventId>>,
    ) -> Result<Received, RoomError> {
        if pdu.room_id() != room {
            return Err(RoomError::bad(
                "M_INVALID_PARAM",
                format!("the event {} is of another room", pdu.event_id()),
            ));
        }
        let (pdu, unwanted) = self.heed_policy(room, pdu).await?;
        again(|| self.try_receive(room, pdu.clone(), state.clone(), unwanted)).await
    }

    async fn try_receive(
        &self,
        room: &RoomId,
        pdu: Pdu,
        state: Option<Vec<OwnedEventId>>,
        unwanted: bool,
    ) -> Result<Received, RoomError> {
        let room: OwnedRoomId = room.to_owned();
        let mut lane = self.lanes.enter(&room).await;
        let Some(mut line) = Line::open(self, &mut lane, &room).await? else {
            return Ok(Received::Known);
        };
        // A room that none of our users is in any more goes on without us.
        if line.live.head.is_none() || !delta::has_local_members(&line.work, line.live.num).await? {
            lane.leave(line.live);
            return Ok(Received::Known);
        }
        let received = line.receive(pdu, state, unwanted).await?;
        match received {
            Received::Missing { .. } => lane.leave(line.live),
            Received::Known => {
                lane.leave(line.live);
                self.settle().await?;
            }
            _ => {
                let positions = line.finish(lane).await?.durable().await?;
                if let Some(position) = positions.first() {
                    return Ok(Received::Accepted {
                        position: *position,
                    });
                }
            }
        }
        Ok(received)
    }
}

/// What an event refers to, by number.
#[derive(Default)]
pub(crate) struct Refs {
    pub prev: Vec<EventNum>,
    pub auth: Vec<EventNum>,
    pub missing_prev: Vec<OwnedEventId>,
    pub missing_auth: Vec<OwnedEventId>,
}

impl Refs {
    pub async fn of(work: &Work<'_>, room: RoomNum, pdu: &Pdu) -> Result<Self, RoomError> {
        let mut refs = Self::default();
        for id in pdu.prev_events() {
            let Some(num) = work.reader.event_num(id).await? else {
                refs.missing_prev.push(id.clone());
                continue;
            };
            let row = work.reader.event_row(num).await?;
            if row.room != room {
                let message = format!(
                    "the event {} follows {id}, which is of another room",
                    pdu.event_id()
                );
                return Err(RoomError::bad("M_INVALID_PARAM", message));
            }
            // Of an outlier no state is known, so nothing can follow it yet.
            match row.place.has_state() {
                true => refs.prev.push(num),
                false => refs.missing_prev.push(id.clone()),
            }
        }
        (refs.auth, refs.missing_auth) = auth_of(work, pdu).await?;
        Ok(refs)
    }
}

/// The auth events that we have, and the ids of those that we don't.
pub(crate) async fn auth_of(
    work: &Work<'_>,
    pdu: &Pdu,
) -> Result<(Vec<EventNum>, Vec<OwnedEventId>), StoreError> {
    let (mut known, mut missing) = (Vec::new(), Vec::new());
    for id in pdu.auth_events() {
        match work.reader.event_num(id).await? {
            Some(num) if work.reader.event_row(num).await?.place != Place::Unchecked => {
                known.push(num)
            }
            _ => missing.push(id.clone()),
        }
    }
    Ok((known, missing))
}

/// The auth events themselves, and the create event, which no event names in room version 12.
pub(crate) async fn auth_pdus(
    work: &Work<'_>,
    pdu: &Pdu,
    auth: &[EventNum],
) -> Result<Vec<Pdu>, StoreError> {
    let mut pdus = Vec::with_capacity(auth.len() + 1);
    for num in auth {
        pdus.push(work.reader.judged(*num).await?);
    }
    if let Some(create) = create_event_id(pdu.room_id())
        && let Some(num) = work.reader.event_num(&create).await?
        && !auth.contains(&num)
    {
        pdus.push(work.reader.judged(num).await?);
    }
    Ok(pdus)
}

impl Line<'_> {
    async fn receive(
        &mut self,
        pdu: Pdu,
        state: Option<Vec<OwnedEventId>>,
        unwanted: bool,
    ) -> Result<Received, RoomError> {
        if let Some(num) = self.work.reader.event_num(pdu.event_id()).await?
            && self.work.reader.event_row(num).await?.place.has_state()
        {
            return Ok(Received::Known);
        }
        let refs = Refs::of(&self.work, self.live.num, &pdu).await?;
        let gap = !refs.missing_prev.is_empty();
        if !refs.missing_auth.is_empty() || (gap && state.is_none()) {
            return Ok(Received::Missing {
                prev: refs.missing_prev,
                auth: refs.missing_auth,
            });
        }
        let mut given = Given::Nothing;
        let before = match state.filter(|_| gap) {
            Some(state) => match self.given_state(state).await? {
                Ok(state) => {
                    given = Given::State(state);
                    self.state_before(&refs.prev, Some(state)).await?
                }
                Err(missing) => {
                    return Ok(Received::Missing {
                        prev: refs.missing_prev,
                        auth: missing,
                    });
                }
            },
            None => self.state_before(&refs.prev, None).await?,
        };
        let before = self.learn(before, &refs.auth).await?;
        let verdict = match self.judge_in(&pdu, &refs.auth, before, true).await? {
            // Check 7, the policy server's.
            Verdict::Accept if unwanted => Verdict::SoftFail(NOT_RECOMMENDED.to_owned()),
            verdict => verdict,
        };
        self.keep(pdu, refs, (before, given), verdict).await
    }

    /// The state that is made of these events; or those of them that we don't have. Rejected ones are left out.
    pub async fn given_state(
        &mut self,
        ids: Vec<OwnedEventId>,
    ) -> Result<Result<SnapNum, Vec<OwnedEventId>>, RoomError> {
        let (mut entries, mut missing) = (Vec::with_capacity(ids.len()), Vec::new());
        for id in ids {
            let row = match self.work.reader.event_num(&id).await? {
                Some(num) => Some((num, self.work.reader.event_row(num).await?)),
                None => None,
            };
            let Some((num, row)) = row.filter(|(_, row)| row.place != Place::Unchecked) else {
                missing.push(id);
                continue;
            };
            if let (Some(key), true) = (
                row.state_key,
                row.room == self.live.num && row.place != Place::Rejected,
            ) {
                entries.push((key, num));
            }
        }
        if !missing.is_empty() {
            return Ok(Err(missing));
        }
        let near = self
            .live
            .head
            .as_ref()
            .map_or(SnapNum::EMPTY, |head| head.snap);
        Ok(Ok(self.work.state_of(near, entries, false).await?))
    }

    /// The state before an event: that after all it follows, resolved.
    pub async fn state_before(
        &mut self,
        prev: &[EventNum],
        given: Option<SnapNum>,
    ) -> Result<SnapNum, RoomError> {
        let head = self.live.head.as_ref();
        if let (None, Some(head)) = (given, head)
            && prev.len() == head.extremities.len()
            && head.extremities.iter().all(|tip| prev.contains(tip))
        {
            return Ok(head.snap);
        }
        let mut snaps: Vec<SnapNum> = given.into_iter().collect();
        for event in prev {
            snaps.push(self.work.reader.event_row(*event).await?.snap_after);
        }
        resolve::resolve_states(&mut self.work, &self.live, snaps).await
    }

    /// Checks 4 to 6; the last only where the current state matters.
    pub async fn judge_in(
        &mut self,
        pdu: &Pdu,
        auth: &[EventNum],
        before: SnapNum,
        by_current: bool,
    ) -> Result<Verdict, RoomError> {
        let head = self.live.head.as_ref().map(|head| head.snap);
        let current = match head.filter(|head| by_current && *head != before) {
            Some(head) => Some(self.learn_of(head, auth, Some(pdu.sender())).await?),
            None => None,
        };
        let reader = &self.work.reader;
        let auth = auth_pdus(&self.work, pdu, auth).await?;
        let current = match current {
            Some(snap) => Some(AuthState::read(reader, snap, pdu, self.work.rules).await?),
            None => None,
        };
        Ok(judge(&Case {
            pdu,
            rules: self.work.rules,
            auth: &auth,
            before: &AuthState::read(reader, before, pdu, self.work.rules).await?,
            current: current.as_ref(),
        }))
    }

    async fn keep(
        &mut self,
        pdu: Pdu,
        refs: Refs,
        (before, given): (SnapNum, Given),
        verdict: Verdict,
    ) -> Result<Received, RoomError> {
        let rejected = matches!(verdict, Verdict::Reject(_));
        let mut event = self.judged(pdu, refs.auth, before, !rejected).await?;
        event.given = given;
        let (place, reason) = match verdict {
            Verdict::Accept => {
                let follows = self.followed(refs.prev).await?;
                self.extend(event, &follows, 0).await?;
                // Otherwise a server that forks the room could make every later event as expensive as it likes.
                self.tie(limits::PREV_EVENTS).await?;
                // The position is known when the batch is.
                return Ok(Received::Accepted {
                    position: Position(0),
                });
            }
            Verdict::SoftFail(reason) => (Place::SoftFailed, reason),
            Verdict::Reject(reason) => (Place::Rejected, reason),
        };
        tracing::info!(room = %self.live.room_id, event = %event.pdu.event_id(), ?place, reason, "an event was refused");
        (event.place, event.reason) = (place, Some(reason.clone()));
        delta::put_event(&mut self.work, self.live.num, event).await?;
        Ok(match place {
            Place::SoftFailed => Received::SoftFailed,
            _ => Received::Rejected { reason },
        })
    }

    /// An event of another server with all that is written of it but its place.
    pub async fn judged(
        &mut self,
        pdu: Pdu,
        auth: Vec<EventNum>,
        before: SnapNum,
        accepted: bool,
    ) -> Result<Judged, RoomError> {
        let num = self.work.event(pdu.event_id()).await?;
        let after = if accepted {
            self.state_with(before, num, &pdu).await?
        } else {
            before
        };
        let generation = build::generation(&self.work, &auth).await?;
        let now = self.work.rooms.clock.now_ms();
        let (place, reason, txn) = (Place::Outlier, None, None);
        Ok(Judged {
            num,
            pdu,
            place,
            reason,
            before,
            after,
            auth,
            generation,
            new: false,
            txn,
            now,
            given: Given::Nothing,
        })
    }

    /// The extremities that an event with these `prev_events` takes the place of: also those that it follows over events
    /// that were refused, which are no extremities themselves.
    pub async fn followed(&self, prev: Vec<EventNum>) -> Result<HashSet<EventNum>, StoreError> {
        let mut found = HashSet::new();
        let mut todo = prev;
        let mut detours = 0;
        while let Some(num) = todo.pop() {
            if !found.insert(num)
                || self.live.tips.iter().any(|tip| tip.event == num)
                || detours > DETOUR
            {
                continue;
            }
            let row = self.work.reader.event_row(num).await?;
            if matches!(row.place, Place::SoftFailed | Place::Rejected) {
                detours += 1;
                for id in self.work.reader.pdu_of(num, &row).await?.prev_events() {
                    todo.extend(self.work.reader.event_num(id).await?);
                }
            }
        }
        Ok(found)
    }
}
