//! The engines: an ordered map of bytes with snapshots and atomic writes.
//!
//! Which one serves a store is decided where it is opened; nothing above this module knows. An engine
//! offers only what a distributed ordered key-value store could offer too: no range delete, and no
//! column family leaves this folder.

mod memory;

use std::{ops::ControlFlow, path::PathBuf, sync::Arc};

use crate::{Direction, OpenError, StoreError, table::RowRange};

/// Which engine serves the store.
#[derive(Clone, Debug)]
pub enum EngineConfig {
    /// In memory, for tests; gone when the store is dropped.
    Memory,
    /// RocksDB, embedded.
    Rocks(RocksConfig),
}

/// How RocksDB is set up.
#[derive(Clone, Debug)]
pub struct RocksConfig {
    /// The directory of the database; made when it is absent.
    pub path: PathBuf,
    /// Bytes of the cache of blocks, shared by all tables; indexes and filters live in it too.
    pub cache_bytes: usize,
    /// Bytes of rows held in memory until they are written to a table file, over all tables.
    pub write_buffer_bytes: usize,
}

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
}

/// Writes in the form that the engine takes them: made before the write lock is taken.
pub(crate) enum Prepared {
    Memory(Vec<Write>),
}

impl Engine {
    pub fn open(config: EngineConfig) -> Result<Self, OpenError> {
        match config {
            EngineConfig::Memory => Ok(Self::Memory(memory::Memory::default())),
            EngineConfig::Rocks(config) => Err(OpenError::Engine {
                path: config.path,
                reason: "RocksDB is not built in yet".into(),
            }),
        }
    }

    pub fn prepare(&self, writes: Vec<Write>) -> Result<Prepared, StoreError> {
        match self {
            Self::Memory(_) => Ok(Prepared::Memory(writes)),
        }
    }

    /// Applies the writes: all or none, and visible at once to whoever reads from now on.
    pub fn write(&self, writes: Prepared) -> Result<(), StoreError> {
        match (self, writes) {
            (Self::Memory(engine), Prepared::Memory(writes)) => engine.write(writes),
        }
    }

    /// Returns when everything that was written before the call is on disk.
    pub fn sync(&self) -> Result<(), StoreError> {
        match self {
            Self::Memory(engine) => engine.sync(),
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
        }
    }

    pub fn snapshot(&self) -> RawSnapshot {
        match self {
            Self::Memory(engine) => RawSnapshot::Memory(Arc::new(engine.snapshot())),
        }
    }
}

/// Everything as it was at one moment.
#[derive(Clone)]
pub(crate) enum RawSnapshot {
    Memory(Arc<memory::MemorySnapshot>),
}

impl RawSnapshot {
    pub fn get<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        match self {
            Self::Memory(snapshot) => Ok(snapshot.get(key).map(|value| read(&value))),
        }
    }

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
        }
    }
}
