//! What is on disk: indexes that the follower makes of the log, and could make again. The table in
//! `docs/architecture.md` says the same in prose.

use resuni_rooms::{RoomNum, UserNum};
use resuni_store::{Position, Table, TableInfo, versioned};
use serde::{Deserialize, Serialize};

/// Words of the events that came to a room, by the position at which they came.
pub static WORDS: Table<(RoomNum, String, Position), ()> = Table::new(0x0801, "words");
/// What people are called in the rooms they are in.
pub static PEOPLE: Table<(UserNum, RoomNum), Person> = Table::new(0x0802, "people");
/// The words of those names.
pub static NAMES: Table<(String, UserNum, RoomNum), ()> = Table::new(0x0803, "names of people");

/// All tables of this crate, for the doctor.
pub const TABLES: &[TableInfo] = &[WORDS.info(), PEOPLE.info(), NAMES.info()];

/// A row of [`PEOPLE`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The display name: of our own people that of their profile, whatever they call themselves in the room.
    pub name: Option<String>,
    /// The avatar, as the name.
    pub avatar: Option<String>,
}
versioned!(Person, 1);
