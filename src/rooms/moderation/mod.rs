//! What operators see and do of rooms: all of them, whoever is in them. Who is an operator is asked before.

pub mod blocked;
mod files;
mod list;
mod power;
mod servers;
mod shutdown;

pub use list::{RoomDescription, RoomOrder, RoomsQuery};
pub use power::MadeAdmin;
pub use shutdown::{Shutdown, ShutdownJob, ShutdownReport, ShutdownStatus, Shutdowns};
