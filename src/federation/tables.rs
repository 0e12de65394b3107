//! What federation keeps on disk.

use resuni_rooms::{EventNum, RoomNum};
use resuni_store::{Position, Table, TableInfo, versioned};
use ruma::{OwnedRoomId, OwnedServerName};
use serde::{Deserialize, Serialize};

pub use crate::keys::SERVER_KEYS;

/// Servers that have not been sent everything yet: everything up to this position has. A server that is
/// up to date has no row. Only as of the sender's own cursor: what came later is found in the log.
pub static BEHIND: Table<String, Position> = Table::new(0x0502, "destinations behind");
/// The newest event of this server in each room, for servers that missed too much to be sent all of it.
pub static NEWEST: Table<RoomNum, Newest> = Table::new(0x0503, "newest own events");
/// Events of other servers that wait for what they build on, in the order they came, by room.
pub static STAGED: Table<(String, u64), Staged> = Table::new(0x0504, "staged events");

/// Messages that must arrive and are no events, by destination and in order: whole EDUs.
pub static OUTBOX: Table<(String, u64), String> = Table::new(0x0505, "outbox");
/// The stream id of the last change of a user's devices that other servers were told.
pub static DEVICE_STREAMS: Table<String, u64> = Table::new(0x0506, "device streams");

/// States that lack events because a server's key could not be had: room, the event before which the state is, server.
pub static LACKING: Table<(String, String, String), LackedKey> =
    Table::new(0x0507, "lacking states");

/// All tables of federation, for the doctor.
pub const TABLES: &[TableInfo] = &[
    SERVER_KEYS.info(),
    BEHIND.info(),
    NEWEST.info(),
    STAGED.info(),
    OUTBOX.info(),
    DEVICE_STREAMS.info(),
    LACKING.info(),
];

/// A row of [`NEWEST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {
    /// The position in the log.
    pub position: Position,
    /// The event.
    pub event: EventNum,
}
versioned!(Newest, 1);

/// A row of [`STAGED`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The room.
    pub room: OwnedRoomId,
    /// Who sent it to us.
    pub origin: OwnedServerName,
    /// The event, checked: canonical JSON.
    pub pdu: String,
    /// How often it was tried in vain.
    pub attempts: u32,
}
versioned!(Staged, 1);

/// A row of [`LACKING`]: the keys of the server of which one signed an event that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LackedKey {
    /// The ids of the keys.
    pub key_ids: Vec<String>,
    /// When the event was signed, in milliseconds since 1970; 0 where that does not matter.
    pub at_ms: u64,
}
versioned!(LackedKey, 1);
