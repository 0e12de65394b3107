//! The one way to write: batches are applied one after another, and synced together.
//!
//! Lock order: those of [`crate::Numbers`], then `order`, then `tracker`; `sync` stands alone. None is
//! held across an await or a sync of the engine.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot, watch};

use crate::{
    Batch, CommitError, Position, StoreError,
    batch::Guard,
    engine::{Engine, Write},
    log::{Reservation, Ring},
    positions::{Tracker, WriteNumber},
    schema,
};

/// How many positions one move of the mark covers.
const POSITION_BLOCK: u64 = 4096;

/// How long a write that nobody waits for may stay unsynced.
const LAZY_SYNC: Duration = Duration::from_millis(200);

/// How long the next sync may wait for the writers that the last one set free.
const LONGEST_PAUSE: Duration = Duration::from_micros(400);

/// A shorter pause is not worth the sleep.
const SHORTEST_PAUSE: Duration = Duration::from_micros(20);

pub(crate) struct Committer {
    pub engine: Engine,
    pub ring: Ring,
    pub watermark: watch::Sender<Position>,
    /// Held while guards are checked and a batch is applied.
    order: Mutex<Order>,
    tracker: Mutex<Tracker>,
    /// The last write that is applied.
    applied: AtomicU64,
    sync: Mutex<SyncState>,
    wake: Condvar,
    /// The same for a task in place of the thread.
    wake_task: Notify,
    /// Why nothing is written any more, for those who wait for something to happen.
    ended: watch::Sender<Option<StoreError>>,
}

struct Order {
    /// The last write that was begun.
    last: WriteNumber,
    /// Why nothing is written any more.
    stopped: Option<StoreError>,
}

/// What the sync thread and those who wait for it tell each other.
struct SyncState {
    /// Somebody wants this write on disk.
    wanted: WriteNumber,
    /// Something was written that nobody waits for.
    lazy: bool,
    /// Everything up to here is on disk.
    synced: WriteNumber,
    waiters: Vec<Waiter>,
    failed: Option<StoreError>,
    stop: bool,
}

struct Waiter {
    write: WriteNumber,
    done: oneshot::Sender<Result<(), StoreError>>,
}

impl Committer {
    /// `next` is the first position that was never given out.
    pub fn new(engine: Engine, next: u64) -> Self {
        let watermark = Position(next - 1);
        Self {
            engine,
            ring: Ring::new(watermark),
            watermark: watch::Sender::new(watermark),
            order: Mutex::new(Order {
                last: 0,
                stopped: None,
            }),
            tracker: Mutex::new(Tracker::new(next)),
            applied: AtomicU64::new(0),
            sync: Mutex::new(SyncState {
                wanted: 0,
                lazy: false,
                synced: 0,
                waiters: Vec::new(),
                failed: None,
                stop: false,
            }),
            wake: Condvar::new(),
            wake_task: Notify::new(),
            ended: watch::Sender::new(None),
        }
    }

    // ---- positions -----------------------------------------------------------

    pub fn reserve(self: &Arc<Self>, count: u32) -> Reservation {
        let reserved = self.tracker.lock().reserve(count);
        let first = reserved.unwrap_or_else(|| self.reserve_beyond_mark(count));
        Reservation::new(first, count, Arc::clone(self))
    }

    /// Moves the mark, then reserves. If the mark can't be written the store is read-only: the
    /// positions are then of no use to anybody, and the watermark stays below them.
    fn reserve_beyond_mark(&self, count: u32) -> u64 {
        let mut order = self.order.lock();
        loop {
            let mut tracker = self.tracker.lock();
            if let Some(first) = tracker.reserve(count) {
                return first;
            }
            let mark = tracker.next() + u64::from(count) + POSITION_BLOCK;
            drop(tracker);
            let write = self
                .write_mark(&mut order, mark)
                .unwrap_or(WriteNumber::MAX);
            self.tracker.lock().mark(mark, write);
        }
    }

    fn write_mark(&self, order: &mut Order, mark: u64) -> Result<WriteNumber, StoreError> {
        let mut batch = Batch::new();
        batch.put(&schema::NEXT_POSITION, &(), &Position(mark));
        self.write(order, batch.writes)
    }

    pub fn give_up(&self, first: u64) {
        self.tracker.lock().given_up(first);
        self.move_watermark();
    }

    fn move_watermark(&self) {
        let synced = self.sync.lock().synced;
        let watermark = Position(self.tracker.lock().advance(synced));
        self.watermark.send_if_modified(|told| {
            let higher = watermark > *told;
            *told = watermark.max(*told);
            higher
        });
    }

    // ---- applying ------------------------------------------------------------

    /// Applies a batch and answers the number of the write.
    pub fn apply(&self, batch: Batch) -> Result<WriteNumber, CommitError> {
        if batch.bytes() > Batch::MAX_BYTES {
            return Err(CommitError::TooLarge {
                bytes: batch.bytes(),
                limit: Batch::MAX_BYTES,
            });
        }
        if let Some(position) = batch.unreserved() {
            return Err(CommitError::Unreserved(position.0));
        }
        let bytes = batch.bytes();
        let Batch {
            guards,
            writes,
            entries,
            reservations,
            names,
            cursors,
            ..
        } = batch;
        let prepared = self.engine.prepare(writes)?;

        let mut order = self.order.lock();
        for guard in &guards {
            self.check(guard)?;
        }
        let write = self.begin(&mut order)?;
        self.engine
            .write(prepared)
            .map_err(|error| self.stop(&mut order, error))?;
        self.applied.store(write, Ordering::Release);
        self.ring.extend(entries);
        let resolves = !reservations.is_empty();
        {
            let mut tracker = self.tracker.lock();
            for reservation in reservations {
                tracker.applied(reservation.used(), write);
            }
        }
        drop(order);

        for name in names {
            name.applied();
        }
        for (cursor, to) in cursors {
            cursor.fetch_max(to.0, Ordering::AcqRel);
        }

        self.want_sync(write, resolves);
        metrics::counter!("resuni_store_commits_total").increment(1);
        metrics::counter!("resuni_store_written_bytes_total").increment(bytes as u64);
        Ok(write)
    }

    fn check(&self, guard: &Guard) -> Result<(), CommitError> {
        let found = self
            .engine
            .get(&guard.key, |value| guard.expected.holds(Some(value)))?;
        if found.unwrap_or_else(|| guard.expected.holds(None)) {
            Ok(())
        } else {
            Err(CommitError::Guard { table: guard.table })
        }
    }

    /// A write of the store's own, such as a moved mark: it need not be synced by itself, since
    /// whatever depends on it comes after it in the engine's journal.
    pub fn write_aside(&self, batch: Batch) -> Result<WriteNumber, StoreError> {
        self.write(&mut self.order.lock(), batch.writes)
    }

    fn write(&self, order: &mut Order, writes: Vec<Write>) -> Result<WriteNumber, StoreError> {
        let write = self.begin(order)?;
        let written = self
            .engine
            .prepare(writes)
            .and_then(|writes| self.engine.write(writes));
        written.map_err(|error| self.stop(order, error))?;
        self.applied.store(write, Ordering::Release);
        self.want_sync(write, false);
        Ok(write)
    }

    fn begin(&self, order: &mut Order) -> Result<WriteNumber, StoreError> {
        if let Some(reason) = &order.stopped {
            return Err(reason.clone());
        }
        order.last += 1;
        Ok(order.last)
    }

    /// After a failed write or sync nobody knows what the disk holds, and trying again could report
    /// a success that isn't one: so nothing is written until the database is opened anew.
    fn stop(&self, order: &mut Order, error: StoreError) -> StoreError {
        if order.stopped.is_none() {
            tracing::error!(%error, "the database takes no more writes; look at the disk, then restart");
            let reason = StoreError::ReadOnly(error.to_string().into());
            order.stopped = Some(reason.clone());
            self.tracker.lock().freeze();
            self.ended.send_replace(Some(reason));
        }
        error
    }

    /// Takes no more writes because of `error`.
    pub fn stop_writing(&self, error: StoreError) {
        self.stop(&mut self.order.lock(), error);
    }

    /// Waits until nothing is written any more.
    pub async fn ended(&self) -> StoreError {
        let mut ended = self.ended.subscribe();
        let reason = ended.wait_for(Option::is_some).await;
        reason
            .ok()
            .and_then(|reason| reason.clone())
            .unwrap_or(StoreError::Closed)
    }

    pub fn has_ended(&self) -> Option<StoreError> {
        self.ended.borrow().clone()
    }

    // ---- syncing -------------------------------------------------------------

    fn want_sync(&self, write: WriteNumber, soon: bool) {
        let mut sync = self.sync.lock();
        let known = if soon {
            sync.wanted > sync.synced
        } else {
            sync.lazy
        };
        if soon {
            sync.wanted = sync.wanted.max(write);
        } else {
            sync.lazy = true;
        }
        drop(sync);
        if !known {
            self.wake_syncer();
        }
    }

    /// Waits until a write is on disk.
    pub async fn durable(&self, write: WriteNumber) -> Result<(), StoreError> {
        let waiting = {
            let mut sync = self.sync.lock();
            if sync.synced >= write {
                return Ok(());
            }
            if let Some(error) = &sync.failed {
                return Err(error.clone());
            }
            let (done, waiting) = oneshot::channel();
            sync.waiters.push(Waiter { write, done });
            sync.wanted = sync.wanted.max(write);
            waiting
        };
        self.wake_syncer();
        waiting.await.unwrap_or(Err(StoreError::Closed))
    }

    fn wake_syncer(&self) {
        self.wake.notify_one();
        self.wake_task.notify_one();
    }

    /// What the sync thread does, as a task: for a simulated disk, where all takes simulated time.
    pub async fn sync_task(self: Arc<Self>) {
        loop {
            let (soon, any, stop) = {
                let sync = self.sync.lock();
                let any = self.applied.load(Ordering::Acquire) > sync.synced;
                (sync.wanted > sync.synced || sync.stop, any, sync.stop)
            };
            match (any, stop) {
                (false, true) => return,
                (false, false) => self.wake_task.notified().await,
                (true, _) => {
                    let latency = self.engine.simulated_latency().unwrap_or_default();
                    if !soon {
                        // Somebody may come to want it sooner.
                        let _ = tokio::time::timeout(LAZY_SYNC, self.wake_task.notified()).await;
                    }
                    let target = self.applied.load(Ordering::Acquire);
                    tokio::time::sleep(latency).await;
                    if !self.synced(target, self.engine.sync()) {
                        return;
                    }
                }
            }
        }
    }

    /// The sync thread: while one sync is under way, the next group gathers.
    pub fn sync_loop(&self) {
        let mut pause = Duration::ZERO;
        while self.wait_for_work(pause) {
            let target = self.applied.load(Ordering::Acquire);
            let began = Instant::now();
            let result = self.engine.sync();
            let took = began.elapsed();
            metrics::histogram!("resuni_store_sync_seconds").record(took.as_secs_f64());
            pause = (took / 8).min(LONGEST_PAUSE);
            if !self.synced(target, result) {
                return;
            }
        }
    }

    /// Waits until something is to be synced; false when the thread shall end.
    ///
    /// If there is something already, the last sync has just set its group free. Without a pause this
    /// group would come back an instant too late, and two groups would take turns for ever, each
    /// waiting for two syncs.
    fn wait_for_work(&self, pause: Duration) -> bool {
        let mut sync = self.sync.lock();
        if sync.wanted > sync.synced && !sync.stop && pause > SHORTEST_PAUSE {
            drop(sync);
            #[expect(clippy::disallowed_methods, reason = "this thread serves nobody else")]
            std::thread::sleep(pause);
            sync = self.sync.lock();
        }
        loop {
            let unsynced = self.applied.load(Ordering::Acquire) > sync.synced;
            if sync.stop {
                return unsynced;
            }
            if sync.wanted > sync.synced {
                return true;
            }
            if !sync.lazy {
                self.wake.wait(&mut sync);
            } else if self.wake.wait_for(&mut sync, LAZY_SYNC).timed_out() {
                return true;
            }
        }
    }

    /// Tells everybody how a sync ended; false when it failed.
    fn synced(&self, target: WriteNumber, result: Result<(), StoreError>) -> bool {
        let failed = result.err().map(|error| {
            let mut order = self.order.lock();
            self.stop(&mut order, error);
            order.stopped.clone().unwrap_or(StoreError::Closed)
        });
        let ready = {
            let mut sync = self.sync.lock();
            match &failed {
                None => {
                    sync.synced = target;
                    sync.lazy = self.applied.load(Ordering::Acquire) > target;
                }
                Some(error) => sync.failed = Some(error.clone()),
            }
            let is_ready = |waiter: &mut Waiter| failed.is_some() || waiter.write <= target;
            sync.waiters.extract_if(.., is_ready).collect::<Vec<_>>()
        };
        if failed.is_none() {
            self.move_watermark();
            metrics::gauge!("resuni_store_watermark_lag").set(self.tracker.lock().lag() as f64);
        }
        for waiter in ready {
            // Who stopped waiting needs no answer.
            let _ = waiter.done.send(failed.clone().map_or(Ok(()), Err));
        }
        failed.is_none()
    }

    /// Takes no more writes after `last`, remembers exactly where the positions stand, and lets the
    /// sync thread end after a last sync.
    pub fn close(&self, mut last: Batch) {
        let mut order = self.order.lock();
        if order.stopped.is_none() {
            let next = {
                let mut tracker = self.tracker.lock();
                let next = tracker.next();
                tracker.mark(next, WriteNumber::MAX);
                next
            };
            last.put(&schema::NEXT_POSITION, &(), &Position(next));
            if let Err(error) = self.write(&mut order, last.writes) {
                tracing::warn!(%error, "the database was not closed in order; nothing acknowledged is lost");
            }
            order.stopped.get_or_insert(StoreError::Closed);
        }
        drop(order);
        self.ended.send_if_modified(|reason| {
            let first = reason.is_none();
            reason.get_or_insert(StoreError::Closed);
            first
        });
        self.sync.lock().stop = true;
        self.wake_syncer();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use crate::{
        Batch, CommitError, EngineConfig, Position, Store, StoreError, Table, Topic, engine::Engine,
    };

    static ROWS: Table<u64, u64> = Table::new(0xF001, "rows");

    /// After a failed sync nothing is reported as durable, whatever later syncs would say.
    #[tokio::test]
    async fn a_failed_sync_ends_all_writing() {
        let store = Store::open(EngineConfig::Memory).await.unwrap();
        let committer = store.committer();
        let Engine::Memory(engine) = &committer.engine else {
            unreachable!()
        };
        let before = store.log().watermark();

        engine.broken.store(true, Ordering::SeqCst);
        let mut batch = Batch::new();
        let reservation = store.reserve(1);
        batch.log(reservation.first(), Topic(1), 1, vec![]);
        batch.put(&ROWS, &1, &1);
        batch.attach(reservation);
        let first = store.commit(batch).await.unwrap();
        let failed = first.durable().await.unwrap_err();
        assert!(
            matches!(&failed, StoreError::ReadOnly(why) if why.contains("the disk is gone")),
            "{failed}"
        );

        engine.broken.store(false, Ordering::SeqCst);
        let mut batch = Batch::new();
        batch.put(&ROWS, &2, &2);
        let refused = store.commit_durable(batch).await.unwrap_err();
        assert!(
            matches!(refused, CommitError::Store(StoreError::ReadOnly(_))),
            "{refused}"
        );
        drop(store.reserve(3));
        assert_eq!(store.log().watermark(), before);
        assert_eq!(store.log().recent(Position(0), Position(9)), Some(vec![]));
        assert_eq!(
            store.snapshot().get(&ROWS, &2).await.unwrap(),
            None,
            "reading goes on"
        );
        store.close().await;
    }

    #[tokio::test]
    async fn a_write_that_nobody_waits_for_is_synced_all_the_same() {
        let store = Store::open(EngineConfig::Memory).await.unwrap();
        let mut batch = Batch::new();
        batch.put(&ROWS, &1, &1);
        let applied = store.commit(batch).await.unwrap();
        let write = applied.write();
        drop(applied);
        while store.committer().sync.lock().synced < write {
            tokio::task::yield_now().await;
        }
    }
}
