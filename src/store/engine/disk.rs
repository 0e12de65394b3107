//! A disk for simulations: it outlives the stores that are opened on it, and when its power is cut it
//! forgets what was not synced.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::Write;
use crate::StoreError;

/// A simulated disk. Clones are the same disk.
///
/// A store on it keeps its rows in memory, as [`EngineConfig::Memory`](crate::EngineConfig::Memory)
/// does, and syncs in a task of the runtime instead of a thread of its own: under a paused clock all
/// that happens on it happens in the same order in every run.
#[derive(Clone, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

impl std::fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedDisk").finish_non_exhaustive()
    }
}

/// The rows of a database, by key.
pub(crate) type Image = BTreeMap<Vec<u8>, Arc<[u8]>>;

#[derive(Default)]
struct State {
    /// What survives in any case.
    synced: Image,
    /// The writes since, in their order.
    journal: Vec<Vec<Write>>,
    /// How long a sync takes.
    latency: Duration,
    /// How often the power was cut. A store of an earlier life writes nothing any more.
    lives: u64,
    /// Writes that are still taken before the power fails by itself.
    left: Option<u64>,
}

impl State {
    fn apply(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write {
                Write::Put(key, value) => self.synced.insert(key, Arc::from(value)),
                Write::Delete(key) => self.synced.remove(&key),
            };
        }
    }
}

impl SimulatedDisk {
    /// From now on a sync takes so long.
    pub fn set_latency(&self, latency: Duration) {
        self.0.lock().latency = latency;
    }

    /// The power fails just after the `writes`-th write from now: that one is applied, no more are
    /// taken and nothing more is synced. [`Store::ended`](crate::Store::ended) tells when it happened;
    /// what is left is decided by [`SimulatedDisk::cut`].
    pub fn fail_after(&self, writes: u64) {
        self.0.lock().left = Some(writes);
    }

    /// Cuts the power. Of the writes that were not synced a prefix survives, as of a journal on a real
    /// disk; how long it is `surviving` says, given how many there are. Stores that are open on the
    /// disk take no more writes; the next one that is opened finds what is left.
    pub fn cut(&self, surviving: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock();
        state.lives += 1;
        state.left = None;
        let mut journal = std::mem::take(&mut state.journal);
        journal.truncate(surviving(journal.len()));
        for writes in journal {
            state.apply(writes);
        }
    }

    /// The disk as a store sees it that is opened now, and what is on it.
    pub(crate) fn mount(&self) -> (Mounted, Image) {
        let state = self.0.lock();
        let mounted = Mounted {
            disk: self.clone(),
            life: state.lives,
        };
        (mounted, state.synced.clone())
    }
}

/// A disk in one of its lives.
pub(crate) struct Mounted {
    disk: SimulatedDisk,
    life: u64,
}

impl Mounted {
    pub fn latency(&self) -> Duration {
        self.disk.0.lock().latency
    }

    pub fn write(&self, writes: &[Write]) -> Result<(), StoreError> {
        let mut state = self.disk.0.lock();
        self.powered(&state)?;
        state.left = state.left.map(|left| left - 1);
        state.journal.push(writes.to_vec());
        Ok(())
    }

    pub fn sync(&self) -> Result<(), StoreError> {
        let mut state = self.disk.0.lock();
        self.powered(&state)?;
        for writes in std::mem::take(&mut state.journal) {
            state.apply(writes);
        }
        Ok(())
    }

    fn powered(&self, state: &State) -> Result<(), StoreError> {
        if state.lives == self.life && state.left != Some(0) {
            Ok(())
        } else {
            Err(StoreError::Engine("the power was cut".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Batch, EngineConfig, Store, Table};

    use super::SimulatedDisk;

    static ROWS: Table<u64, u64> = Table::new(0xF001, "rows");

    fn row(key: u64) -> Batch {
        let mut batch = Batch::new();
        batch.put(&ROWS, &key, &key);
        batch
    }

    async fn keys(store: &Store) -> Vec<u64> {
        let mut found = Vec::new();
        for key in 0..10 {
            found.extend(store.snapshot().get(&ROWS, &key).await.unwrap());
        }
        found
    }

    /// What was reported as durable survives, a prefix of the rest may, and the old store is dead.
    #[tokio::test(start_paused = true)]
    async fn a_cut_takes_a_suffix_of_what_was_not_synced() {
        let disk = SimulatedDisk::default();
        let open = || Store::open(EngineConfig::Simulated(disk.clone()));
        let store = open().await.unwrap();
        store.commit_durable(row(0)).await.unwrap();
        for key in 1..4 {
            let _ = store.commit(row(key)).await.unwrap();
        }
        assert_eq!(keys(&store).await, [0, 1, 2, 3]);
        disk.cut(|unsynced| {
            assert_eq!(unsynced, 3);
            1
        });
        store.commit_durable(row(5)).await.unwrap_err();
        store.ended().await;
        let store = open().await.unwrap();
        assert_eq!(keys(&store).await, [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_power_fails_after_the_given_write() {
        let disk = SimulatedDisk::default();
        let open = || Store::open(EngineConfig::Simulated(disk.clone()));
        let store = open().await.unwrap();
        disk.fail_after(2);
        store.commit_durable(row(0)).await.unwrap();
        store.commit_durable(row(1)).await.unwrap_err();
        store.ended().await;
        disk.cut(|unsynced| unsynced);
        assert_eq!(keys(&open().await.unwrap()).await, [0, 1]);
    }
}
