//! The engine for servers: RocksDB, embedded.
//!
//! Tables are spread over a few column families, by the high byte of their number. All share one
//! cache of blocks, one budget of write buffers and one journal, so that a batch over several of them
//! is atomic. The journal is written by [`Rocks::sync`] only: what a crash takes is exactly what was
//! never reported as durable, and always the end of the journal.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DBCompressionType,
    DBRecoveryMode, DBWithThreadMode, IteratorMode, LogLevel, Options, ReadOptions, SingleThreaded,
    SnapshotWithThreadMode, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::{RocksConfig, Visitor, Write};
use crate::{Direction, OpenError, StoreError, table::RowRange};

type Db = DBWithThreadMode<SingleThreaded>;

/// The column families, by the high byte of the tables in them. Tables with any other high byte are
/// in the first.
const FAMILIES: [&str; 8] = ["default", "01", "02", "03", "04", "05", "06", "07"];

fn family(key: &[u8]) -> &'static str {
    key.first()
        .and_then(|high| FAMILIES.get(usize::from(*high)))
        .unwrap_or(&FAMILIES[0])
}

pub(crate) struct Rocks {
    db: Arc<Db>,
    no_wait: WriteOptions,
}

impl Rocks {
    pub fn open(config: &RocksConfig) -> Result<Self, OpenError> {
        let RocksConfig {
            path,
            cache_bytes,
            write_buffer_bytes,
        } = config;
        let failed = |error: rocksdb::Error| open_error(path, &error);
        std::fs::create_dir_all(path).map_err(|error| OpenError::Engine {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        refuse_foreign(path)?;
        let cache = Cache::new_lru_cache(*cache_bytes);
        let buffers = WriteBufferManager::new_write_buffer_manager(*write_buffer_bytes, false);
        let families = FAMILIES.map(|name| {
            ColumnFamilyDescriptor::new(name, family_options(&cache, *write_buffer_bytes))
        });
        let db = Db::open_cf_descriptors(
            &database_options(&buffers, *write_buffer_bytes),
            path,
            families,
        )
        .map_err(failed)?;
        Ok(Self {
            db: Arc::new(db),
            no_wait: WriteOptions::default(),
        })
    }

    pub fn prepare(&self, writes: Vec<Write>) -> Result<WriteBatch, StoreError> {
        let mut batch = WriteBatch::default();
        for write in writes {
            match write {
                Write::Put(key, value) => batch.put_cf(handle(&self.db, &key)?, key, value),
                Write::Delete(key) => batch.delete_cf(handle(&self.db, &key)?, key),
            }
        }
        Ok(batch)
    }

    pub fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.db
            .write_opt(batch, &self.no_wait)
            .map_err(|error| engine_error(&error))
    }

    pub fn sync(&self) -> Result<(), StoreError> {
        self.db
            .flush_wal(true)
            .map_err(|error| engine_error(&error))
    }

    pub fn get<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        let found = self.db.get_pinned_cf(handle(&self.db, key)?, key);
        Ok(found
            .map_err(|error| engine_error(&error))?
            .map(|value| read(&value)))
    }

    pub fn snapshot(&self) -> RocksSnapshot {
        RocksSnapshot(Owned::new(Arc::clone(&self.db), |db| db.snapshot()))
    }
}

type Borrowed<'a> = SnapshotWithThreadMode<'a, Db>;

self_cell::self_cell!(
    /// A snapshot together with the database that it is of.
    struct Owned {
        owner: Arc<Db>,
        #[covariant]
        dependent: Borrowed,
    }
);

pub(crate) struct RocksSnapshot(Owned);

impl RocksSnapshot {
    pub fn get<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        let found = self
            .0
            .borrow_dependent()
            .get_pinned_cf(handle(self.0.borrow_owner(), key)?, key);
        Ok(found
            .map_err(|error| engine_error(&error))?
            .map(|value| read(&value)))
    }

    /// The keys must all be of one table.
    pub fn get_many<T>(
        &self,
        keys: &[Vec<u8>],
        mut read: impl FnMut(&[u8]) -> T,
    ) -> Result<Vec<Option<T>>, StoreError> {
        let Some(first) = keys.first() else {
            return Ok(Vec::new());
        };
        let db = self.0.borrow_owner();
        let mut options = ReadOptions::default();
        options.set_snapshot(self.0.borrow_dependent());
        let found = db.batched_multi_get_cf_opt(handle(db, first)?, keys, false, &options);
        let read = |row: Result<Option<rocksdb::DBPinnableSlice<'_>>, _>| {
            Ok(row
                .map_err(|error| engine_error(&error))?
                .map(|value| read(&value)))
        };
        found.into_iter().map(read).collect()
    }

    pub fn scan(
        &self,
        range: &RowRange,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(range.start.clone());
        if let Some(end) = &range.end {
            options.set_iterate_upper_bound(end.clone());
        }
        let family = handle(self.0.borrow_owner(), &range.start)?;
        self.walk(family, options, direction, visit)
    }

    pub fn scan_all(&self, visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        let mut broken = false;
        for name in FAMILIES {
            let family = named(self.0.borrow_owner(), name)?;
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            self.walk(family, options, Direction::Forward, &mut |key, value| {
                let flow = visit(key, value);
                broken = flow.is_break();
                flow
            })?;
            if broken {
                break;
            }
        }
        Ok(())
    }

    fn walk(
        &self,
        family: &ColumnFamily,
        options: ReadOptions,
        direction: Direction,
        visit: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        let mut rows = self
            .0
            .borrow_dependent()
            .raw_iterator_cf_opt(family, options);
        match direction {
            Direction::Forward => rows.seek_to_first(),
            Direction::Backward => rows.seek_to_last(),
        }
        while let Some((key, value)) = rows.item() {
            if visit(key, value) == ControlFlow::Break(()) {
                return Ok(());
            }
            match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.prev(),
            }
        }
        rows.status().map_err(|error| engine_error(&error))
    }
}

fn handle<'db>(db: &'db Db, key: &[u8]) -> Result<&'db ColumnFamily, StoreError> {
    named(db, family(key))
}

fn named<'db>(db: &'db Db, name: &str) -> Result<&'db ColumnFamily, StoreError> {
    db.cf_handle(name)
        .ok_or_else(|| StoreError::Engine(format!("the column family {name} is missing").into()))
}

fn engine_error(error: &rocksdb::Error) -> StoreError {
    StoreError::Engine(error.to_string().into())
}

fn open_error(path: &Path, error: &rocksdb::Error) -> OpenError {
    let reason = error.to_string();
    if error.kind() == rocksdb::ErrorKind::IOError && reason.to_lowercase().contains("lock") {
        return OpenError::Locked(path.to_owned());
    }
    OpenError::Engine {
        path: path.to_owned(),
        reason,
    }
}

/// Looks at a directory without touching it: somebody else's database must not even get our column
/// families.
fn refuse_foreign(path: &Path) -> Result<(), OpenError> {
    if !path.join("CURRENT").exists() {
        return Ok(());
    }
    let options = Options::default();
    let failed = |error: rocksdb::Error| open_error(path, &error);
    let found = Db::list_cf(&options, path).map_err(failed)?;
    if let Some(other) = found.iter().find(|name| !FAMILIES.contains(&name.as_str())) {
        return Err(OpenError::Foreign(format!(
            "it has a column family \"{other}\""
        )));
    }
    // Ours has all of them from its first open on, unless that one was cut short: then it is empty.
    if found.len() < FAMILIES.len() {
        let db = Db::open_cf_for_read_only(&options, path, &found, false).map_err(failed)?;
        if db.iterator(IteratorMode::Start).next().is_some() {
            return Err(OpenError::Foreign("it has rows where ours has none".into()));
        }
    }
    Ok(())
}

fn database_options(buffers: &WriteBufferManager, write_buffer_bytes: usize) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // The journal ends at the first torn record: what lies behind was never reported as durable.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_manual_wal_flush(true);
    options.set_write_buffer_manager(buffers);
    // A journal is kept until every family has written its rows of it to a table file: this makes
    // quiet families write theirs.
    options.set_max_total_wal_size(write_buffer_bytes as u64);
    // One batch is applied at a time, so nothing is gained by what concurrent writers would need.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_open_files(512);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

fn family_options(cache: &Cache, write_buffer_bytes: usize) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(8 << 10);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_optimize_filters_for_memory(true);
    // In the cache, so that its limit holds for them too.
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size((write_buffer_bytes / 2).max(1 << 20));
    options.set_max_write_buffer_number(3);
    options.set_arena_block_size(128 << 10);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_target_file_size_base(16 << 20);
    options.set_max_bytes_for_level_base(64 << 20);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options
}
