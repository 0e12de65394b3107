//! The only writer of room data: lanes, ingest, timelines, state, membership, receipts, visibility, directory.
//!
//! No network: where events are missing, it answers [`Received::Missing`] and the caller brings them. The way of an event
//! is `send` or `receive` → `plan` (may it?) → `delta` (what is written?) → one batch, guarded on the room's head.
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")
)]

mod adopt;
mod backfill;
mod build;
mod cache;
mod delta;
mod error;
mod events;
mod found;
mod lane;
mod line;
mod outliers;
mod plan;
mod reader;
mod receive;
mod relations;
mod resolve;
mod rooms;
mod send;
pub mod tables;
mod template;
pub mod tree;
mod types;
mod work;

pub use adopt::OutOfBand;
pub use backfill::{Backfilled, MAX_BACKFILL};
pub use error::RoomError;
pub use events::{NewEvent, Received, TxnKey};
pub use outliers::Outliers;
pub use rooms::{Rooms, RoomsConfig};
pub use types::*;

#[cfg(test)]
mod tests;
