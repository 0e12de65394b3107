//! Ordered key-value tables with typed keys, atomic batches, snapshots and the log. Knows nothing of Matrix.
//!
//! Reading: a [`Snapshot`]. Writing: a [`Batch`], given to [`Store::commit`]. There is no third way.
//! `docs/architecture.md` tells why, under "Storage".

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod batch;
mod blocking;
mod clock;
mod committer;
mod engine;
mod error;
mod follower;
mod key;
mod log;
mod numbers;
mod positions;
mod schema;
mod snapshot;
mod store;
mod table;
pub mod value;

pub use batch::Batch;
pub use blocking::blocking;
pub use clock::{Clock, SharedClock, SystemClock};
#[cfg(feature = "rocksdb")]
pub use engine::RocksConfig;
pub use engine::{EngineConfig, SimulatedDisk};
pub use error::{CommitError, Corrupt, OpenError, StoreError};
pub use follower::Follower;
pub use key::Key;
pub use log::{Log, LogEntry, Reservation, Topic};
pub use numbers::{Namespace, Numbers};
pub use positions::Position;
pub use schema::{Migration, MigrationStep};
pub use snapshot::{BadRow, Snapshot, TableCount};
pub use store::{Applied, OpenOptions, Store};
pub use table::{Direction, ScanRange, Table, TableInfo};
pub use value::Value;

/// The store's own tables.
pub(crate) const TABLES: [&[TableInfo]; 4] = [
    &schema::TABLES,
    &numbers::TABLES,
    &follower::TABLES,
    &[log::LOG.info()],
];
