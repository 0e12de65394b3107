//! The tables of the feed: an index, made of the log and the rooms alone. It can be thrown away
//! with its cursor and is then made again.

use resuni_rooms::{EventNum, RoomNum};
use resuni_store::{Position, Table, TableInfo, versioned};
use serde::{Deserialize, Serialize};

use crate::names::RoomKind;

/// The profiles and groups that anybody may read, and that we are in.
pub(crate) static PUBLIC_ROOMS: Table<RoomNum, PublicRoom> =
    Table::new(0x0601, "public social rooms");
/// The posts that anybody may read, by when they came.
pub(crate) static POSTS: Table<Position, PostRow> = Table::new(0x0602, "public posts");
/// The same by room.
pub(crate) static ROOM_POSTS: Table<(RoomNum, Position), EventNum> =
    Table::new(0x0603, "public posts of rooms");

/// All tables of this crate, for the doctor.
pub const TABLES: &[TableInfo] = &[PUBLIC_ROOMS.info(), POSTS.info(), ROOM_POSTS.info()];

/// A row of [`PUBLIC_ROOMS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublicRoom {
    /// What it is.
    pub kind: RoomKind,
}
versioned!(PublicRoom, 1);

/// A row of [`POSTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PostRow {
    /// Where it was posted.
    pub room: RoomNum,
    /// The event.
    pub event: EventNum,
}
versioned!(PostRow, 1);
