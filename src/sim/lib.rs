//! Dev only: a consortium of whole servers in one process.
//!
//! Each server is everything but TCP, TLS and RocksDB: its people act through its HTTP router, other
//! servers reach that router over a [`network`] that loses, delays, repeats and reorders, and its disk
//! forgets on a [`crash`](machine) what was not synced. All of it follows from a seed: the clock is
//! Tokio's paused one, and one thread does everything. `docs/testing.md` tells how to read a seed that
//! fails.

pub mod chance;
pub mod check;
pub mod clock;
pub mod deeds;
pub mod machine;
pub mod network;
pub mod people;
pub mod run;

pub use run::{Outcome, Plan, run};
