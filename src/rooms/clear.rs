//! Kicks and bans that redact what their target has said (MSC4293, under its unstable name).
//!
//! No event is sent for each: the member event itself is the redaction of all that its target sent since they came in. What
//! came last is redacted in the batch that lays the event, the rest of a long stay page by page in the background; what is
//! fetched later of that time, when it comes. A kick or ban that turns out to be forbidden is undone in the same way.

use resuni_dag::{Pdu, PowerLevels};
use resuni_store::{Direction, Position, ScanRange, StoreError};
use ruma::{OwnedRoomId, UserId};

use crate::{
    delta::{self, Judged},
    error::RoomError,
    fields::{EventFields, member},
    line::Line,
    relations,
    rooms::Rooms,
    tables::{CLEARINGS, CLEARINGS_LEFT, Clearing, Place, REDACTIONS, TIMELINE},
    types::{EventNum, Membership, RoomNum, SnapNum, UserNum},
    work::Work,
};

/// The member of a kick's or ban's content that asks for it.
pub(crate) const FLAG: &str = "org.matrix.msc4293.redact_events";

/// Events of the timeline that are looked at in one batch: a lane's patience is bounded.
const AT_ONCE: usize = 500;
/// New names within one stay that are looked through for its beginning.
const RENAMES: usize = 100;
/// Kicks and bans of one user that an event fetched later is compared with.
const TIMES: usize = 64;
/// Kicks and bans that are worked on in turn.
const IN_TURN: usize = 32;

type Spot = (Position, u32);
/// Room, target, kick or ban.
type Name = (RoomNum, UserNum, EventNum);

/// The target of a kick or ban that asks for their events to be redacted.
fn target_of(pdu: &Pdu) -> Option<&UserId> {
    let target = delta::member_of(pdu).filter(|target| *target != pdu.sender())?;
    let asks = member(pdu.content().get(), FLAG) == Some("true");
    let out = matches!(
        delta::membership_in(pdu),
        Some(Membership::Leave | Membership::Ban)
    );
    (asks && out).then_some(target)
}

/// "MUST ensure that the sender of the kick or ban has power level to redact the target user's events", by what the room
/// asks of whom it lets redact for others.
async fn may(work: &Work<'_>, event: &Judged) -> Result<bool, StoreError> {
    let reader = &work.reader;
    let Some(create) = reader.state_pdu(event.before, "m.room.create", "").await? else {
        return Ok(false);
    };
    let levels = reader
        .state_pdu(event.before, "m.room.power_levels", "")
        .await?;
    let sender = event.pdu.sender();
    let levels = PowerLevels::read(&create, levels.as_ref(), work.rules);
    Ok(levels.is_ok_and(|levels| {
        levels.user(sender).reaches(levels.redact())
            && levels.may_send(sender, "m.room.redaction", None)
    }))
}

/// Where the target came in: "up to the point of the user's previous membership event", where a new name does not count as
/// one. Otherwise whoever changes it after each message would keep all of them.
async fn came_in(
    work: &Work<'_>,
    mut before: SnapNum,
    target: &UserId,
) -> Result<Spot, StoreError> {
    let mut spot = (Position(0), 0);
    let mut joined = false;
    for _ in 0..RENAMES {
        let reader = &work.reader;
        let found = reader
            .state_event(before, "m.room.member", target.as_str())
            .await?;
        let Some(num) = found else { break };
        let is_join = delta::membership_in(&reader.pdu(num).await?) == Some(Membership::Join);
        if joined && !is_join {
            break;
        }
        let row = reader.event_row(num).await?;
        spot = match row.place {
            Place::Timeline { position, sub } => (position, sub),
            // It was there before us.
            _ => return Ok((Position(0), 0)),
        };
        if !is_join {
            break;
        }
        (before, joined) = (row.snap_before, true);
    }
    Ok(spot)
}

/// Begins with what a kick or ban asks for that gets its place in the timeline.
pub(crate) async fn begin(
    work: &mut Work<'_>,
    room: RoomNum,
    spot: Spot,
    event: &Judged,
) -> Result<(), StoreError> {
    let Some(target) = target_of(&event.pdu) else {
        return Ok(());
    };
    if !may(work, event).await? {
        return Ok(());
    }
    let row = Clearing {
        after: came_in(work, event.before, target).await?,
        until: spot,
        left: spot,
        taken_back: false,
    };
    let name = (room, work.user(target).await?, event.num);
    step(work, name, target, row).await
}

/// An event that is fetched later: whether it is of a time that was cleared.
pub(crate) async fn late(
    work: &mut Work<'_>,
    (room, sender): (RoomNum, UserNum),
    spot: Spot,
    event: &Judged,
) -> Result<(), StoreError> {
    let range = ScanRange::prefix(&(room, sender));
    let rows = work
        .reader
        .snapshot
        .scan(&CLEARINGS, range, Direction::Forward, TIMES)
        .await?;
    for ((_, _, by), row) in rows {
        if row.after < spot && spot < row.until && !row.taken_back {
            return relations::put_redaction(work, room, (event.num, event.place), by).await;
        }
    }
    Ok(())
}

/// A kick or ban turned out to be forbidden: what it redacted is shown again.
pub(crate) async fn take_back(
    work: &mut Work<'_>,
    room: RoomNum,
    num: EventNum,
    pdu: &Pdu,
) -> Result<(), StoreError> {
    let Some(target) = target_of(pdu) else {
        return Ok(());
    };
    let name = (room, work.user(target).await?, num);
    let Some(row) = work.reader.snapshot.get(&CLEARINGS, &name).await? else {
        return Ok(());
    };
    let row = Clearing {
        left: row.until,
        taken_back: true,
        ..row
    };
    step(work, name, target, row).await
}

/// Looks at the next stretch, backwards, and notes how far it got.
async fn step(
    work: &mut Work<'_>,
    name: Name,
    target: &UserId,
    mut row: Clearing,
) -> Result<(), StoreError> {
    let (room, _, by) = name;
    let range = ScanRange::after(&(room, row.after.0, row.after.1)).within(&room);
    let range = range.and(ScanRange::before(&(room, row.left.0, row.left.1)));
    let rows = work
        .reader
        .snapshot
        .scan(&TIMELINE, range, Direction::Backward, AT_ONCE)
        .await?;
    let more = rows.len() == AT_ONCE;
    for ((_, position, sub), shown) in rows {
        row.left = (position, sub);
        let fields = EventFields::of(&shown.pdu);
        if fields.sender_str() != target.as_str() || fields.kind_str() == "m.room.create" {
            continue;
        }
        let place = Place::Timeline { position, sub };
        if !row.taken_back {
            relations::put_redaction(work, room, (shown.event, place), by).await?;
            continue;
        }
        let key = (room, position, sub);
        if work.reader.snapshot.get(&REDACTIONS, &key).await? == Some(by) {
            relations::unredact(work, room, shown.event, (position, sub)).await?;
        }
    }
    match (more, row.taken_back) {
        (true, _) => work.batch.put(&CLEARINGS_LEFT, &name, &()),
        (false, _) => work.batch.delete(&CLEARINGS_LEFT, &name),
    }
    match (more, row.taken_back) {
        (false, true) => work.batch.delete(&CLEARINGS, &name),
        _ => work.batch.put(&CLEARINGS, &name, &row),
    }
    Ok(())
}

impl Rooms {
    /// Goes on with kicks and bans whose targets said more than one batch holds, until the log ends.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn clear(&self) -> Result<(), RoomError> {
        let mut log = self.store.log().watch();
        loop {
            log.borrow_and_update();
            while self.clear_next().await? > 0 {}
            if log.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// One page for each that has more; how many there were.
    async fn clear_next(&self) -> Result<usize, RoomError> {
        let left = self
            .store
            .snapshot()
            .scan(
                &CLEARINGS_LEFT,
                ScanRange::all(),
                Direction::Forward,
                IN_TURN,
            )
            .await?;
        for (name, ()) in &left {
            let room = self.reader().room_row(name.0).await?;
            let room = room.ok_or_else(|| {
                RoomError::Inconsistent(format!("there is no room number {}", name.0.0))
            })?;
            self.clear_page(&room.room_id, *name).await?;
        }
        Ok(left.len())
    }

    async fn clear_page(&self, room: &OwnedRoomId, name: Name) -> Result<(), RoomError> {
        let mut lane = self.lanes.enter(room).await;
        let line = Line::open(self, &mut lane, room).await?;
        let mut line = line.ok_or_else(|| RoomError::UnknownRoom(room.clone()))?;
        let work = &mut line.work;
        match work.reader.snapshot.get(&CLEARINGS, &name).await? {
            Some(row) => {
                let target = work.reader.user_id(name.1).await?;
                step(work, name, &target, row).await?;
            }
            None => work.batch.delete(&CLEARINGS_LEFT, &name),
        }
        line.finish(lane).await?.durable().await?;
        Ok(())
    }
}
