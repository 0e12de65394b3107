//! Sticky events (MSC4354, under its unstable names): for up to an hour they reach everybody who is joined, however much
//! was said since, and other servers, however late they join.
//!
//! An event that is laid in the timeline while it is sticky gets a row by its room and a position, so that what came since
//! a token is one scan. One that comes as history gets a position of its own, since no token ever sees its place. What the
//! current state forbids is noted, and judged again when that state changes, in the batch that changes it. Rows whose time
//! is over are taken away by the rows that come after them.

use resuni_dag::Pdu;
use resuni_store::{Direction, Position, ScanRange};
use serde::Deserialize;

use crate::{
    delta::Judged,
    error::RoomError,
    fields::EventFields,
    line::Line,
    page::TimelineEvent,
    plan::Verdict,
    policy::NOT_RECOMMENDED,
    receive::Refs,
    tables::{
        Place, RefusedSticky, STICKY, STICKY_ENDS, STICKY_REFUSED, Sticky, TOPIC_STICKY, flags,
    },
    types::{EventNum, RoomNum},
    view::RoomView,
    work::Work,
};

/// The longest that an event is sticky, in milliseconds: an hour.
pub const MAX_STICKY_MS: u64 = 3_600_000;
/// The member of an event that makes it sticky.
pub(crate) const FIELD: &str = "msc4354_sticky";

/// Refused events of a room that are judged again when its state changes, and those of one sender among them: who was
/// thrown out could send any number.
const MAX_REFUSED: usize = 100;
const MAX_REFUSED_OF_SENDER: usize = 16;
/// Rows that are taken away, their time being over, for each that is written.
const SWEPT: usize = 4;

/// How long an event is sticky, in milliseconds. A duration that is none makes no event sticky; one that is too long
/// counts as the longest.
fn duration_ms(sticky: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Wanted {
        duration_ms: u64,
    }
    let wanted: Wanted = serde_json::from_str(sticky).ok()?;
    Some(wanted.duration_ms.min(MAX_STICKY_MS))
}

/// Until when an event is sticky that came at `received_ms`, in milliseconds since 1970: its sender's clock can't make it
/// last longer.
pub(crate) fn until(fields: &EventFields<'_>, received_ms: u64) -> Option<u64> {
    let duration = duration_ms(fields.sticky?)?;
    Some(received_ms.min(fields.timestamp()).saturating_add(duration))
}

/// For how many milliseconds more an event of the timeline is sticky, by our clock.
pub(crate) fn rest_ms(event: &TimelineEvent, now_ms: u64) -> Option<u64> {
    if event.redaction.is_some() || !event.row.pdu.contains(FIELD) {
        return None;
    }
    let until = until(&event.fields(), event.row.received_ts)?;
    until.checked_sub(now_ms).filter(|rest| *rest > 0)
}

/// Until when it is sticky, if it still is.
fn still(pdu: &Pdu, received_ms: u64, now_ms: u64) -> Option<u64> {
    // Most events are not: that is seen without cutting them up.
    if !pdu.json().contains(FIELD) {
        return None;
    }
    until(&EventFields::of(pdu.json()), received_ms).filter(|until| *until > now_ms)
}

/// Writes the row of a sticky event that gets its place in the timeline at the end of the room.
pub(crate) async fn lay(
    work: &mut Work<'_>,
    room: RoomNum,
    position: Position,
    event: &Judged,
) -> Result<(), RoomError> {
    let now = work.rooms.clock.now_ms();
    if let Some(until_ms) = still(&event.pdu, event.now, now) {
        put(work, room, position, event.num, until_ms).await?;
        if !event.new {
            work.batch.delete(&STICKY_REFUSED, &(room, event.num));
        }
    }
    Ok(())
}

async fn put(
    work: &mut Work<'_>,
    room: RoomNum,
    position: Position,
    event: EventNum,
    until_ms: u64,
) -> Result<(), RoomError> {
    sweep(work).await?;
    let row = Sticky { event, until_ms };
    work.batch.put(&STICKY, &(room, position), &row);
    work.batch
        .put(&STICKY_ENDS, &(until_ms, room, position), &());
    Ok(())
}

/// Takes away a few rows whose time is over, of whatever room: nobody reads them any more, so no lane is needed.
async fn sweep(work: &mut Work<'_>) -> Result<(), RoomError> {
    let now = work.rooms.clock.now_ms();
    let over = work
        .reader
        .snapshot
        .scan(&STICKY_ENDS, ScanRange::all(), Direction::Forward, SWEPT)
        .await?;
    for (key, ()) in over.into_iter().filter(|((until, ..), ())| *until <= now) {
        let (_, room, position) = key;
        work.batch.delete(&STICKY, &(room, position));
        work.batch.delete(&STICKY_ENDS, &key);
    }
    Ok(())
}

/// Notes a sticky event that the current state forbids. What a policy server refused is not sticky.
pub(crate) async fn note_refused(
    work: &mut Work<'_>,
    room: RoomNum,
    event: &Judged,
) -> Result<(), RoomError> {
    let now = work.rooms.clock.now_ms();
    let unwanted = event.reason.as_deref() == Some(NOT_RECOMMENDED);
    let Some(until_ms) = still(&event.pdu, event.now, now).filter(|_| !unwanted) else {
        return Ok(());
    };
    let sender = work.user(event.pdu.sender()).await?;
    let noted = refused(work, room).await?;
    let (over, noted): (Vec<_>, Vec<_>) =
        noted.into_iter().partition(|(_, row)| row.until_ms <= now);
    for (num, _) in over {
        work.batch.delete(&STICKY_REFUSED, &(room, num));
    }
    let of_sender = noted.iter().filter(|(_, row)| row.sender == sender).count();
    if noted.len() >= MAX_REFUSED || of_sender >= MAX_REFUSED_OF_SENDER {
        tracing::debug!(event = %event.pdu.event_id(), "too many refused sticky events: it is not judged again");
        return Ok(());
    }
    let row = RefusedSticky {
        sender,
        received_ms: event.now,
        until_ms,
    };
    work.batch.put(&STICKY_REFUSED, &(room, event.num), &row);
    Ok(())
}

async fn refused(
    work: &Work<'_>,
    room: RoomNum,
) -> Result<Vec<(EventNum, RefusedSticky)>, RoomError> {
    let range = ScanRange::prefix(&room);
    let rows = work
        .reader
        .snapshot
        .scan(&STICKY_REFUSED, range, Direction::Forward, MAX_REFUSED)
        .await?;
    Ok(rows.into_iter().map(|((_, num), row)| (num, row)).collect())
}

impl Line<'_> {
    /// Judges refused sticky events again, where the current state is about to change: "Soft-failure checks MUST be
    /// re-evaluated". What it allows is laid at the end. Changes are few, and rooms with such events fewer: no matter which
    /// part of the state it is.
    pub async fn judge_sticky_again(&mut self) -> Result<(), RoomError> {
        let now = self.work.rooms.clock.now_ms();
        for (num, noted) in refused(&self.work, self.live.num).await? {
            let row = self.work.reader.event_row(num).await?;
            if noted.until_ms <= now || row.place != Place::SoftFailed {
                self.work
                    .batch
                    .delete(&STICKY_REFUSED, &(self.live.num, num));
                continue;
            }
            let pdu = self.work.reader.pdu_of(num, &row).await?;
            let verdict = self
                .judge_in(&pdu, &row.auth, row.snap_before, true)
                .await?;
            if verdict != Verdict::Accept {
                continue;
            }
            tracing::info!(room = %self.live.room_id, event = %pdu.event_id(), "a sticky event that was refused is allowed by the state as it is now");
            let refs = Refs::of(&self.work, self.live.num, &pdu).await?;
            let mut event = self.judged(pdu, row.auth, row.snap_before, true).await?;
            event.now = noted.received_ms;
            let follows = self.followed(refs.prev).await?;
            self.extend(event, &follows, 0).await?;
        }
        Ok(())
    }

    /// Gives sticky events that come as history a position at which clients are told of them.
    pub async fn lay_sticky_history(
        &mut self,
        events: &[(EventNum, Pdu)],
    ) -> Result<(), RoomError> {
        let now = self.work.rooms.clock.now_ms();
        let sticky: Vec<(EventNum, u64)> = events
            .iter()
            .filter_map(|(num, pdu)| Some((*num, still(pdu, now, now)?)))
            .collect();
        if sticky.is_empty() {
            return Ok(());
        }
        let room = self.live.num;
        let positions = self.work.positions(sticky.len());
        for ((num, until_ms), position) in sticky.into_iter().zip(positions) {
            put(&mut self.work, room, position, num, until_ms).await?;
            self.work
                .batch
                .log(position, TOPIC_STICKY, room.0, Vec::new());
        }
        Ok(())
    }
}

/// Sticky events of a room.
#[derive(Debug, Clone, Default)]
pub struct StickyPage {
    /// The events, in the order in which they came.
    pub events: Vec<TimelineEvent>,
    /// There are more, after this position.
    pub more: Option<Position>,
}

impl RoomView {
    /// The events that came after `since` up to `up_to` and are still sticky, oldest first, `limit` at most. An event that
    /// was redacted is as any other.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn sticky(
        &self,
        (since, up_to): (Position, Position),
        now_ms: u64,
        limit: usize,
    ) -> Result<StickyPage, RoomError> {
        let room = self.num();
        let end = Position(up_to.0.saturating_add(1));
        let mut range = ScanRange::after(&(room, since)).within(&room);
        range = range.and(ScanRange::before(&(room, end)));
        let mut page = StickyPage::default();
        let rows = self
            .snapshot()
            .scan(&STICKY, range, Direction::Forward, limit.saturating_add(1))
            .await?;
        let cut = rows.len() > limit;
        let rows: Vec<_> = rows.into_iter().take(limit).collect();
        page.more = rows
            .last()
            .filter(|_| cut)
            .map(|((_, position), _)| *position);
        for (_, row) in rows.into_iter().filter(|(_, row)| row.until_ms > now_ms) {
            let event = self.numbered(row.event).await?;
            page.events
                .extend(event.filter(|event| event.redaction.is_none()));
        }
        Ok(page)
    }

    /// What our own users sent there that is still sticky, in the order in which it came: the newest, so many at most.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn own_sticky(&self, now_ms: u64, limit: usize) -> Result<Vec<EventNum>, RoomError> {
        let range = ScanRange::prefix(&self.num());
        let rows = self
            .snapshot()
            .scan(&STICKY, range, Direction::Backward, limit)
            .await?;
        let mut own = Vec::new();
        for (_, row) in rows
            .into_iter()
            .rev()
            .filter(|(_, row)| row.until_ms > now_ms)
        {
            let event = self.numbered(row.event).await?;
            let sent_here = |event: &TimelineEvent| event.row.flags & flags::LOCAL != 0;
            let wanted = event.filter(|event| event.redaction.is_none() && sent_here(event));
            own.extend(wanted.map(|event| event.row.event));
        }
        Ok(own)
    }
}
