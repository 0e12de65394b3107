//! Judging a part of a room again, from an event on, because another server came to another state there (MSC4500).
//!
//! What the other server says decides nothing. Events that it knows and we did not were checked as any others before
//! they get here; whether they, and those that were judged before, belong into the state is decided by the rules alone.

use std::collections::{BTreeSet, HashMap, HashSet};

use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};

use crate::{
    delta,
    error::RoomError,
    lane::Tip,
    line::Line,
    partial::Whole,
    plan::judge_by_auth_events,
    receive::{auth_of, auth_pdus},
    replay::Replay,
    resolve,
    rooms::Rooms,
    send::again,
    tables::{EventRow, Given, PartialEvent, Place, TIMELINE, flags},
    types::{EventNum, SnapNum},
    work::Era,
};

/// Events that are looked at to judge a part of a room again. Where two servers part further back than this it stays so.
pub const MAX_AGAIN: usize = 2_000;

/// What came of judging again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JudgedAgain {
    /// Events that were judged.
    pub judged: usize,
    /// Those that are allowed and were not, or the other way round, or after which the state is another.
    pub changed: usize,
}

/// A part of a room's graph: some events and all that follow them, as far as the room's ends lead to them.
struct Part {
    events: BTreeSet<EventNum>,
    /// What becomes of the extremities if none of the part is allowed.
    tips: Vec<Tip>,
}

impl Rooms {
    /// Judges an event and all that follow it again. `told` is the state before it as another server has it, as far as
    /// its events are known here: it counts only where the event's own history is not here, so that the state before it
    /// rests on somebody's word anyway, and then the two are resolved.
    ///
    /// What turns out forbidden leaves the timeline, what turns out allowed is laid at its end, and the current state is
    /// what then follows. All in one batch, or nothing.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] if no state is known at the event, [`RoomError::TooLarge`] if it is too far back.
    pub async fn judge_again(
        &self,
        room: &RoomId,
        from: &EventId,
        told: &[OwnedEventId],
    ) -> Result<JudgedAgain, RoomError> {
        again(|| self.try_judge_again(room, from, told)).await
    }

    async fn try_judge_again(
        &self,
        room: &RoomId,
        from: &EventId,
        told: &[OwnedEventId],
    ) -> Result<JudgedAgain, RoomError> {
        let room: OwnedRoomId = room.to_owned();
        let mut lane = self.lanes.enter(&room).await;
        let Some(mut line) = Line::open(self, &mut lane, &room).await? else {
            return Err(RoomError::UnknownRoom(room));
        };
        let inside = delta::has_local_members(&line.work, line.live.num).await?;
        // A partial state is judged again anyway when it is whole.
        if line.live.head.is_none() || line.work.era != Era::Whole || !inside {
            lane.leave(line.live);
            return Ok(JudgedAgain::default());
        }
        let before = line.live.clone();
        let done = line.judge_from(from, told).await?;
        if done.changed == 0 {
            lane.leave(before);
            return Ok(done);
        }
        line.finish(lane).await?.durable().await?;
        // What states were found to resolve to depends on which events were refused.
        self.caches.resolved.clear();
        Ok(done)
    }
}

impl Line<'_> {
    async fn judge_from(
        &mut self,
        from: &EventId,
        told: &[OwnedEventId],
    ) -> Result<JudgedAgain, RoomError> {
        let unknown = || RoomError::NotFound(format!("the state at {from} is not known"));
        let root = self.work.reader.event_num(from).await?;
        let root = root.ok_or_else(unknown)?;
        let row = self.work.reader.event_row(root).await?;
        if row.room != self.live.num || !row.place.has_state() {
            return Err(unknown());
        }
        let mut roots = self.acquit(told).await?;
        roots.insert(root);
        let part = self.part_after(&roots).await?;
        let noted = self.noted_again(&part, root, told).await?;
        let before = self.outcomes(&part.events).await?;
        let order = self.in_order(&noted).await?;
        self.live.tips = part.tips;
        let mut replay = Replay::of(noted, order.len());
        for (i, num) in order.into_iter().enumerate() {
            self.judge_again(num, &mut replay).await?;
            if i % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        let after = self.outcomes(&part.events).await?;
        let changed = before.iter().zip(&after).filter(|(old, new)| old != new);
        let done = JudgedAgain {
            judged: part.events.len(),
            changed: changed.count(),
        };
        if done.changed > 0 {
            self.turn_again().await?;
        }
        Ok(done)
    }

    /// Judges events of a state again that their auth events alone had forbidden, and the refused ones among those: what
    /// is allowed may be part of a state from here on. The others, which a state had forbidden, have to be judged by a
    /// state; they are returned.
    async fn acquit(&mut self, told: &[OwnedEventId]) -> Result<BTreeSet<EventNum>, RoomError> {
        let mut todo = Vec::new();
        for id in told {
            todo.extend(self.work.reader.event_num(id).await?);
        }
        let (mut refused, mut by_state) = (BTreeSet::new(), BTreeSet::new());
        while let Some(num) = todo.pop() {
            let row = self.work.reader.event_row(num).await?;
            if row.place != Place::Rejected || row.room != self.live.num {
                continue;
            }
            if row.snap_before != SnapNum::EMPTY {
                by_state.insert(num);
            } else if refused.len() < MAX_AGAIN && refused.insert((row.generation, num)) {
                todo.extend(row.auth);
            }
        }
        for (_, num) in refused {
            let pdu = self.work.reader.pdu(num).await?;
            let (auth, missing) = auth_of(&self.work, &pdu).await?;
            let auth_events = auth_pdus(&self.work, &pdu, &auth).await?;
            if missing.is_empty()
                && judge_by_auth_events(&pdu, self.work.rules, &auth_events).is_ok()
            {
                let event = self.judged(pdu, auth, SnapNum::EMPTY, false).await?;
                delta::put_event(&mut self.work, self.live.num, event).await?;
            }
        }
        Ok(by_state)
    }

    /// These events and all that follow them.
    async fn part_after(&self, roots: &BTreeSet<EventNum>) -> Result<Part, RoomError> {
        let reader = &self.work.reader;
        let mut floor = u64::MAX;
        for root in roots {
            floor = floor.min(reader.event_row(*root).await?.depth);
        }
        // Backwards from the ends, no deeper than the roots: an event is deeper than those that follow it.
        let mut prevs: HashMap<EventNum, Vec<EventNum>> = HashMap::new();
        let mut shown = HashSet::new();
        let ends = self.live.tips.iter().map(|tip| tip.event);
        let mut todo: Vec<EventNum> = ends.chain(roots.iter().copied()).collect();
        while let Some(num) = todo.pop() {
            if prevs.contains_key(&num) {
                continue;
            }
            let row = reader.event_row(num).await?;
            if row.depth <= floor && !roots.contains(&num) {
                continue;
            }
            if prevs.len() >= MAX_AGAIN {
                return Err(RoomError::TooLarge(format!(
                    "more than {MAX_AGAIN} events would have to be judged again"
                )));
            }
            if matches!(row.place, Place::Timeline { .. }) {
                shown.insert(num);
            }
            let earlier = self.prev_of(num, &row).await?;
            todo.extend(&earlier);
            prevs.insert(num, earlier);
        }
        let mut next: HashMap<EventNum, Vec<EventNum>> = HashMap::new();
        for (num, earlier) in &prevs {
            for prev in earlier {
                next.entry(*prev).or_default().push(*num);
            }
        }
        let mut events = BTreeSet::new();
        let mut todo: Vec<EventNum> = roots.iter().copied().collect();
        while let Some(num) = todo.pop() {
            if events.insert(num) {
                todo.extend(next.remove(&num).unwrap_or_default());
            }
        }
        let outside = prevs.iter().filter(|(num, _)| !events.contains(num));
        let followed: HashSet<EventNum> = outside
            .filter(|(num, _)| shown.contains(num))
            .flat_map(|(_, earlier)| earlier.iter().copied())
            .collect();
        let tips = self.tips_without(&events, &prevs, &followed).await?;
        Ok(Part { events, tips })
    }

    /// The extremities without these events: the others, and what the events follow if nothing else follows it.
    async fn tips_without(
        &self,
        events: &BTreeSet<EventNum>,
        prevs: &HashMap<EventNum, Vec<EventNum>>,
        followed: &HashSet<EventNum>,
    ) -> Result<Vec<Tip>, RoomError> {
        let kept = self.live.tips.iter();
        let mut tips: Vec<Tip> = kept
            .filter(|tip| !events.contains(&tip.event))
            .cloned()
            .collect();
        let earlier = events.iter().filter_map(|num| prevs.get(num)).flatten();
        let earlier: BTreeSet<EventNum> = earlier.copied().collect();
        for prev in earlier {
            if events.contains(&prev)
                || followed.contains(&prev)
                || tips.iter().any(|tip| tip.event == prev)
            {
                continue;
            }
            let row = self.work.reader.event_row(prev).await?;
            if matches!(row.place, Place::Timeline { .. }) {
                tips.push(Tip {
                    event: prev,
                    id: row.id.to_id(),
                    depth: row.depth,
                });
            }
        }
        Ok(tips)
    }

    /// Those of the `prev_events` after which a state is known.
    async fn prev_of(&self, num: EventNum, row: &EventRow) -> Result<Vec<EventNum>, RoomError> {
        let reader = &self.work.reader;
        let mut known = Vec::new();
        for id in reader.pdu_of(num, row).await?.prev_events() {
            if let Some(prev) = reader.event_num(id).await? {
                let row = reader.event_row(prev).await?;
                if row.room == self.live.num && row.place.has_state() {
                    known.push(prev);
                }
            }
        }
        Ok(known)
    }

    /// What the events have to be judged by beside the events they follow: where some of these are not here, or were not
    /// when it came, the state that it was given then; and for `root` what is told now.
    async fn noted_again(
        &mut self,
        part: &Part,
        root: EventNum,
        told: &[OwnedEventId],
    ) -> Result<HashMap<EventNum, PartialEvent>, RoomError> {
        let mut noted = HashMap::with_capacity(part.events.len());
        for num in &part.events {
            let row = self.work.reader.event_row(*num).await?;
            let pdu = self.work.reader.pdu_of(*num, &row).await?;
            let known = self.prev_of(*num, &row).await?;
            let gap = known.len() < pdu.prev_events().len() || self.had_gap(&row).await?;
            let live = match row.place {
                Place::Timeline { sub, .. } => sub == u32::MAX,
                _ => self.follows_live(&known).await?,
            };
            let given = match gap {
                false => Given::Nothing,
                true if *num == root => self.given_again(row.snap_before, told).await?,
                true => Given::State(row.snap_before),
            };
            noted.insert(*num, PartialEvent { given, live });
        }
        Ok(noted)
    }

    async fn had_gap(&self, row: &EventRow) -> Result<bool, RoomError> {
        let Place::Timeline { position, sub } = row.place else {
            return Ok(false);
        };
        let key = (row.room, position, sub);
        let shown = self.work.reader.snapshot.get(&TIMELINE, &key).await?;
        Ok(shown.is_some_and(|shown| shown.flags & flags::GAP != 0))
    }

    /// Whether one of these events came live: then an event that follows it and was refused is no history either.
    async fn follows_live(&self, prev: &[EventNum]) -> Result<bool, RoomError> {
        for num in prev {
            match self.work.reader.event_row(*num).await?.place {
                Place::Timeline { sub, .. } if sub != u32::MAX => {}
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    /// The state before an event that rests on what others said of it, with what is said now. What the other server
    /// has not is no news: only where it has another event, or one that we lack, the two are resolved.
    async fn given_again(
        &mut self,
        before: SnapNum,
        told: &[OwnedEventId],
    ) -> Result<Given, RoomError> {
        let Ok(told) = self.given_state(told.to_vec()).await? else {
            return Ok(Given::State(before));
        };
        let mut puts = Vec::new();
        for change in self.work.reader.state_diff(before, told).await? {
            if change.after.is_some() {
                puts.push((change.key, change.after));
            }
        }
        let told = self.work.update_state(before, puts).await?;
        let given = resolve::resolve_states(&mut self.work, &self.live, vec![before, told]).await?;
        Ok(Given::State(given))
    }

    /// For each event whether it is allowed, and the digest of the state after it.
    async fn outcomes(
        &self,
        events: &BTreeSet<EventNum>,
    ) -> Result<Vec<(u8, [u8; 32])>, RoomError> {
        let mut outcomes = Vec::with_capacity(events.len());
        for num in events {
            let row = self.work.reader.event_row(*num).await?;
            let place = match row.place {
                Place::Timeline { .. } => 0,
                Place::SoftFailed => 1,
                _ => 2,
            };
            let after = self.work.reader.snap(row.snap_after).await?;
            outcomes.push((place, after.digest));
        }
        Ok(outcomes)
    }

    /// The head moves to where the events lead now, and the log tells.
    async fn turn_again(&mut self) -> Result<(), RoomError> {
        let tips: Vec<EventNum> = self.live.tips.iter().map(|tip| tip.event).collect();
        let snap = resolve::state_after(&mut self.work, &self.live, tips.clone()).await?;
        for said in &mut self.said {
            said.snap = snap;
        }
        if let Some(head) = &mut self.live.head {
            head.extremities = tips;
            head.snap = snap;
        }
        self.whole = Some(Whole {
            again: true,
            ..Whole::default()
        });
        Ok(())
    }
}
