//! The store: where the parts meet.

use std::{sync::Arc, thread::JoinHandle};

use parking_lot::Mutex;

use crate::{
    Batch, CommitError, EngineConfig, Follower, Log, Migration, Numbers, OpenError, Reservation,
    Snapshot, StoreError, blocking, committer::Committer, engine::Engine, positions::WriteNumber,
    schema,
};

/// Up to so many bytes a batch is applied on the caller's thread: it takes less time than a
/// change of threads.
const SMALL_BATCH: usize = 256 << 10;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Where the rows are.
    pub engine: EngineConfig,
    /// All there ever were, in order.
    pub migrations: &'static [Migration],
}

impl From<EngineConfig> for OpenOptions {
    fn from(engine: EngineConfig) -> Self {
        Self {
            engine,
            migrations: &[],
        }
    }
}

/// Typed tables on an ordered key-value engine. Cheap to clone.
///
/// When the last clone is dropped, everything applied is synced and the engine is closed.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    committer: Arc<Committer>,
    log: Log,
    numbers: Numbers,
    lineage: std::sync::OnceLock<[u8; 16]>,
    syncer: Mutex<Option<Syncer>>,
}

/// What syncs the engine.
enum Syncer {
    Thread(JoinHandle<()>),
    /// Where the disk is simulated.
    Task(tokio::task::JoinHandle<()>),
}

impl Syncer {
    fn start(committer: &Arc<Committer>) -> Result<Self, StoreError> {
        let syncer = Arc::clone(committer);
        if committer.engine.simulated_latency().is_some() {
            return Ok(Self::Task(tokio::spawn(syncer.sync_task())));
        }
        let thread = std::thread::Builder::new()
            .name("store-sync".into())
            .spawn(move || syncer.sync_loop());
        let failed =
            |error| StoreError::Engine(format!("the sync thread can't be started: {error}").into());
        Ok(Self::Thread(thread.map_err(failed)?))
    }
}

impl Store {
    /// Opens a database, and makes it when it is absent.
    ///
    /// # Errors
    /// [`OpenError`]: it is in use, of a newer schema, not ours, or can't be read.
    pub async fn open(options: impl Into<OpenOptions>) -> Result<Self, OpenError> {
        let OpenOptions { engine, migrations } = options.into();
        let engine = Engine::open(engine)?;
        let examined = schema::examine(&engine, migrations).await?;
        let committer = Arc::new(Committer::new(engine, examined.next));
        let syncer = Syncer::start(&committer)?;
        let store = Self {
            inner: Arc::new(Inner {
                log: Log::new(Arc::clone(&committer)),
                numbers: Numbers::new(Arc::clone(&committer)),
                committer,
                lineage: std::sync::OnceLock::new(),
                syncer: Mutex::new(Some(syncer)),
            }),
        };
        let meta = schema::migrate(&store, examined.meta, migrations).await?;
        let _ = store.inner.lineage.set(meta.lineage);
        Ok(store)
    }

    /// An empty store in memory, for tests.
    ///
    /// # Panics
    /// When the system can't start a thread.
    pub async fn memory() -> Self {
        #[expect(clippy::expect_used, reason = "an empty map can be opened")]
        Self::open(EngineConfig::Memory)
            .await
            .expect("a store in memory")
    }

    /// A number made at random with the database: it tells this one from every other, a restored
    /// copy excepted.
    pub fn lineage(&self) -> [u8; 16] {
        self.inner.lineage.get().copied().unwrap_or_default()
    }

    /// Everything that is applied now.
    pub fn snapshot(&self) -> Snapshot {
        // In this order: what the watermark covers is in a snapshot that is taken afterwards.
        let position = self.inner.log.watermark();
        Snapshot::new(position, self.inner.committer.engine.snapshot())
    }

    /// Positions for `n` log entries. The watermark waits for them: reserve just before the batch
    /// is built, and attach them to it.
    pub fn reserve(&self, n: u32) -> Reservation {
        self.inner.committer.reserve(n)
    }

    /// Applies a batch: all of it or nothing. Snapshots taken from now on show it; it is on disk
    /// when [`Applied::durable`] says so. What was begun is finished, also when the future is
    /// dropped.
    ///
    /// # Errors
    /// [`CommitError`]; nothing was applied.
    pub async fn commit(&self, batch: Batch) -> Result<Applied, CommitError> {
        let committer = Arc::clone(&self.inner.committer);
        let write = if batch.bytes() <= SMALL_BATCH {
            committer.apply(batch)?
        } else {
            let committer = Arc::clone(&committer);
            let applied = blocking(move || committer.apply(batch)).await;
            applied.map_err(|error| StoreError::Engine(error.to_string().into()))??
        };
        Ok(Applied { write, committer })
    }

    /// Applies a batch and waits until it is on disk.
    ///
    /// # Errors
    /// [`CommitError`]. If the sync failed the batch may or may not be there after a restart.
    pub async fn commit_durable(&self, batch: Batch) -> Result<(), CommitError> {
        Ok(self.commit(batch).await?.durable().await?)
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.inner.log
    }

    /// The short numbers.
    pub fn numbers(&self) -> &Numbers {
        &self.inner.numbers
    }

    /// A reader of the log with a stored place of its own. A name belongs to one follower at a time.
    ///
    /// # Errors
    /// [`StoreError`] when its cursor can't be read.
    pub async fn follower(&self, name: &'static str) -> Result<Follower, StoreError> {
        Follower::open(self, name).await
    }

    /// Waits until the store takes no more writes, and says why: it was closed, or a write or a sync
    /// failed and the process should stop.
    pub async fn ended(&self) -> StoreError {
        self.inner.committer.ended().await
    }

    /// Why the store takes no more writes, if it does not: as [`Store::ended`], without waiting.
    pub fn has_ended(&self) -> Option<StoreError> {
        self.inner.committer.has_ended()
    }

    #[cfg(test)]
    pub(crate) fn committer(&self) -> &Arc<Committer> {
        &self.inner.committer
    }

    /// Takes no more writes and returns when everything applied is on disk. Reads go on.
    pub async fn close(&self) {
        self.inner.numbers.close();
        let syncer = self.inner.syncer.lock().take();
        // A panic of it has been reported; there is nothing left to wait for.
        match syncer {
            Some(Syncer::Thread(thread)) => {
                let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            }
            Some(Syncer::Task(task)) => drop(task.await),
            None => {}
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.numbers.close();
        if let Some(Syncer::Thread(thread)) = self.syncer.lock().take() {
            let _ = thread.join();
        }
    }
}

/// A batch that is applied but perhaps not yet on disk.
#[must_use = "nothing is acknowledged before it is durable"]
pub struct Applied {
    write: WriteNumber,
    committer: Arc<Committer>,
}

impl Applied {
    #[cfg(test)]
    pub(crate) fn write(&self) -> WriteNumber {
        self.write
    }

    /// Waits until the batch, and everything applied before it, is on disk.
    ///
    /// # Errors
    /// [`StoreError`] when the sync failed: the batch may or may not be there after a restart.
    pub async fn durable(self) -> Result<(), StoreError> {
        self.committer.durable(self.write).await
    }
}
