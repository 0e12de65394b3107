//! Single events and their surroundings: `/event`, `/context` and `/timestamp_to_event`.

use std::cmp::Ordering;

use resuni_store::{Direction, Position, ScanRange};
use ruma::EventId;

use crate::error::RoomError;
use crate::page::{Gap, Gaps, PageQuery, TimelineEvent};
use crate::reader::stored_pdu;
use crate::rooms::Rooms;
use crate::tables::TIMELINE;
use crate::types::{SnapNum, TimelineToken};
use crate::view::RoomView;
use crate::visibility::Viewer;

/// How many events around the place that a search by time found are compared: clocks of servers differ, so neighbours
/// need not be in the order of their timestamps.
const NEIGHBOURS: usize = 128;

/// An event and what was said around it.
#[derive(Debug, Clone)]
pub struct Context {
    /// The event.
    pub event: TimelineEvent,
    /// What came before, newest first.
    pub before: Vec<TimelineEvent>,
    /// What came after, oldest first.
    pub after: Vec<TimelineEvent>,
    /// Where to go on backward.
    pub start: TimelineToken,
    /// Where to go on forward.
    pub end: TimelineToken,
    /// The state after the newest of these events.
    pub state: SnapNum,
}

impl Rooms {
    /// The room that an event is in; `None` if the event isn't known.
    pub async fn room_of_event(&self, event_id: &EventId) -> Result<Option<RoomView>, RoomError> {
        let reader = self.reader();
        let Some(event) = reader.event_num(event_id).await? else {
            return Ok(None);
        };
        let row = reader.event_row(event).await?;
        self.view_num(row.room).await
    }
}

impl Viewer {
    /// An event of the timeline that this reader may see. What they may not see is as unknown as what isn't there.
    pub async fn event(&mut self, event_id: &EventId) -> Result<Option<TimelineEvent>, RoomError> {
        match self.view().timeline_event(event_id).await? {
            Some(event) if self.sees(&event).await? => Ok(Some(event)),
            _ => Ok(None),
        }
    }

    /// An event as it was before it was redacted (MSC2815): for members who may redact here, and for operators. None
    /// where this server never had it.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] for all others.
    pub async fn unredacted(
        &self,
        event: TimelineEvent,
        operator: bool,
    ) -> Result<Option<TimelineEvent>, RoomError> {
        if !operator {
            let levels = self.view().power_levels().await?;
            let may = levels.user(self.user()).reaches(levels.redact());
            if !may || !self.view().joined(self.user()).await? {
                return Err(RoomError::Forbidden(
                    "Only members who may redact messages see what was redacted.".to_owned(),
                ));
            }
        }
        let pdu = stored_pdu(&event.row.id, event.row.pdu.clone())?;
        let whole = event.redaction.is_none() || resuni_dag::is_whole(&pdu)?;
        Ok(whole.then_some(TimelineEvent {
            redaction: None,
            ..event
        }))
    }

    /// An event and up to `limit` visible events around it that `wanted` lets through.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] if the event isn't there for this reader.
    pub async fn context(
        &mut self,
        event_id: &EventId,
        limit: usize,
        wanted: impl Fn(&TimelineEvent) -> bool + Send + Sync,
    ) -> Result<Context, RoomError> {
        let event = self.event(event_id).await?;
        let event = event.ok_or_else(|| {
            RoomError::NotFound(format!("there is no event {event_id} in this room"))
        })?;
        let half = |dir, from, limit| PageQuery {
            from,
            to: None,
            dir,
            limit,
            gaps: Gaps::Pass,
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let (mut start, mut end) = (event.before(), event.token);
        if limit > 1 {
            let page = self
                .page(half(Direction::Backward, start, limit / 2), &wanted)
                .await?;
            start = page
                .end
                .or(page.events.last().map(TimelineEvent::before))
                .unwrap_or(start);
            before = page.events;
        }
        if limit > 0 {
            let page = self
                .page(half(Direction::Forward, end, limit - limit / 2), &wanted)
                .await?;
            end = page
                .end
                .or(page.events.last().map(|event| event.token))
                .unwrap_or(end);
            after = page.events;
        }
        let newest = after.last().unwrap_or(&event);
        let state = self
            .view()
            .reader
            .event_row(newest.row.event)
            .await?
            .snap_after;
        Ok(Context {
            event,
            before,
            after,
            start,
            end,
            state,
        })
    }

    /// The visible event nearest to a time (milliseconds), not before it going forward and not after it going backward.
    /// A few seeks, whatever the size of the room.
    pub async fn event_at_time(
        &mut self,
        ts: u64,
        dir: Direction,
    ) -> Result<Option<TimelineEvent>, RoomError> {
        let from = self.view().place_of_time(ts).await?;
        // Neighbours on the other side of the place may carry a fitting time too.
        let back = PageQuery {
            from,
            to: None,
            dir: opposite(dir),
            limit: NEIGHBOURS,
            gaps: Gaps::Pass,
        };
        let fits = |event: &TimelineEvent| fits(event, ts, dir);
        let mut found = self.page(back, fits).await?.events;
        let ahead = PageQuery { dir, ..back };
        found.extend(self.page(ahead, fits).await?.events);
        Ok(found.into_iter().min_by(|a, b| nearer(a, b, ts, dir)))
    }
}

/// Which of two events is nearer to a time; of two at the same time, the one that is met first going back in the timeline
/// or forward.
fn nearer(a: &TimelineEvent, b: &TimelineEvent, ts: u64, dir: Direction) -> Ordering {
    let distance = |event: &TimelineEvent| event.fields().timestamp().abs_diff(ts);
    distance(a).cmp(&distance(b)).then(match dir {
        Direction::Forward => a.token.cmp(&b.token),
        Direction::Backward => b.token.cmp(&a.token),
    })
}

fn fits(event: &TimelineEvent, ts: u64, dir: Direction) -> bool {
    match dir {
        Direction::Forward => event.fields().timestamp() >= ts,
        Direction::Backward => event.fields().timestamp() <= ts,
    }
}

fn opposite(dir: Direction) -> Direction {
    match dir {
        Direction::Forward => Direction::Backward,
        Direction::Backward => Direction::Forward,
    }
}

impl RoomView {
    /// Events around a time, visible or not, the nearest first: not before it going forward and not after it going
    /// backward.
    pub async fn events_at_time(
        &self,
        ts: u64,
        dir: Direction,
    ) -> Result<Vec<TimelineEvent>, RoomError> {
        let ahead = PageQuery {
            from: self.place_of_time(ts).await?,
            to: None,
            dir,
            limit: NEIGHBOURS,
            gaps: Gaps::Pass,
        };
        let back = PageQuery {
            dir: opposite(dir),
            ..ahead
        };
        let mut found = self.page(ahead).await?.events;
        found.extend(self.page(back).await?.events);
        found.retain(|event| fits(event, ts, dir));
        found.sort_by(|a, b| nearer(a, b, ts, dir));
        Ok(found)
    }

    /// The history that is missing here at this time, if any is.
    pub async fn gap_at_time(&self, ts: u64) -> Result<Option<Gap>, RoomError> {
        let next = PageQuery {
            from: self.place_of_time(ts).await?,
            to: None,
            dir: Direction::Forward,
            limit: 1,
            gaps: Gaps::Stop,
        };
        Ok(self.page(next).await?.gap)
    }

    /// A place in the timeline before which events are older than `ts`, and after which they are not, as far as
    /// timestamps follow the order of the timeline: found by halving.
    async fn place_of_time(&self, ts: u64) -> Result<TimelineToken, RoomError> {
        let mut low = TimelineToken {
            position: Position(0),
            sub: 0,
        };
        let mut high = self.end();
        while low < high {
            let middle = midpoint(low, high);
            match self.first_from(middle, high).await? {
                Some((token, time)) if time < ts => low = token.next(),
                _ => high = middle,
            }
        }
        Ok(low.previous())
    }

    /// The first event at `from` or after it, up to `to`, with its timestamp.
    async fn first_from(
        &self,
        from: TimelineToken,
        to: TimelineToken,
    ) -> Result<Option<(TimelineToken, u64)>, RoomError> {
        let key = |token: TimelineToken| (self.num(), token.position, token.sub);
        let range = ScanRange::from(&key(from)).and(ScanRange::before(&key(to.next())));
        let rows = self
            .snapshot()
            .scan(&TIMELINE, range, Direction::Forward, 1)
            .await?;
        Ok(rows.first().map(|((_, position, sub), row)| {
            let time = crate::fields::EventFields::of(&row.pdu).timestamp();
            (
                TimelineToken {
                    position: *position,
                    sub: *sub,
                },
                time,
            )
        }))
    }
}

/// The place halfway between two others, rounded down.
fn midpoint(low: TimelineToken, high: TimelineToken) -> TimelineToken {
    let number = |token: TimelineToken| u128::from(token.position.0) << 32 | u128::from(token.sub);
    let middle = number(low).midpoint(number(high));
    TimelineToken {
        position: Position((middle >> 32) as u64),
        sub: middle as u32,
    }
}
