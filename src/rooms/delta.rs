//! The one list of what an event writes.
//!
//! Everything derived from the current state (members, servers, counts) is written from the difference between the old
//! and the new current state, whatever changed it: an event, state resolution, or a join that brought a state
//! along. So it can't disagree with the state.

use std::collections::{BTreeMap, BTreeSet};

use resuni_dag::Pdu;
use resuni_store::{Direction, Position, ScanRange, StoreError};
use ruma::UserId;

use crate::{
    error::RoomError,
    events::TxnKey,
    relations,
    tables::{
        EVENTS, EventLog, EventRow, HEAD, Head, LATTICE, LOCAL_MEMBERS, MEMBERS, MISSING, Missing,
        OUTLIERS, OutlierRow, Place, ROOM_SERVERS, SERVER_ROOMS, TIMELINE, TXNS, TimelineRow,
        USER_ROOMS, UserRoom, flags,
    },
    types::{EventHash, EventNum, Membership, RoomNum, SnapNum, UserNum, server_of},
    work::{Work, hash_of},
};

/// Events that are remembered as naming the same missing one.
const REFERENCES: usize = 8;

/// An event that was judged, and all that was found out about it.
#[derive(Clone)]
pub(crate) struct Judged {
    pub num: EventNum,
    pub pdu: Pdu,
    pub place: Place,
    /// Why it was rejected or soft-failed.
    pub reason: Option<String>,
    pub before: SnapNum,
    pub after: SnapNum,
    pub auth: Vec<EventNum>,
    pub generation: u32,
    /// It was made here just now, so nothing can have referred to it before.
    pub new: bool,
    pub txn: Option<TxnKey>,
    /// Now, in milliseconds.
    pub now: u64,
}

/// Writes an event at its place, and what depends on that place alone.
pub(crate) async fn put_event(
    work: &mut Work<'_>,
    room: RoomNum,
    event: Judged,
) -> Result<(), RoomError> {
    let (num, hash) = (event.num, hash_of(&event.pdu)?);
    let row = row_of(work, room, &event).await?;
    let sender = row.sender;
    work.batch.put(&EVENTS, &num, &row);
    work.remember(num, row, event.pdu.clone());
    match event.place {
        Place::Timeline { position, sub } => {
            let gap = put_edges(work, room, num, hash, &event).await?;
            put_timeline(
                work,
                room,
                (num, hash),
                (position, sub),
                gap,
                sender,
                &event,
            );
            relations::put(work, room, (num, hash), sender, (position, sub), &event).await?;
        }
        _ => {
            if event.place.has_state() {
                work.batch.delete(&MISSING, &(room, hash));
            }
            let row = OutlierRow {
                pdu: event.pdu.json().to_owned(),
                reason: event.reason,
            };
            work.batch.put(&OUTLIERS, &num, &row);
        }
    }
    Ok(())
}

/// The row of an event.
pub(crate) async fn row_of(
    work: &mut Work<'_>,
    room: RoomNum,
    event: &Judged,
) -> Result<EventRow, RoomError> {
    let state_key = match event.pdu.state_key() {
        Some(key) => Some(work.state_key(event.pdu.kind(), key).await?),
        None => None,
    };
    Ok(EventRow {
        room,
        id: hash_of(&event.pdu)?,
        place: event.place,
        snap_before: event.before,
        snap_after: event.after,
        auth: event.auth.clone(),
        generation: event.generation,
        sender: work.user(event.pdu.sender()).await?,
        depth: event.pdu.depth(),
        state_key,
    })
}

fn put_timeline(
    work: &mut Work<'_>,
    room: RoomNum,
    (num, id): (EventNum, EventHash),
    (position, sub): (Position, u32),
    gap: bool,
    sender: UserNum,
    event: &Judged,
) {
    if !event.new {
        work.batch.delete(&OUTLIERS, &num);
    }
    let row = TimelineRow {
        event: num,
        id,
        snap_before: event.before,
        flags: event_flags(work, &event.pdu) | if gap { flags::GAP } else { 0 },
        received_ts: event.now,
        txn: event.txn.clone().map(|txn| (txn.device, txn.txn)),
        pdu: event.pdu.json().to_owned(),
    };
    work.batch.put(&TIMELINE, &(room, position, sub), &row);
    if let Some(txn) = &event.txn {
        let key = (
            sender,
            room,
            txn.device.clone(),
            event.pdu.kind().to_owned(),
            txn.txn.clone(),
        );
        work.batch.put(&TXNS, &key, &num);
    }
}

fn event_flags(work: &Work<'_>, pdu: &Pdu) -> u8 {
    let mut bits = 0;
    if pdu.is_state() {
        bits |= flags::STATE;
    }
    if member_of(pdu).is_some() {
        bits |= flags::MEMBER;
    }
    if is_local(work, pdu.sender()) {
        bits |= flags::LOCAL;
    }
    bits
}

fn is_local(work: &Work<'_>, user: &UserId) -> bool {
    server_of(user) == work.rooms.server_name().as_str()
}

/// The user of a member event.
pub(crate) fn member_of(pdu: &Pdu) -> Option<&UserId> {
    if pdu.kind() != "m.room.member" {
        return None;
    }
    pdu.state_key()
        .and_then(|key| <&UserId>::try_from(key).ok())
}

/// Backward extremities: this event is none any more, and those of its `prev_events` that we don't have become some.
/// Whether there are such.
async fn put_edges(
    work: &mut Work<'_>,
    room: RoomNum,
    num: EventNum,
    hash: EventHash,
    event: &Judged,
) -> Result<bool, RoomError> {
    if event.new {
        return Ok(false);
    }
    work.batch.delete(&MISSING, &(room, hash));
    let mut gap = false;
    for prev in event.pdu.prev_events() {
        let Some(prev_hash) = EventHash::of(prev) else {
            continue;
        };
        if let Some(prev) = work.reader.event_num_of(prev_hash).await?
            && work.reader.event_row(prev).await?.place.has_state()
        {
            continue;
        }
        gap = true;
        let row = work
            .reader
            .snapshot
            .get(&MISSING, &(room, prev_hash))
            .await?;
        let mut row = row.unwrap_or(Missing {
            referenced_by: Vec::new(),
        });
        if row.referenced_by.len() < REFERENCES && !row.referenced_by.contains(&num) {
            row.referenced_by.push(num);
            work.batch.put(&MISSING, &(room, prev_hash), &row);
        }
    }
    Ok(gap)
}

/// The room's head moves: the guard, the head, and all that is derived from the current state. Counts members in `head`,
/// and returns our own users whose membership changed.
pub(crate) async fn move_head(
    work: &mut Work<'_>,
    room: RoomNum,
    old: Option<&Head>,
    head: &mut Head,
) -> Result<Vec<UserNum>, RoomError> {
    let old_snap = old.map_or(SnapNum::EMPTY, |head| head.snap);
    (head.joined, head.invited) = old.map_or((0, 0), |head| (head.joined, head.invited));
    let mut changed = Vec::new();
    if head.snap != old_snap {
        let lattice = work.lattice(head.snap).await?;
        work.batch
            .put(&LATTICE, &room, &lattice.to_bytes().to_vec());
        changed = put_members(work, room, old_snap, head).await?;
    }
    match old {
        Some(old) => work.batch.guard_equals(&HEAD, &room, old),
        None => work.batch.guard_absent(&HEAD, &room),
    }
    work.batch.put(&HEAD, &room, head);
    Ok(changed)
}

/// What changed for the servers of a room.
#[derive(Default)]
struct Servers(BTreeMap<String, i64>);

/// Derives the membership tables from the difference of two current states.
async fn put_members(
    work: &mut Work<'_>,
    room: RoomNum,
    old_snap: SnapNum,
    head: &mut Head,
) -> Result<Vec<UserNum>, RoomError> {
    let mut servers = Servers::default();
    let mut changed = BTreeSet::new();
    for change in work.reader.state_diff(old_snap, head.snap).await? {
        let (kind, key) = work.reader.state_key(change.key).await?;
        if kind != "m.room.member" {
            continue;
        }
        let Ok(user) = UserId::parse(&key) else {
            continue;
        };
        let before = membership_of(work, change.before).await?;
        let after = membership_of(work, change.after).await?;
        let num = work.user(&user).await?;
        if let Some(before) = before
            && Some(before) != after
        {
            work.batch.delete(&MEMBERS, &(room, before, num));
        }
        if let (Some(after), Some(event)) = (after, change.after) {
            work.batch.put(&MEMBERS, &(room, after, num), &event);
        }
        let joined = i64::from(after == Some(Membership::Join))
            - i64::from(before == Some(Membership::Join));
        let invited = i64::from(after == Some(Membership::Invite))
            - i64::from(before == Some(Membership::Invite));
        head.joined = head.joined.saturating_add_signed(joined);
        head.invited = head.invited.saturating_add_signed(invited);
        *servers.0.entry(server_of(&user).to_owned()).or_default() += joined;
        let local = is_local(work, &user);
        if local && joined > 0 {
            work.batch.put(&LOCAL_MEMBERS, &(room, num), &());
        } else if local && joined < 0 {
            work.batch.delete(&LOCAL_MEMBERS, &(room, num));
        }
        if local && before != after {
            changed.insert(num);
        }
        let event = change.after.or(change.before);
        put_user_room(work, room, num, (before, after), event, head.position).await?;
    }
    put_servers(work, room, servers).await?;
    Ok(changed.into_iter().collect())
}

/// The membership in a member event; one that is malformed counts as none.
pub(crate) async fn membership_of(
    work: &Work<'_>,
    event: Option<EventNum>,
) -> Result<Option<Membership>, StoreError> {
    match event {
        Some(event) => Ok(membership_in(&work.reader.pdu(event).await?)),
        None => Ok(None),
    }
}

/// The membership in a member event.
pub(crate) fn membership_in(pdu: &Pdu) -> Option<Membership> {
    #[derive(serde::Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        membership: std::borrow::Cow<'a, str>,
    }
    let content: Content<'_> = serde_json::from_str(pdu.content().get()).ok()?;
    Membership::from_name(&content.membership)
}

async fn put_user_room(
    work: &mut Work<'_>,
    room: RoomNum,
    user: UserNum,
    (before, after): (Option<Membership>, Option<Membership>),
    event: Option<EventNum>,
    position: Position,
) -> Result<(), StoreError> {
    let Some(event) = event else { return Ok(()) };
    let old = work.reader.snapshot.get(&USER_ROOMS, &(user, room)).await?;
    // A member event that state resolution took away leaves its user outside.
    let membership = after.unwrap_or(Membership::Leave);
    let out = matches!(membership, Membership::Leave | Membership::Ban);
    let row = UserRoom {
        membership,
        event,
        position: match &old {
            // A new display name is no new membership.
            Some(old) if before == after && old.membership == membership => old.position,
            _ => position,
        },
        stripped: None,
        forgotten: out && old.is_some_and(|old| old.forgotten),
    };
    work.batch.put(&USER_ROOMS, &(user, room), &row);
    Ok(())
}

async fn put_servers(
    work: &mut Work<'_>,
    room: RoomNum,
    servers: Servers,
) -> Result<(), StoreError> {
    for (name, by) in servers.0.into_iter().filter(|(_, by)| *by != 0) {
        let server = work.server(&name).await?;
        let old = work
            .reader
            .snapshot
            .get(&ROOM_SERVERS, &(room, server))
            .await?
            .unwrap_or(0);
        match old.saturating_add_signed(by) {
            0 => {
                work.batch.delete(&ROOM_SERVERS, &(room, server));
                work.batch.delete(&SERVER_ROOMS, &(server, room));
            }
            joined => {
                work.batch.put(&ROOM_SERVERS, &(room, server), &joined);
                if old == 0 {
                    work.batch.put(&SERVER_ROOMS, &(server, room), &());
                }
            }
        }
    }
    Ok(())
}

/// What the log tells of an event in the timeline.
pub(crate) async fn log_entry(
    work: &mut Work<'_>,
    num: EventNum,
    pdu: &Pdu,
    more: u8,
) -> Result<EventLog, StoreError> {
    let target = match member_of(pdu) {
        Some(user) => Some(work.user(user).await?),
        None => None,
    };
    let sender = work.user(pdu.sender()).await?;
    Ok(EventLog {
        event: num,
        flags: event_flags(work, pdu) | more,
        sender,
        target,
        memberships: Vec::new(),
    })
}

/// Whether one of our own users is joined to a room.
pub(crate) async fn has_local_members(work: &Work<'_>, room: RoomNum) -> Result<bool, StoreError> {
    let rows = work
        .reader
        .snapshot
        .scan(
            &LOCAL_MEMBERS,
            ScanRange::prefix(&room),
            Direction::Forward,
            1,
        )
        .await?;
    Ok(!rows.is_empty())
}
