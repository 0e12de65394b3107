//! The one list of what an event writes.
//!
//! Everything derived from the current state (members, servers, counts) is written from the difference between the old
//! and the new current state, whatever changed it: an event, state resolution, or a join that brought a state
//! along. So it can't disagree with the state.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use resuni_dag::{Lattice, Pdu};
use resuni_store::{Direction, Position, ScanRange, StoreError};
use ruma::UserId;

use crate::{
    activity,
    error::RoomError,
    events::TxnKey,
    partial, relations, relationships, sticky,
    tables::{
        EVENTS, EventLog, EventRow, Given, HEAD, Head, LATTICE, LOCAL_MEMBERS, MEMBERS, MISSING,
        Missing, OUTLIERS, OutlierRow, Place, REDACTED_OUTLIERS, ROOM_SERVERS, SERVER_ROOMS,
        SPACE_CHILDREN, TIMELINE, TXNS, TimelineRow, USER_ROOMS, UserRoom, flags,
    },
    types::{
        EventHash, EventNum, Membership, RoomNum, ServerNum, SnapNum, StoredId, UserNum, server_of,
    },
    work::Work,
};

/// Events that are remembered as naming the same missing one.
const REFERENCES: usize = 8;

/// Members of a large room after which other tasks get their turn.
const TURN: usize = 256;

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
    /// What another server said of the state before it.
    pub given: Given,
}

/// Writes an event at its place, and what depends on that place alone.
pub(crate) async fn put_event(
    work: &mut Work<'_>,
    room: RoomNum,
    event: Judged,
) -> Result<(), RoomError> {
    let (num, hash) = (event.num, EventHash::of(event.pdu.event_id()));
    let row = row_of(work, room, &event).await?;
    let sender = row.sender;
    work.batch.put(&EVENTS, &num, &row);
    work.remember(num, row, event.pdu.clone());
    partial::note(work, room, &event).await?;
    relationships::index(work, room, &event);
    match event.place {
        Place::Timeline { position, sub } => {
            let gap = put_edges(work, room, num, hash, &event).await?;
            put_timeline(work, room, num, (position, sub), gap, sender, &event);
            activity::put(work, room, (position, sub), &event.pdu);
            if sub == u32::MAX {
                sticky::lay(work, room, position, &event).await?;
            }
            relations::put(work, room, (num, hash), sender, (position, sub), &event).await?;
        }
        _ => {
            if event.place.has_state() {
                work.batch.delete(&MISSING, &(room, hash));
                // It may have been an outlier; now nobody is shown it.
                work.batch.delete(&REDACTED_OUTLIERS, &(room, num));
            }
            if event.place == Place::SoftFailed {
                sticky::note_refused(work, room, &event).await?;
            }
            if event.place == Place::Outlier {
                relations::redact_by_held(work, room, (num, hash), &event).await?;
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

/// Writes other states of an event that keeps its place in the timeline, and what it did there.
pub(crate) async fn put_states(
    work: &mut Work<'_>,
    room: RoomNum,
    (position, sub): (Position, u32),
    event: &Judged,
) -> Result<(), RoomError> {
    let row = row_of(work, room, event).await?;
    work.batch.put(&EVENTS, &event.num, &row);
    work.remember(event.num, row, event.pdu.clone());
    let key = (room, position, sub);
    if let Some(shown) = work.reader.snapshot.get(&TIMELINE, &key).await? {
        let row = TimelineRow {
            snap_before: event.before,
            ..shown
        };
        work.batch.put(&TIMELINE, &key, &row);
    }
    Ok(())
}

/// From here on an event reads as if it lay in the timeline, where its exact place is not known yet.
pub(crate) async fn foresee(
    work: &mut Work<'_>,
    room: RoomNum,
    event: &Judged,
) -> Result<(), RoomError> {
    let place = Place::Timeline {
        position: Position(0),
        sub: 0,
    };
    let row = EventRow {
        place,
        ..row_of(work, room, event).await?
    };
    work.remember(event.num, row, event.pdu.clone());
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
        id: StoredId::of(event.pdu.event_id()),
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
    num: EventNum,
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
        id: StoredId::of(event.pdu.event_id()),
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
        let prev_hash = EventHash::of(prev);
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

/// What follows from a change of the current state: found before positions are reserved, since a large room's join
/// brings many members.
#[derive(Default)]
pub(crate) struct Turn {
    lattice: Option<Arc<Lattice>>,
    members: Vec<MemberTurn>,
    /// Joined users more or less, by server.
    pub(crate) servers: BTreeMap<ServerNum, i64>,
    /// Links to children of a space that are new or no more.
    children: Vec<(String, Option<EventNum>)>,
}

/// Whether an `m.space.child` links to a child: the link is taken away with its `via`.
pub(crate) fn links(child: &Pdu) -> bool {
    let via = crate::fields::member(child.content().get(), "via");
    via.is_some_and(|via| via.starts_with('[') && via != "[]")
}

/// A user whose member event is another.
struct MemberTurn {
    user: UserNum,
    local: bool,
    before: Option<Membership>,
    after: Option<Membership>,
    event: EventNum,
    old: Option<UserRoom>,
}

impl MemberTurn {
    /// How the number of users who are `which` changes.
    fn by(&self, which: Membership) -> i64 {
        i64::from(self.after == Some(which)) - i64::from(self.before == Some(which))
    }
}

/// Compares the current state as it was with the one to be.
pub(crate) async fn turn(
    work: &mut Work<'_>,
    room: RoomNum,
    old: SnapNum,
    new: SnapNum,
) -> Result<Turn, RoomError> {
    let mut turn = Turn::default();
    if old == new {
        return Ok(turn);
    }
    turn.lattice = Some(work.lattice(new).await?);
    for change in work.reader.state_diff(old, new).await? {
        let (kind, key) = work.reader.state_key(change.key).await?;
        if kind == "m.space.child" {
            let link = match change.after {
                Some(event) if links(&work.reader.pdu(event).await?) => Some(event),
                _ => None,
            };
            turn.children.push((key, link));
            continue;
        }
        let (Some(event), "m.room.member") = (change.after.or(change.before), kind.as_str()) else {
            continue;
        };
        let Ok(id) = UserId::parse(&key) else {
            continue;
        };
        let user = work.user(&id).await?;
        let member = MemberTurn {
            user,
            local: is_local(work, &id),
            before: membership_of(work, change.before).await?,
            after: membership_of(work, change.after).await?,
            event,
            old: work.reader.snapshot.get(&USER_ROOMS, &(user, room)).await?,
        };
        let joined = member.by(Membership::Join);
        if joined != 0 {
            let server = work.server(server_of(&id)).await?;
            *turn.servers.entry(server).or_default() += joined;
        }
        turn.members.push(member);
        if turn.members.len() % TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(turn)
}

/// The room's head moves: the guard, the head, and all that is derived from the current state. Counts members in `head`,
/// and returns our own users whose membership changed.
pub(crate) async fn move_head(
    work: &mut Work<'_>,
    room: RoomNum,
    old: Option<&Head>,
    head: &mut Head,
    (turn, told): (Turn, &HashSet<ServerNum>),
) -> Result<Vec<UserNum>, RoomError> {
    (head.joined, head.invited) = old.map_or((0, 0), |head| (head.joined, head.invited));
    if let Some(lattice) = &turn.lattice {
        work.batch
            .put(&LATTICE, &room, &lattice.to_bytes().to_vec());
    }
    let mut changed = Vec::new();
    for member in &turn.members {
        head.joined = head
            .joined
            .saturating_add_signed(member.by(Membership::Join));
        head.invited = head
            .invited
            .saturating_add_signed(member.by(Membership::Invite));
        put_member(work, room, member, head.position);
        if member.local && member.before != member.after {
            changed.push(member.user);
        }
    }
    put_servers(work, room, turn.servers, told).await?;
    for (child, link) in turn.children {
        match link {
            Some(event) => work.batch.put(&SPACE_CHILDREN, &(room, child), &event),
            None => work.batch.delete(&SPACE_CHILDREN, &(room, child)),
        }
    }
    match old {
        Some(old) => work.batch.guard_equals(&HEAD, &room, old),
        None => work.batch.guard_absent(&HEAD, &room),
    }
    work.batch.put(&HEAD, &room, head);
    Ok(changed)
}

fn put_member(work: &mut Work<'_>, room: RoomNum, member: &MemberTurn, position: Position) {
    let MemberTurn {
        user,
        local,
        before,
        after,
        event,
        ref old,
    } = *member;
    if let Some(before) = before
        && Some(before) != after
    {
        work.batch.delete(&MEMBERS, &(room, before, user));
    }
    if let Some(after) = after {
        work.batch.put(&MEMBERS, &(room, after, user), &event);
    }
    match member.by(Membership::Join) {
        1 if local => work.batch.put(&LOCAL_MEMBERS, &(room, user), &()),
        -1 if local => work.batch.delete(&LOCAL_MEMBERS, &(room, user)),
        _ => {}
    }
    // A member event that state resolution took away leaves its user outside.
    let membership = after.unwrap_or(Membership::Leave);
    let out = matches!(membership, Membership::Leave | Membership::Ban);
    let row = UserRoom {
        membership,
        event,
        position: match old {
            // A new display name is no new membership.
            Some(old) if before == after && old.membership == membership => old.position,
            _ => position,
        },
        stripped: None,
        forgotten: out && old.as_ref().is_some_and(|old| old.forgotten),
    };
    work.batch.put(&USER_ROOMS, &(user, room), &row);
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

async fn put_servers(
    work: &mut Work<'_>,
    room: RoomNum,
    servers: BTreeMap<ServerNum, i64>,
    told: &HashSet<ServerNum>,
) -> Result<(), StoreError> {
    for (server, by) in servers.into_iter().filter(|(_, by)| *by != 0) {
        let old = work
            .reader
            .snapshot
            .get(&ROOM_SERVERS, &(room, server))
            .await?
            .unwrap_or(0);
        match old.saturating_add_signed(by) {
            0 => {
                work.batch.delete(&ROOM_SERVERS, &(room, server));
                if !told.contains(&server) {
                    work.batch.delete(&SERVER_ROOMS, &(server, room));
                }
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
