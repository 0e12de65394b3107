//! Extending a room: one or more events, one after the other, in one batch.

use std::collections::HashSet;

use resuni_dag::{Pdu, limits};
use resuni_store::{Applied, Batch, Direction, Position, ScanRange, StoreError};
use ruma::{OwnedEventId, RoomId, UserId};
use serde_json::value::RawValue;

use crate::{
    build::{self, Spot},
    delta::{self, Judged},
    error::RoomError,
    events::{NewEvent, SAYS_NOTHING, TxnKey},
    lane::{Lane, Live, Tip},
    partial::{Told, Whole},
    plan::{Verdict, judge_own},
    receive::Refs,
    resolve,
    rooms::Rooms,
    tables::{Given, Head, LOCAL_MEMBERS, Place, STATE_AT, TOPIC_EVENT, flags},
    types::{EventNum, SnapNum, server_of},
    work::{Era, Work},
};

/// Forward extremities of a room at the most. More would come about only where nobody of ours may tie them (see
/// [`Line::tie`]), and each makes every further event dearer, as the current state is resolved from the states of all. A
/// further one is none before an event follows it. Those that are there stay, so that a flood of branches can't push out
/// what they take into account; the states around events do not depend on it.
pub(crate) const MAX_EXTREMITIES: usize = 100;

/// Our members who are asked to tie loose ends until one may.
const TIERS: usize = 5;

/// A room whose lane we have, with the batch that extends it.
pub(crate) struct Line<'a> {
    pub work: Work<'a>,
    /// The room as it will be.
    pub live: Live,
    /// The head as it is in the store: the guard.
    original: Option<Head>,
    /// Events that are laid at the end, in their order. Their positions are reserved last of all, because everybody's
    /// watermark waits for them.
    pub said: Vec<Said>,
    /// Our join brought a partial state along.
    pub told: Option<Told>,
    /// The state becomes whole with this batch, or is judged again.
    pub whole: Option<Whole>,
}

pub(crate) struct Said {
    pub event: Judged,
    /// The current state after it.
    pub snap: SnapNum,
    pub flags: u8,
}

/// A batch that was applied.
#[must_use = "nothing is acknowledged before it is durable"]
pub(crate) struct Finished {
    applied: Applied,
    /// The positions of the events that were laid at the end, in their order.
    pub positions: Vec<Position>,
}

impl Finished {
    /// Waits until it is on disk.
    pub async fn durable(self) -> Result<Vec<Position>, StoreError> {
        self.applied.durable().await?;
        Ok(self.positions)
    }
}

impl<'a> Line<'a> {
    /// The room as the last writer left it. `None` if we have nothing of it.
    pub async fn open(
        rooms: &'a Rooms,
        lane: &mut Lane,
        room: &RoomId,
    ) -> Result<Option<Self>, RoomError> {
        let reader = rooms.reader();
        let live = match lane.take() {
            Some(live) => live,
            None => {
                let Some(num) = reader.room_num(room).await? else {
                    return Ok(None);
                };
                let Some(live) = Live::read(&reader, num).await? else {
                    return Ok(None);
                };
                live
            }
        };
        let anchor = live.head.as_ref().map(|head| (live.num, head.snap));
        let work = Work::new(rooms, reader, live.rules, anchor);
        Ok(Some(Self::of(work, live)))
    }

    /// A room that begins, or goes on, with this batch.
    pub fn of(mut work: Work<'a>, live: Live) -> Self {
        let partial = |head: &Head| head.whole_since.is_none();
        if live.head.as_ref().is_some_and(partial) {
            work.era = Era::Partial;
        }
        Self {
            work,
            original: live.head.clone(),
            live,
            said: Vec::new(),
            told: None,
            whole: None,
        }
    }

    /// Builds an event of one of our users at the end of the room and lays it there, if the rules let them.
    pub async fn say(
        &mut self,
        sender: &UserId,
        event: NewEvent,
        txn: Option<TxnKey>,
    ) -> Result<OwnedEventId, RoomError> {
        let (pdu, auth, spot) = self.prepare(sender, event).await?;
        let num = self.work.new_event(pdu.event_id());
        let after = self.state_with(spot.before, num, &pdu).await?;
        let generation = build::generation(&self.work, &auth).await?;
        let id = pdu.event_id().to_owned();
        let follows = spot.prev.iter().map(|tip| tip.event).collect();
        let event = Judged {
            num,
            pdu,
            place: Place::Outlier,
            reason: None,
            before: spot.before,
            after,
            auth,
            generation,
            new: true,
            txn,
            now: self.work.rooms.clock.now_ms(),
            given: Given::Nothing,
        };
        self.extend(event, &follows, 0).await?;
        Ok(id)
    }

    /// An event of one of our users for the end of the room, signed, if the rules let them. Nothing is written.
    pub async fn prepare(
        &mut self,
        sender: &UserId,
        event: NewEvent,
    ) -> Result<(Pdu, Vec<EventNum>, Spot), RoomError> {
        let spot = build::end_of(&mut self.work, &self.live).await?;
        let (draft, auth) = build::draft(&self.work, &self.live, &spot, sender, event).await?;
        let (pdu, state) = build::seal(&self.work, draft, spot.before).await?;
        judge_own(&pdu, self.work.rules, &state).map_err(RoomError::Forbidden)?;
        self.check_against_head(&pdu, spot.before).await?;
        Ok((pdu, auth, spot))
    }

    /// Lays an event that was prepared before and signed by the policy server meanwhile: at its place, which need not be
    /// the end any more, and if the rules still let it.
    pub async fn say_prepared(&mut self, pdu: Pdu, txn: Option<TxnKey>) -> Result<(), RoomError> {
        let refs = Refs::of(&self.work, self.live.num, &pdu).await?;
        let before = self.state_before(&refs.prev, None).await?;
        match self.judge_in(&pdu, &refs.auth, before, true).await? {
            Verdict::Accept => {}
            Verdict::SoftFail(reason) | Verdict::Reject(reason) => {
                return Err(RoomError::Forbidden(reason));
            }
        }
        let event = self.judged(pdu, refs.auth, before, true).await?;
        let follows = self.followed(refs.prev).await?;
        self.extend(Judged { txn, ..event }, &follows, 0).await?;
        self.tie(limits::PREV_EVENTS).await
    }

    /// With more extremities than an event may name, the state it is built on is not the current one.
    async fn check_against_head(&self, pdu: &Pdu, before: SnapNum) -> Result<(), RoomError> {
        match &self.live.head {
            Some(head) if head.snap != before => {
                let current = crate::plan::AuthState::read(
                    &self.work.reader,
                    head.snap,
                    pdu,
                    self.work.rules,
                )
                .await?;
                judge_own(pdu, self.work.rules, &current).map_err(RoomError::Forbidden)
            }
            _ => Ok(()),
        }
    }

    /// The state after an accepted event.
    pub async fn state_with(
        &mut self,
        before: SnapNum,
        num: EventNum,
        pdu: &Pdu,
    ) -> Result<SnapNum, RoomError> {
        let Some(state_key) = pdu.state_key() else {
            return Ok(before);
        };
        let key = self.work.state_key(pdu.kind(), state_key).await?;
        Ok(self
            .work
            .update_state(before, vec![(key, Some(num))])
            .await?)
    }

    /// Lays an accepted event at the end of the timeline. It takes the place of the extremities in `follows`.
    pub async fn extend(
        &mut self,
        event: Judged,
        follows: &HashSet<EventNum>,
        flags: u8,
    ) -> Result<(), RoomError> {
        let mut tips: Vec<Tip> = self
            .live
            .tips
            .iter()
            .filter(|tip| !follows.contains(&tip.event))
            .cloned()
            .collect();
        // What only adds an end has to wait for somebody to follow it: what goes on from an end that we have never does.
        if tips.len() < MAX_EXTREMITIES {
            tips.push(Tip {
                event: event.num,
                id: event.pdu.event_id().to_owned(),
                depth: event.pdu.depth(),
            });
        }
        self.lay(event, tips, flags).await
    }

    /// Lays an accepted event at the end of the timeline and makes these the extremities: itself, and others.
    pub async fn lay(&mut self, event: Judged, tips: Vec<Tip>, flags: u8) -> Result<(), RoomError> {
        delta::foresee(&mut self.work, self.live.num, &event).await?;
        let events = tips.iter().map(|tip| tip.event).collect();
        let snap = resolve::state_after(&mut self.work, &self.live, events).await?;
        let old = self.live.head.take();
        self.live.head = Some(Head {
            extremities: tips.iter().map(|tip| tip.event).collect(),
            snap,
            depth: old
                .as_ref()
                .map_or(0, |head| head.depth)
                .max(event.pdu.depth()),
            position: Position(0),
            joined: 0,
            invited: 0,
            whole_since: match self.work.era {
                Era::Partial => None,
                _ => old.map_or(Some(Position(0)), |head| head.whole_since),
            },
        });
        self.live.tips = tips;
        self.said.push(Said { event, snap, flags });
        Ok(())
    }

    /// Ties loose ends: with more than so many forward extremities, one of our members sends an event that says nothing
    /// but follows the newest of them.
    pub async fn tie(&mut self, at_most: usize) -> Result<(), RoomError> {
        if self.live.tips.len() <= at_most {
            return Ok(());
        }
        let range = ScanRange::prefix(&self.live.num);
        let members = self
            .work
            .reader
            .snapshot
            .scan(&LOCAL_MEMBERS, range, Direction::Forward, TIERS)
            .await?;
        for ((_, user), ()) in members {
            let user = self.work.reader.user_id(user).await?;
            let content = RawValue::from_string("{}".to_owned())
                .map_err(|error| RoomError::Inconsistent(error.to_string()))?;
            let event = NewEvent::message(SAYS_NOTHING, content);
            match self.say(&user, event, None).await {
                Err(RoomError::Forbidden(_)) => {}
                done => return done.map(|_| ()),
            }
        }
        Ok(())
    }

    /// Applies what is in the batch so far. Only while it holds nothing that is right only together with what follows:
    /// outliers, which nothing points at yet.
    pub async fn flush(&mut self) -> Result<(), RoomError> {
        let anchor = self
            .original
            .as_ref()
            .map(|head| (self.live.num, head.snap));
        let rooms = self.work.rooms;
        let mut next = Work::new(rooms, rooms.reader(), self.work.rules, anchor);
        next.era = self.work.era;
        // Whatever follows is synced with it or after it.
        let _applied = std::mem::replace(&mut self.work, next).commit().await?;
        // The snapshot that was taken before doesn't show it.
        self.work.reader = rooms.reader();
        Ok(())
    }

    /// Applies the batch and leaves the lane. The caller waits for [`Finished::durable`] before it acknowledges anything.
    pub async fn finish(mut self, lane: Lane) -> Result<Finished, RoomError> {
        let mut positions = Vec::new();
        if self.whole.is_none() && self.changes_state() {
            self.judge_sticky_again().await?;
        }
        if (!self.said.is_empty() || self.whole.is_some())
            && let Some(mut head) = self.live.head.take()
        {
            positions = self.write_said(&mut head).await?;
            self.live.head = Some(head);
        }
        let rooms = self.work.rooms;
        let applied = self.work.commit().await?;
        let was_partial = |head: &Head| head.whole_since.is_none();
        if self.original.as_ref().is_some_and(was_partial) {
            // It may be whole now, or without anybody of ours who waits for that.
            rooms.news_of_partial();
        }
        lane.leave(self.live);
        Ok(Finished { applied, positions })
    }

    /// Whether the current state will be another one with this batch.
    fn changes_state(&self) -> bool {
        match (&self.original, &self.live.head) {
            (Some(old), Some(new)) => old.snap != new.snap,
            _ => false,
        }
    }

    async fn write_said(&mut self, head: &mut Head) -> Result<Vec<Position>, RoomError> {
        let room = self.live.num;
        let mut snap = self
            .original
            .as_ref()
            .map_or(SnapNum::EMPTY, |head| head.snap);
        let turn = delta::turn(&mut self.work, room, snap, head.snap).await?;
        let told = self.told_servers().await?;
        let servers = turn.servers(&self.work, room).await?;
        let said = std::mem::take(&mut self.said);
        let turns_whole = usize::from(self.whole.is_some());
        let mut positions = self.work.positions(turns_whole + said.len());
        let whole_at = self.whole.as_ref().map(|_| positions.remove(0));
        if let Some(position) = whole_at {
            snap = head.snap;
            self.work.batch.put(&STATE_AT, &(room, position), &snap);
            if self.whole.as_ref().is_some_and(|whole| !whole.again) {
                head.whole_since = Some(position);
            }
        }
        let mut log = Vec::with_capacity(said.len());
        for (said, position) in said.into_iter().zip(&positions) {
            let mut bits = said.flags;
            if said.snap != snap {
                snap = said.snap;
                self.work.batch.put(&STATE_AT, &(room, *position), &snap);
                bits |= flags::STATE_CHANGED;
            }
            log.push(
                delta::log_entry(&mut self.work, said.event.num, &said.event.pdu, bits).await?,
            );
            let place = Place::Timeline {
                position: *position,
                sub: u32::MAX,
            };
            delta::put_event(
                &mut self.work,
                room,
                Judged {
                    place,
                    ..said.event
                },
            )
            .await?;
        }
        head.position = positions
            .last()
            .copied()
            .or(whole_at)
            .unwrap_or(Position(0));
        let original = self.original.as_ref();
        let changed = delta::move_head(&mut self.work, room, original, head, (turn, &told)).await?;
        if let (Some(whole), Some(position)) = (self.whole.take(), whole_at) {
            self.write_whole(whole, position, (servers, changed))
                .await?;
        } else if let Some(last) = log.last_mut() {
            last.memberships = changed;
        }
        self.write_told().await?;
        for (entry, position) in log.into_iter().zip(&positions) {
            self.work
                .batch
                .log(*position, TOPIC_EVENT, room.0, entry.to_bytes());
        }
        Ok(positions)
    }
}

impl Rooms {
    /// Waits until everything that was applied before is on disk: before answering with what another writer did.
    pub(crate) async fn settle(&self) -> Result<(), RoomError> {
        Ok(self.store.commit_durable(Batch::new()).await?)
    }

    /// Whether a user is one of ours.
    pub fn is_local(&self, user: &UserId) -> bool {
        server_of(user) == self.server_name().as_str()
    }
}
