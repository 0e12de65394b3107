//! What operators see and do of rooms: all of them, whoever is in them. Who is an operator is asked before.

pub mod blocked;
mod files;
mod jobs;
mod list;
mod power;
mod redactions;
mod servers;
mod shutdown;

pub use jobs::{Job, JobStatus, Jobs};
pub use list::{RoomDescription, RoomOrder, RoomsQuery};
pub use power::MadeAdmin;
pub use redactions::{Redaction, RedactionJob, RedactionReport, Redactions};
pub use shutdown::{Shutdown, ShutdownJob, ShutdownReport, Shutdowns};
