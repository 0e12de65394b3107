//! The engine for tests: an ordered map that keeps the old values of a row for as long as a snapshot
//! may ask for them.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;

use super::{SimulatedDisk, Visitor, Write, disk::Mounted};
use crate::{Direction, StoreError, table::RowRange};

#[derive(Default)]
pub(crate) struct Memory {
    rows: Arc<RwLock<Rows>>,
    /// Where the writes go besides.
    disk: Option<Mounted>,
    #[cfg(test)]
    pub broken: std::sync::atomic::AtomicBool,
}

#[derive(Default)]
struct Rows {
    /// The number of the last write.
    last: u64,
    versions: BTreeMap<Vec<u8>, Vec<Version>>,
    /// Rows that carry versions nobody will ask for once no snapshot is older than the number.
    garbage: VecDeque<(u64, Vec<u8>)>,
    /// How many snapshots stand at which write.
    snapshots: BTreeMap<u64, usize>,
}

struct Version {
    since: u64,
    /// None: deleted.
    value: Option<Arc<[u8]>>,
}

impl Rows {
    fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let since = self.last;
        let versions = self.versions.entry(key.clone()).or_default();
        versions.push(Version {
            since,
            value: value.map(Arc::from),
        });
        if versions.len() > 1
            || versions
                .last()
                .is_some_and(|version| version.value.is_none())
        {
            self.garbage.push_back((since, key));
        }
    }

    /// Forgets the versions that no snapshot, present or future, can see.
    fn sweep(&mut self) {
        let oldest = self
            .snapshots
            .first_key_value()
            .map_or(self.last, |(at, _)| *at);
        while let Some((_, key)) = self.garbage.pop_front_if(|(since, _)| *since <= oldest) {
            let Some(versions) = self.versions.get_mut(&key) else {
                continue;
            };
            let visible = versions
                .iter()
                .rposition(|version| version.since <= oldest)
                .unwrap_or(0);
            versions.drain(..visible);
            if let [only] = versions.as_slice()
                && only.value.is_none()
            {
                self.versions.remove(&key);
            }
        }
    }

    fn get(&self, key: &[u8], at: u64) -> Option<Arc<[u8]>> {
        seen(self.versions.get(key)?, at).cloned()
    }
}

fn seen(versions: &[Version], at: u64) -> Option<&Arc<[u8]>> {
    versions
        .iter()
        .rfind(|version| version.since <= at)?
        .value
        .as_ref()
}

impl Memory {
    /// With what is on a disk.
    pub fn on(disk: &SimulatedDisk) -> Self {
        let (disk, image) = disk.mount();
        let version = |value| Version {
            since: 0,
            value: Some(value),
        };
        let rows = Rows {
            versions: image
                .into_iter()
                .map(|(key, value)| (key, vec![version(value)]))
                .collect(),
            ..Rows::default()
        };
        Self {
            rows: Arc::new(RwLock::new(rows)),
            disk: Some(disk),
            #[cfg(test)]
            broken: std::sync::atomic::AtomicBool::new(false),
        }
    }

    pub fn simulated_latency(&self) -> Option<Duration> {
        self.disk.as_ref().map(Mounted::latency)
    }

    pub fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        if let Some(disk) = &self.disk {
            disk.write(&writes)?;
        }
        let mut rows = self.rows.write();
        rows.last += 1;
        for write in writes {
            match write {
                Write::Put(key, value) => rows.put(key, Some(value)),
                Write::Delete(key) => rows.put(key, None),
            }
        }
        rows.sweep();
        Ok(())
    }

    pub fn sync(&self) -> Result<(), StoreError> {
        #[cfg(test)]
        if self.broken.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(StoreError::Engine("the disk is gone".into()));
        }
        self.disk.as_ref().map_or(Ok(()), Mounted::sync)
    }

    pub fn get(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        self.rows.read().get(key, u64::MAX)
    }

    pub fn snapshot(&self) -> MemorySnapshot {
        let mut rows = self.rows.write();
        let at = rows.last;
        *rows.snapshots.entry(at).or_default() += 1;
        MemorySnapshot {
            rows: Arc::clone(&self.rows),
            at,
        }
    }
}

pub(crate) struct MemorySnapshot {
    rows: Arc<RwLock<Rows>>,
    at: u64,
}

impl MemorySnapshot {
    pub fn get(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        self.rows.read().get(key, self.at)
    }

    pub fn scan(&self, range: &RowRange, direction: Direction, visit: &mut Visitor<'_>) {
        let rows = self.rows.read();
        let end = range
            .end
            .as_ref()
            .map_or(Bound::Unbounded, |end| Bound::Excluded(end.as_slice()));
        let mut rows = rows
            .versions
            .range::<[u8], _>((Bound::Included(range.start.as_slice()), end));
        loop {
            let next = match direction {
                Direction::Forward => rows.next(),
                Direction::Backward => rows.next_back(),
            };
            let Some((key, versions)) = next else { break };
            if let Some(value) = seen(versions, self.at)
                && visit(key, value).is_break()
            {
                break;
            }
        }
    }
}

impl Drop for MemorySnapshot {
    fn drop(&mut self) {
        let mut rows = self.rows.write();
        if let Some(count) = rows.snapshots.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                let at = self.at;
                rows.snapshots.remove(&at);
            }
        }
    }
}
