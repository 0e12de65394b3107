//! Judging again what came while a room's state was partial, now that the state before our join is known.

use std::collections::{HashMap, HashSet};

use resuni_dag::Pdu;

use crate::{
    delta::{self, Judged},
    error::RoomError,
    lane::Tip,
    line::{Line, Said},
    partial::Whole,
    plan::Verdict,
    policy::NOT_RECOMMENDED,
    receive::auth_of,
    relations, resolve,
    tables::{EventRow, Given, OUTLIERS, PartialEvent, Place, TIMELINE},
    types::{EventNum, RoomNum, SnapNum},
    work::Era,
};

/// Events after which other tasks get their turn.
const TURN: usize = 64;

/// What was found out so far.
pub(crate) struct Replay {
    noted: HashMap<EventNum, PartialEvent>,
    /// The state after each event that was judged again.
    after: HashMap<EventNum, SnapNum>,
    whole: Whole,
}

impl Replay {
    /// Nothing yet, of these events.
    pub fn of(noted: HashMap<EventNum, PartialEvent>, count: usize) -> Self {
        Self {
            noted,
            after: HashMap::with_capacity(count),
            whole: Whole::default(),
        }
    }
}

/// An event, and what it has to be judged by.
struct Again {
    num: EventNum,
    row: EventRow,
    pdu: Pdu,
    prev: Vec<EventNum>,
    before: SnapNum,
    noted: PartialEvent,
}

impl Line<'_> {
    /// Judges the noted events again, in the order of the graph, as if the whole state had been there from the start: what
    /// turns out forbidden leaves the timeline, and what had been refused and is allowed is laid at its end. The
    /// extremities are those of the events that remain.
    pub async fn become_whole(
        &mut self,
        rows: Vec<((RoomNum, EventNum), PartialEvent)>,
    ) -> Result<(), RoomError> {
        let noted: HashMap<_, _> = rows.into_iter().map(|((_, num), row)| (num, row)).collect();
        let order = self.in_order(&noted).await?;
        self.work.era = Era::Whole;
        self.live.tips.clear();
        let mut replay = Replay::of(noted, order.len());
        for (i, num) in order.into_iter().enumerate() {
            self.judge_again(num, &mut replay).await?;
            if i % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            // Each event's new states are right by themselves, so what is written early does no harm if the rest is not:
            // the next attempt writes it again.
            if self.work.is_large() {
                self.flush().await?;
                for said in &self.said {
                    delta::foresee(&mut self.work, self.live.num, &said.event).await?;
                }
            }
        }
        self.turn_whole(replay).await
    }

    /// The noted events, each after those it refers to.
    pub async fn in_order(
        &self,
        noted: &HashMap<EventNum, PartialEvent>,
    ) -> Result<Vec<EventNum>, RoomError> {
        let mut nums: Vec<EventNum> = noted.keys().copied().collect();
        nums.sort_unstable();
        let (mut order, mut seen) = (Vec::with_capacity(nums.len()), HashSet::new());
        for num in nums {
            // An event is entered twice: to put those it refers to before it, and to take its place after them.
            let mut todo = vec![(num, false)];
            while let Some((num, entered)) = todo.pop() {
                if entered {
                    order.push(num);
                    continue;
                }
                if !noted.contains_key(&num) || !seen.insert(num) {
                    continue;
                }
                todo.push((num, true));
                let pdu = self.work.reader.pdu(num).await?;
                for id in pdu.prev_events().iter().chain(pdu.auth_events()) {
                    let earlier = self.work.reader.event_num(id).await?;
                    todo.extend(earlier.map(|num| (num, false)));
                }
            }
        }
        Ok(order)
    }

    /// Judges one event again, after those it refers to.
    pub async fn judge_again(
        &mut self,
        num: EventNum,
        replay: &mut Replay,
    ) -> Result<(), RoomError> {
        let again = self.again(num, replay).await?;
        let (auth, _) = auth_of(&self.work, &again.pdu).await?;
        let was_shown = matches!(again.row.place, Place::Timeline { .. });
        // What people saw is not hidden because of what came later; what was refused must be allowed by the current state
        // too before it is shown.
        let by_current = !was_shown && again.noted.live;
        if by_current {
            let tips = self.live.tips.iter().map(|tip| tip.event).collect();
            let current = resolve::state_after(&mut self.work, &self.live, tips).await?;
            if let Some(head) = &mut self.live.head {
                head.snap = current;
            }
        }
        let verdict = self
            .judge_in(&again.pdu, &auth, again.before, by_current)
            .await?;
        let verdict = match verdict {
            // The policy server was asked when the event came.
            Verdict::Accept if self.was_not_recommended(num, &again.row).await? => {
                Verdict::SoftFail(NOT_RECOMMENDED.to_owned())
            }
            verdict => verdict,
        };
        let accepted = verdict == Verdict::Accept;
        let mut event = self
            .judged(
                again.pdu.clone(),
                auth,
                again.before,
                !matches!(verdict, Verdict::Reject(_)),
            )
            .await?;
        replay.after.insert(num, event.after);
        match verdict {
            Verdict::Accept => {}
            Verdict::SoftFail(reason) => {
                (event.place, event.reason) = (Place::SoftFailed, Some(reason));
            }
            Verdict::Reject(reason) => {
                (event.place, event.reason) = (Place::Rejected, Some(reason));
            }
        }
        if accepted {
            replay
                .whole
                .seen
                .extend(self.server_joining(&again.pdu).await?);
            self.keep_again(event, again).await
        } else {
            self.refuse_again(event, again).await
        }
    }

    async fn was_not_recommended(&self, num: EventNum, row: &EventRow) -> Result<bool, RoomError> {
        if row.place != Place::SoftFailed {
            return Ok(false);
        }
        let kept = self.work.reader.snapshot.get(&OUTLIERS, &num).await?;
        Ok(kept.is_some_and(|kept| kept.reason.as_deref() == Some(NOT_RECOMMENDED)))
    }

    async fn again(&mut self, num: EventNum, replay: &Replay) -> Result<Again, RoomError> {
        let row = self.work.reader.event_row(num).await?;
        let pdu = self.work.reader.pdu_of(num, &row).await?;
        let noted = replay.noted.get(&num).copied().unwrap_or(PartialEvent {
            given: Given::Nothing,
            live: true,
        });
        let (mut prev, mut snaps) = (Vec::new(), Vec::new());
        if let Given::State(given) = noted.given {
            snaps.push(given);
        }
        for id in pdu.prev_events() {
            let Some(earlier) = self.work.reader.event_num(id).await? else {
                continue;
            };
            let row = self.work.reader.event_row(earlier).await?;
            if row.place.has_state() {
                prev.push(earlier);
                snaps.push(
                    replay
                        .after
                        .get(&earlier)
                        .copied()
                        .unwrap_or(row.snap_after),
                );
            }
        }
        let before = resolve::resolve_states(&mut self.work, &self.live, snaps).await?;
        Ok(Again {
            num,
            row,
            pdu,
            prev,
            before,
            noted,
        })
    }

    /// The event is allowed. It keeps its place, or gets one at the end if it was refused.
    async fn keep_again(&mut self, event: Judged, again: Again) -> Result<(), RoomError> {
        let Again {
            num,
            row,
            pdu,
            prev,
            noted,
            ..
        } = again;
        if noted.live {
            let follows = self.followed(prev).await?;
            self.live.tips.retain(|tip| !follows.contains(&tip.event));
            self.live.tips.push(Tip {
                event: num,
                id: pdu.event_id().to_owned(),
                depth: pdu.depth(),
            });
        }
        match row.place {
            Place::Timeline { position, sub } => {
                let spot = (position, sub);
                let event = Judged {
                    place: row.place,
                    ..event
                };
                delta::put_states(&mut self.work, self.live.num, spot, &event).await
            }
            _ if noted.live => {
                delta::foresee(&mut self.work, self.live.num, &event).await?;
                let snap = SnapNum::EMPTY; // Known when all are judged.
                self.said.push(Said {
                    event,
                    snap,
                    flags: 0,
                });
                Ok(())
            }
            // History that was refused has no place to go; others may still build on it.
            place => {
                let reason = Some("it was refused when its history was fetched".to_owned());
                let event = Judged {
                    place,
                    reason,
                    ..event
                };
                delta::put_event(&mut self.work, self.live.num, event).await
            }
        }
    }

    /// The event is not allowed: if it was shown, it is no more.
    async fn refuse_again(&mut self, event: Judged, again: Again) -> Result<(), RoomError> {
        if let Place::Timeline { position, sub } = again.row.place {
            tracing::info!(room = %self.live.room_id, event = %again.pdu.event_id(), reason = event.reason, "an event that was accepted while the state was partial is refused");
            self.work
                .batch
                .delete(&TIMELINE, &(self.live.num, position, sub));
            let spot = (position, sub);
            let who = (again.num, again.row.sender);
            relations::take_back(&mut self.work, self.live.num, who, spot, &again.pdu).await?;
        }
        delta::put_event(&mut self.work, self.live.num, event).await
    }

    /// All events are judged: the head moves to where they lead.
    async fn turn_whole(&mut self, replay: Replay) -> Result<(), RoomError> {
        let tips: Vec<EventNum> = self.live.tips.iter().map(|tip| tip.event).collect();
        let snap = resolve::state_after(&mut self.work, &self.live, tips.clone()).await?;
        let snap = self.work.make_state(snap, Vec::new(), false).await?;
        let Replay {
            noted, mut whole, ..
        } = replay;
        for given in noted.into_values() {
            if let Given::State(given) = given.given {
                whole.seen.extend(self.servers_gone(given, snap).await?);
            }
        }
        for said in &mut self.said {
            said.snap = snap;
        }
        if let Some(head) = &mut self.live.head {
            head.extremities = tips;
            head.snap = snap;
        }
        self.whole = Some(whole);
        Ok(())
    }
}
