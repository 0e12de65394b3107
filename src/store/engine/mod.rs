//! The engines: an ordered map of bytes with snapshots and atomic writes.
//!
//! Which one serves a store is decided where it is opened; nothing above this module knows. An engine
//! offers only what a distributed ordered key-value store could offer too: no range delete, and no
//! column family leaves this folder.

mod disk;
mod memory;
#[cfg(feature = "rocksdb")]
mod rocks;

#[cfg(feature = "rocksdb")]
use std::path::PathBuf;
use std::{ops::ControlFlow, sync::Arc};

use crate::{Direction, OpenError, StoreError, table::RowRange};

pub use disk::SimulatedDisk;

/// Which engine serves the store.
#[derive(Clone, Debug)]
pub enum EngineConfig {
    /// In memory, for tests; gone when the store is dropped.
    Memory,
    /// In memory, for simulations: what was synced is there again when the disk is opened anew.
    Simulated(SimulatedDisk),
    #[cfg(feature = "rocksdb")]
    /// RocksDB, embedded.
    Rocks(RocksConfig),
}

/// How RocksDB is set up.
#[cfg(feature = "rocksdb")]
#[derive(Clone, Debug)]
pub struct RocksConfig {
    /// The directory of the database; made when it is absent.
    pub path: PathBuf,
    /// Bytes of the cache of blocks, shared by all tables; indexes and filters live in it too.
    pub cache_bytes: usize,
    /// Bytes of rows held in memory until they are written to a table file, over all tables.
    pub write_buffer_bytes: usize,
}

#[cfg(feature = "rocksdb")]
impl RocksConfig {
    /// A small server: 32 MiB of cache and 16 MiB of write buffers.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            cache_bytes: 32 << 20,
            write_buffer_bytes: 16 << 20,
        }
    }
}

/// One write to one row. Keys begin with the table's number.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}

/// Called with each row of a scan, in order, until it breaks.
pub(crate) type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

pub(crate) enum Engine {
    Memory(memory::Memory),
    #[cfg(feature = "rocksdb")]
    Rocks(rocks::Rocks),
}

/// Writes in the form that the engine takes them: made before the write lock is taken.
pub(crate) enum Prepared {
    Memory(Vec<Write>),
    #[cfg(feature = "rocksdb")]
    Rocks(rocksdb::WriteBatch),
}

impl Engine {
    pub fn open(config: EngineConfig) -> Result<Self, OpenError> {
        match config {
            EngineConfig::Memory => Ok(Self::Memory(memory::Memory::default())),
            EngineConfig::Simulated(disk) => Ok(Self::Memory(memory::Memory::on(&disk))),
            #[cfg(feature = "rocksdb")]
            EngineConfig::Rocks(config) => rocks::Rocks::open(&config).map(Self::Rocks),
        }
    }

    pub fn prepare(&self, writes: Vec<Write>) -> Result<Prepared, StoreError> {
        match self {
            Self::Memory(_) => Ok(Prepared::Memory(writes)),
            #[cfg(feature = "rocksdb")]
            Self::Rocks(engine) => engine.prepare(writes).map(Prepared::Rocks),
        }
    }

    /// Applies the writes: all or none, and visible at once to whoever reads from now on.
    pub fn write(&self, writes: Prepared) -> Result<(), StoreError> {
        match (self, writes) {
            (Self::Memory(engine), Prepared::Memory(writes)) => engine.write(writes),
            #[cfg(feature = "rocksdb")]
            (Self::Rocks(engine), Prepared::Rocks(writes)) => engine.write(writes),
            #[cfg(feature = "rocksdb")]
            _ => Err(StoreError::Engine(
                "the batch was made for another engine".into(),
            )),
        }
    }

    /// Returns when everything that was written before the call is on disk.
    pub fn sync(&self) -> Result<(), StoreError> {
        match self {
            Self::Memory(engine) => engine.sync(),
            #[cfg(feature = "rocksdb")]
            Self::Rocks(engine) => engine.sync(),
        }
    }

    /// How long a sync takes, of a disk that is simulated.
    pub fn simulated_latency(&self) -> Option<std::time::Duration> {
        match self {
            Self::Memory(engine) => engine.simulated_latency(),
            #[cfg(feature = "rocksdb")]
            Self::Rocks(_) => None,
        }
    }

    /// Reads the newest value of a row.
    pub fn get<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        match self {
            Self::Memory(engine) => Ok(engine.get(key).map(|value| read(&value))),
            #[cfg(feature = "rocksdb")]
            Self::Rocks(engine) => engine.get(key, read),
        }
    }

    pub fn snapshot(&self) -> RawSnapshot {
        match self {
            Self::Memory(engine) => RawSnapshot::Memory(Arc::new(engine.snapshot())),
            #[cfg(feature = "rocksdb")]
            Self::Rocks(engine) => RawSnapshot::Rocks(Arc::new(engine.snapshot())),
        }
    }
}

/// Everything as it was at one moment.
#[derive(Clone)]
pub(crate) enum RawSnapshot {
    Memory(Arc<memory::MemorySnapshot>),
    #[cfg(feature = "rocksdb")]
    Rocks(Arc<rocks::RocksSnapshot>),
}

impl RawSnapshot {
    pub fn get<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        match self {
            Self::Memory(snapshot) => Ok(snapshot.get(key).map(|value| read(&value))),
            #[cfg(feature = "rocksdb")]
            Self::Rocks(snapshot) => snapshot.get(key, read),
        }
    }

    /// Many rows of one table.
    pub fn get_many<T>(
        &self,
        keys: &[Vec<u8>],
        mut read: impl FnMut(&[u8]) -> T,
    ) -> Result<Vec<Option<T>>, StoreError> {
        match self {
            Self::Memory(snapshot) => Ok(keys
                .iter()
                .map(|key| snapshot.get(key).map(|value| read(&value)))
                .collect()),
            #[cfg(feature = "rocksdb")]
            Self::Rocks(snapshot) => snapshot.get_many(keys, read),
        }
    }

    /// The rows of a range within one table.
    pub fn scan(
        &self,
        range: &RowRange,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Memory(snapshot) => {
                snapshot.scan(range, direction, visit);
                Ok(())
            }
            #[cfg(feature = "rocksdb")]
            Self::Rocks(snapshot) => snapshot.scan(range, direction, visit),
        }
    }

    /// Every row there is; those of one table together and in order.
    pub fn scan_all(&self, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        match self {
            Self::Memory(snapshot) => {
                snapshot.scan(
                    &RowRange {
                        start: Vec::new(),
                        end: None,
                    },
                    Direction::Forward,
                    visit,
                );
                Ok(())
            }
            #[cfg(feature = "rocksdb")]
            Self::Rocks(snapshot) => snapshot.scan_all(visit),
        }
    }
}
