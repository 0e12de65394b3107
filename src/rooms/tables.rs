//! The tables of rooms: what is on disk, and nothing else. The table in `docs/architecture.md` ("Keys on disk")
//! says the same in prose; `doctor` checks that the rows agree with each other.
//!
//! Ids 0x0201 to 0x023f are events, state and membership; 0x0240 and up are directory, aliases and receipts.

use resuni_store::{Position, Table, TableInfo, Topic, versioned};
use ruma::{OwnedRoomId, OwnedServerName};
use serde::{Deserialize, Serialize};

use crate::types::{
    EventHash, EventNum, Membership, NodeNum, RoomNum, ServerNum, SnapNum, StateKeyNum, StoredId,
    UserNum,
};

/// Rows as they were when every event id was a hash.
mod v1;

/// What is known of a room. There is a row for each room we ever had an event, an invite or a knock of.
pub static ROOMS: Table<RoomNum, RoomRow> = Table::new(0x0201, "rooms");
/// The newest end of a room's graph. Present once we are, or were, in the room. The guard of every batch.
pub static HEAD: Table<RoomNum, Head> = Table::new(0x0202, "heads");
/// The 2 KiB accumulator behind the digest of the head's state (MSC4500).
pub static LATTICE: Table<RoomNum, Vec<u8>> = Table::new(0x0203, "lattices");
/// From an event id to its number. Every event that is kept at all has a row.
pub static EVENT_IDS: Table<EventHash, EventNum> = Table::new(0x0204, "event ids");
/// What is known of an event besides its JSON.
pub static EVENTS: Table<EventNum, EventRow> = Table::new(0x0205, "events");
/// The timeline of a room, with the JSON, so that a page of history is one scan.
pub static TIMELINE: Table<(RoomNum, Position, u32), TimelineRow> = Table::new(0x0206, "timelines");
/// The JSON of events that have no place in the timeline: outliers, rejected and soft-failed ones.
pub static OUTLIERS: Table<EventNum, OutlierRow> = Table::new(0x0207, "outliers");
/// The nodes of state trees. A node never changes.
pub static NODES: Table<NodeNum, Node> = Table::new(0x0208, "state nodes");
/// States. A state never changes.
pub static SNAPS: Table<SnapNum, Snap> = Table::new(0x0209, "states");
/// The current state of a room from this position on; a row for each change of it.
pub static STATE_AT: Table<(RoomNum, Position), SnapNum> = Table::new(0x020a, "current states");
/// Backward extremities: events that others name as `prev_events` and that we don't have in the timeline.
/// The value lists (the first few of) those others.
pub static MISSING: Table<(RoomNum, EventHash), Missing> =
    Table::new(0x020b, "backward extremities");
/// The members of the current state by what they are. Derived from the current state.
pub static MEMBERS: Table<(RoomNum, Membership, UserNum), EventNum> = Table::new(0x020c, "members");
/// The rooms of a user, local or remote; for rooms we are not in, of local users only.
pub static USER_ROOMS: Table<(UserNum, RoomNum), UserRoom> = Table::new(0x020d, "rooms of users");
/// Our own users who are joined. Derived from the current state.
pub static LOCAL_MEMBERS: Table<(RoomNum, UserNum), ()> = Table::new(0x020e, "local members");
/// How many joined users each server has in a room (never 0). Derived from the current state.
pub static ROOM_SERVERS: Table<(RoomNum, ServerNum), u64> = Table::new(0x020f, "servers of rooms");
/// The rooms in which a server has a joined user. Derived from the current state.
pub static SERVER_ROOMS: Table<(ServerNum, RoomNum), ()> = Table::new(0x0210, "rooms of servers");
/// Redactions that apply, at the place of the event they redact, so that a page of history finds those of its
/// range in one scan. The first one that applies is kept.
pub static REDACTIONS: Table<(RoomNum, Position, u32), EventNum> = Table::new(0x0211, "redactions");
/// Redactions whose target is not here (yet), by the target.
pub static HELD_REDACTIONS: Table<(RoomNum, EventHash, EventNum), ()> =
    Table::new(0x0212, "held redactions");
/// Redactions that apply to outliers, by their target: state that we know without its place may be redacted too. A row
/// moves to `REDACTIONS` when its target gets its place.
pub static REDACTED_OUTLIERS: Table<(RoomNum, EventNum), EventNum> =
    Table::new(0x0215, "redacted outliers");
/// Events that relate to the event with this id (`m.relates_to`), in timeline order. By id and not by number, because a
/// relation may come before its target.
pub static RELATIONS: Table<(RoomNum, EventHash, Position, u32), Relation> =
    Table::new(0x0213, "relations");
/// The links to children in the current state of a room (`m.space.child` with a `via`), by the child's id. Derived from
/// the current state, so that a space is shown without a look at all its members.
pub static SPACE_CHILDREN: Table<(RoomNum, String), EventNum> =
    Table::new(0x0256, "children of spaces");
/// What a transaction id of a client was answered with: (sender, room, device, event type, transaction id).
pub static TXNS: Table<(UserNum, RoomNum, String, String, String), EventNum> =
    Table::new(0x0214, "transactions");
/// Rooms of which we don't know the whole state yet. The row goes when we do. See `partial`.
pub static PARTIAL: Table<RoomNum, PartialRoom> = Table::new(0x0230, "partial rooms");
/// Events that were judged while their room's state was partial: they are judged again when it is whole.
pub static PARTIAL_EVENTS: Table<(RoomNum, EventNum), PartialEvent> =
    Table::new(0x0231, "partial events");
/// Servers that are in a partial room by what the resident server said: the members that would tell are missing.
pub static TOLD_SERVERS: Table<(RoomNum, ServerNum), ()> = Table::new(0x0232, "told servers");

/// The position of the newest event of a room that moves it up in lists (MSC4186, `bump_stamp`). A room that nothing was
/// said in since this is written has no row.
pub static BUMPS: Table<RoomNum, Position> = Table::new(0x0257, "bump stamps");

/// Events that are or were sticky (MSC4354), at the positions at which clients are told of them. See `sticky`.
pub static STICKY: Table<(RoomNum, Position), Sticky> = Table::new(0x0258, "sticky events");
/// The same, by when they end, in milliseconds since 1970.
pub static STICKY_ENDS: Table<(u64, RoomNum, Position), ()> =
    Table::new(0x0259, "ends of sticky events");
/// Sticky events that the current state forbade when they came.
pub static STICKY_REFUSED: Table<(RoomNum, EventNum), RefusedSticky> =
    Table::new(0x025a, "refused sticky events");

/// Kicks and bans that redact what their target has said (MSC4293), by room, target and event. See `clear`.
pub static CLEARINGS: Table<(RoomNum, UserNum, EventNum), Clearing> =
    Table::new(0x025b, "clearings");
/// Those that are not done.
pub static CLEARINGS_LEFT: Table<(RoomNum, UserNum, EventNum), ()> =
    Table::new(0x025c, "clearings to go on with");

/// All tables of this file, for the doctor.
pub const TABLES: &[TableInfo] = &[
    ROOMS.info(),
    HEAD.info(),
    LATTICE.info(),
    EVENT_IDS.info(),
    EVENTS.info(),
    TIMELINE.info(),
    OUTLIERS.info(),
    NODES.info(),
    SNAPS.info(),
    STATE_AT.info(),
    MISSING.info(),
    MEMBERS.info(),
    USER_ROOMS.info(),
    LOCAL_MEMBERS.info(),
    ROOM_SERVERS.info(),
    SERVER_ROOMS.info(),
    REDACTIONS.info(),
    HELD_REDACTIONS.info(),
    RELATIONS.info(),
    TXNS.info(),
    REDACTED_OUTLIERS.info(),
    SPACE_CHILDREN.info(),
    PARTIAL.info(),
    PARTIAL_EVENTS.info(),
    TOLD_SERVERS.info(),
    BUMPS.info(),
    CLEARINGS.info(),
    CLEARINGS_LEFT.info(),
    STICKY.info(),
    STICKY_ENDS.info(),
    STICKY_REFUSED.info(),
];

/// An event got its place in a room's timeline, or an invite or a knock of a room we are not in changed. The scope is
/// the `RoomNum`, the payload an [`EventLog`].
pub const TOPIC_EVENT: Topic = Topic(0x0201);

/// The state of a partial room became whole. The scope is the `RoomNum`, the payload a [`WholeLog`].
pub const TOPIC_WHOLE: Topic = Topic(0x0203);

/// A sticky event came as history: the scope is the `RoomNum`, the position that of its row in [`STICKY`].
pub const TOPIC_STICKY: Topic = Topic(0x0204);

/// A row of [`ROOMS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomRow {
    /// The room's id.
    pub room_id: OwnedRoomId,
    /// Its version, e.g. `"12"`.
    pub version: String,
}
versioned!(RoomRow, 1);

/// A row of [`HEAD`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The forward extremities, oldest first.
    pub extremities: Vec<EventNum>,
    /// The current state: that after all extremities, resolved.
    pub snap: SnapNum,
    /// The greatest depth among the extremities' ancestors and themselves.
    pub depth: u64,
    /// The position of the newest live entry of the timeline.
    pub position: Position,
    /// Joined users of the current state, local and remote.
    pub joined: u64,
    /// Invited users of the current state.
    pub invited: u64,
    /// Since when the current state is all of it: 0 for always, none while members are missing (MSC3902).
    pub whole_since: Option<Position>,
}
versioned!(Head, 2, from 1 => v1::Head);

/// Where an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In the timeline.
    Timeline {
        /// See `TimelineToken`.
        position: Position,
        /// See `TimelineToken`.
        sub: u32,
    },
    /// Known as part of a state or an auth chain only: authorised by its auth events, never by a state.
    Outlier,
    /// An invite, a knock or the end of one for a room that we were not in: authorised by nothing. It counts as
    /// unknown wherever an event is referred to.
    Unchecked,
    /// Refused by its auth events or by the state before it. It never enters a state.
    Rejected,
    /// Authorised by the state before it, but not by the current state: later events may build on it, but it
    /// is shown to nobody and is no extremity.
    SoftFailed,
}

impl Place {
    /// Whether the state before the event is known.
    pub fn has_state(self) -> bool {
        matches!(
            self,
            Self::Timeline { .. } | Self::Rejected | Self::SoftFailed
        )
    }
}

/// A row of [`EVENTS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// The room.
    pub room: RoomNum,
    /// Its id.
    pub id: StoredId,
    /// Where it is.
    pub place: Place,
    /// The state before it; `SnapNum::EMPTY` for outliers, for which none is known.
    pub snap_before: SnapNum,
    /// The state after it: differs from the one before if this is an accepted state event.
    pub snap_after: SnapNum,
    /// Its auth events, for those that we have.
    pub auth: Vec<EventNum>,
    /// One more than the greatest generation among its auth events; 0 without any. An event's generation is
    /// greater than that of all in its auth chain.
    pub generation: u32,
    /// The sender.
    pub sender: UserNum,
    /// `depth`, as its sender claims it.
    pub depth: u64,
    /// Type and state key, of a state event.
    pub state_key: Option<StateKeyNum>,
}
versioned!(EventRow, 2, from 1 => v1::EventRow);

/// A row of [`TIMELINE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineRow {
    /// The event.
    pub event: EventNum,
    /// Its id.
    pub id: StoredId,
    /// The state before it.
    pub snap_before: SnapNum,
    /// Bits: see [`flags`].
    pub flags: u8,
    /// When it came to us, in milliseconds since the epoch.
    pub received_ts: u64,
    /// The device and transaction id it was sent with, if by one of our users.
    pub txn: Option<(String, String)>,
    /// The canonical JSON that was signed.
    pub pdu: String,
}
versioned!(TimelineRow, 2, from 1 => v1::TimelineRow);

/// Bits of `TimelineRow::flags` and `EventLog::flags`.
pub mod flags {
    /// A state event.
    pub const STATE: u8 = 1;
    /// An `m.room.member` event.
    pub const MEMBER: u8 = 2;
    /// Sent by this server.
    pub const LOCAL: u8 = 4;
    /// When it was laid down, some of its `prev_events` were missing: whether they still are is told by `MISSING`.
    pub const GAP: u8 = 8;
    /// Log only: not an event of the timeline but an invite, a knock, or the end of one, for a room we are not in.
    pub const OUT_OF_BAND: u8 = 16;
    /// Log only: the current state changed.
    pub const STATE_CHANGED: u8 = 32;
    /// Log only: our join to a room that we were not in.
    pub const ADOPTED: u8 = 64;
}

/// A row of [`OUTLIERS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutlierRow {
    /// The canonical JSON that was signed.
    pub pdu: String,
    /// Why it was rejected or soft-failed.
    pub reason: Option<String>,
}
versioned!(OutlierRow, 1);

/// A row of [`NODES`]. See `tree`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    /// Up to `tree::LEAF_MAX` entries in the order of their mixed keys.
    Leaf(Vec<(StateKeyNum, EventNum)>),
    /// More than that: 16 children by the next four bits of the mixed key.
    Branch {
        /// Entries below.
        count: u64,
        /// The children; `NodeNum::EMPTY` for none.
        children: [NodeNum; 16],
    },
}
versioned!(Node, 1);

/// A row of [`SNAPS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snap {
    /// The tree.
    pub root: NodeNum,
    /// The number of entries.
    pub count: u64,
    /// MSC4500's digest of these entries. Of a partial state it is that of no state that another server has.
    pub digest: [u8; 32],
    /// Members are missing: what follows from a state that was handed over without them (MSC3706).
    pub partial: bool,
}
versioned!(Snap, 2, from 1 => v1::Snap);

/// A row of [`PARTIAL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialRoom {
    /// All that is after this position happened while the state was partial.
    pub since: Position,
    /// Who helped us join, the last first: whom to ask for the state.
    pub residents: Vec<OwnedServerName>,
}
versioned!(PartialRoom, 1);

/// A row of [`PARTIAL_EVENTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialEvent {
    /// The state before it besides that after those of its `prev_events` that we have.
    pub given: Given,
    /// It came after our join, and is not history that was fetched later.
    pub live: bool,
}
versioned!(PartialEvent, 1);

/// What another server says of the state before an event some of whose `prev_events` we don't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Given {
    /// Nothing is missing.
    Nothing,
    /// This, all of it.
    State(SnapNum),
    /// Our join with a partial state: the whole one has to be fetched.
    Wanted,
}

/// A row of [`MISSING`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Events that name the missing one in `prev_events`: the first few.
    pub referenced_by: Vec<EventNum>,
}
versioned!(Missing, 1);

/// A row of [`USER_ROOMS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRoom {
    /// What the user is to the room.
    pub membership: Membership,
    /// The member event.
    pub event: EventNum,
    /// When it became so.
    pub position: Position,
    /// For a membership of a room we are not in, which no state tells of: the stripped state as a JSON list, checked
    /// and pruned.
    pub stripped: Option<String>,
    /// The user asked to forget the room, having left it.
    pub forgotten: bool,
}
versioned!(UserRoom, 1);

/// A row of [`RELATIONS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// `m.relates_to.rel_type`.
    pub rel_type: String,
    /// The event that relates.
    pub event: EventNum,
    /// Its type, so that readers can choose without fetching it.
    pub kind: String,
    /// Its sender.
    pub sender: UserNum,
    /// `m.relates_to.key` of an annotation.
    pub key: Option<String>,
}
versioned!(Relation, 1);

/// A row of [`CLEARINGS`]: places are those of the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clearing {
    /// What was said after this,
    pub after: (Position, u32),
    /// and before this: where the kick or ban is.
    pub until: (Position, u32),
    /// Everything from here on is done.
    pub left: (Position, u32),
    /// It turned out to be forbidden: what it redacted is shown again.
    pub taken_back: bool,
}
versioned!(Clearing, 1);

/// A row of [`STICKY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sticky {
    /// The event.
    pub event: EventNum,
    /// Until when it is sticky, in milliseconds since 1970.
    pub until_ms: u64,
}
versioned!(Sticky, 1);

/// A row of [`STICKY_REFUSED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedSticky {
    /// Its sender.
    pub sender: UserNum,
    /// When it came, in milliseconds since 1970.
    pub received_ms: u64,
    /// Until when it is sticky.
    pub until_ms: u64,
}
versioned!(RefusedSticky, 1);

/// The payload of a log entry of [`TOPIC_WHOLE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeLog {
    /// All that is after this position happened while the state was partial.
    pub since: Position,
    /// Servers that were in the room meanwhile and that nobody told us of in time.
    pub missed: Vec<ServerNum>,
    /// Our own users whose membership in the current state changed with this entry.
    pub memberships: Vec<UserNum>,
}

impl WholeLog {
    /// As bytes for the log.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Postcard fails only on types it can't write; these are numbers and lists.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// From the log; `None` if the entry is of another topic's shape.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// The payload of a log entry of [`TOPIC_EVENT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLog {
    /// The event. Its place is `(the entry's position, u32::MAX)` unless `flags` says it is out of band.
    pub event: EventNum,
    /// Bits: see [`flags`].
    pub flags: u8,
    /// Who sent it.
    pub sender: UserNum,
    /// The user of an `m.room.member` event.
    pub target: Option<UserNum>,
    /// Our own users whose membership in the current state changed with this entry, whatever changed it.
    pub memberships: Vec<UserNum>,
}

impl EventLog {
    /// As bytes for the log.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Postcard fails only on types it can't write; these are numbers and a list.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// From the log; `None` if the entry is of another topic's shape.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}
