//! Short numbers for long names, and bare sequences.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::{Equivalent, sync::Cache};

use crate::{Batch, Key, StoreError, Table, Value, committer::Committer, key::encode_bytes};

static NUMBERS: Table<(u8, Vec<u8>), u64> = Table::new(0x0102, "numbers");
static NAMES: Table<(u8, u64), Bytes> = Table::new(0x0103, "names");
static SEQUENCES: Table<u8, u64> = Table::new(0x0104, "sequences");

pub(crate) const TABLES: [crate::TableInfo; 3] = [NUMBERS.info(), NAMES.info(), SEQUENCES.info()];

/// Whose names a number stands for, or what a sequence counts.
///
/// A namespace is declared once, as a `static`; its id is on disk and never given to another one.
pub struct Namespace {
    id: u8,
    name: &'static str,
}

impl Namespace {
    /// Ids 1 to 15 belong to `rooms`, 16 to 31 to `accounts`, those from 32 on to `federation`.
    pub const fn new(id: u8, name: &'static str) -> Self {
        Self { id, name }
    }

    /// Its name, for messages.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    const fn named<'a>(&self, name: &'a [u8]) -> NameRef<'a> {
        NameRef {
            namespace: self.id,
            name,
        }
    }
}

/// How many numbers one move of a sequence's row covers. At most so many stay unused after a crash.
const BLOCK: u64 = 1024;

/// How many names are remembered, each way.
const CACHED: usize = 16 << 10;

/// The numbers of a store.
pub struct Numbers {
    committer: Arc<Committer>,
    shared: Arc<Shared>,
    sequences: Mutex<HashMap<u8, Sequence>>,
}

/// A name within its namespace.
#[derive(Clone, PartialEq, Eq, Hash)]
struct FullName {
    namespace: u8,
    name: Bytes,
}

/// A [`FullName`] to look one up with; it must hash alike.
#[derive(Clone, Copy, Hash)]
struct NameRef<'a> {
    namespace: u8,
    name: &'a [u8],
}

impl Equivalent<FullName> for NameRef<'_> {
    fn equivalent(&self, full: &FullName) -> bool {
        self.namespace == full.namespace && self.name == full.name
    }
}

impl NameRef<'_> {
    fn to_full(self) -> FullName {
        FullName {
            namespace: self.namespace,
            name: Bytes::copy_from_slice(self.name),
        }
    }

    fn row_key(self) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.name.len() + 4);
        key.extend_from_slice(&NUMBERS.id().to_be_bytes());
        self.namespace.encode(&mut key);
        encode_bytes(self.name, &mut key);
        key
    }
}

/// What outlives a batch: names on their way to disk, and the caches of those that are there.
struct Shared {
    pending: Mutex<HashMap<FullName, Weak<NewName>>>,
    numbers: Cache<FullName, u64>,
    names: Cache<(u8, u64), Bytes>,
}

struct Sequence {
    next: u64,
    /// Numbers below are covered by the row.
    mark: u64,
}

/// A name whose number is not yet on disk. Every batch that uses it carries its rows, and holds this,
/// until one of them is applied; when all are dropped the number is forgotten.
pub(crate) struct NewName {
    key: FullName,
    number: u64,
    shared: Arc<Shared>,
}

impl NewName {
    /// A batch with the rows was applied. The caches know the name before `pending` forgets it.
    pub fn applied(&self) {
        self.shared.remember(self.key.clone(), self.number);
        self.forget();
    }

    fn forget(&self) {
        let mut pending = self.shared.pending.lock();
        // After all holders are gone the name may already be pending anew, with another number.
        if pending
            .get(&self.key)
            .is_some_and(|other| std::ptr::eq(other.as_ptr(), self))
        {
            pending.remove(&self.key);
        }
    }
}

impl Drop for NewName {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Shared {
    fn remember(&self, key: FullName, number: u64) {
        self.names.insert((key.namespace, number), key.name.clone());
        self.numbers.insert(key, number);
    }
}

impl Numbers {
    pub(crate) fn new(committer: Arc<Committer>) -> Self {
        let shared = Shared {
            pending: Mutex::default(),
            numbers: Cache::new(CACHED),
            names: Cache::new(CACHED),
        };
        Self {
            committer,
            shared: Arc::new(shared),
            sequences: Mutex::default(),
        }
    }

    /// The number of a name, if a batch that uses it was applied.
    ///
    /// # Errors
    /// [`StoreError`] when the engine can't be read.
    pub async fn find(
        &self,
        namespace: &Namespace,
        name: &[u8],
    ) -> Result<Option<u64>, StoreError> {
        self.lookup(namespace.named(name))
    }

    fn lookup(&self, name: NameRef<'_>) -> Result<Option<u64>, StoreError> {
        if let Some(number) = self.shared.numbers.get(&name) {
            return Ok(Some(number));
        }
        let number = self.stored(&NUMBERS, &name.row_key())?;
        if let Some(number) = number {
            self.shared.remember(name.to_full(), number);
        }
        Ok(number)
    }

    fn stored<K: Key, V: Value>(
        &self,
        table: &'static Table<K, V>,
        key: &[u8],
    ) -> Result<Option<V>, StoreError> {
        let value = self.committer.engine.get(key, V::decode)?;
        value.transpose().map_err(|source| StoreError::Corrupt {
            table: table.name(),
            source,
        })
    }

    /// The number of a name, a new one if it has none. As long as no batch with the name is applied
    /// its rows go into `batch`, which must be the batch whose rows use the number.
    ///
    /// # Errors
    /// [`StoreError`] when the engine can't be read.
    pub async fn assign(
        &self,
        namespace: &Namespace,
        name: &[u8],
        batch: &mut Batch,
    ) -> Result<u64, StoreError> {
        let name = namespace.named(name);
        if let Some(number) = self.lookup(name)? {
            return Ok(number);
        }
        let key = name.to_full();
        let new = {
            let mut pending = self.shared.pending.lock();
            match pending.get(&key).and_then(Weak::upgrade) {
                Some(new) => new,
                None => {
                    // It may have been applied since the first look: then it is there now, since a
                    // name leaves `pending` only after its rows are applied.
                    if let Some(number) = self.lookup(name)? {
                        return Ok(number);
                    }
                    let new = Arc::new(NewName {
                        key: key.clone(),
                        number: self.next(namespace),
                        shared: Arc::clone(&self.shared),
                    });
                    pending.insert(key, Arc::downgrade(&new));
                    new
                }
            }
        };
        let number = new.number;
        batch.put(&NUMBERS, &(namespace.id, name.name.to_vec()), &number);
        batch.put(&NAMES, &(namespace.id, number), &new.key.name);
        batch.names.push(new);
        Ok(number)
    }

    /// The name of a number, if a batch that uses it was applied.
    ///
    /// # Errors
    /// [`StoreError`] when the engine can't be read.
    pub async fn name(
        &self,
        namespace: &Namespace,
        number: u64,
    ) -> Result<Option<Bytes>, StoreError> {
        if let Some(name) = self.shared.names.get(&(namespace.id, number)) {
            return Ok(Some(name));
        }
        let name = self.stored(&NAMES, &NAMES.row_key(&(namespace.id, number)))?;
        if let Some(name) = &name {
            let key = FullName {
                namespace: namespace.id,
                name: Bytes::clone(name),
            };
            self.shared.remember(key, number);
        }
        Ok(name)
    }

    /// The next number of a sequence, from 1 on. A number is never given out twice, also not after a
    /// crash; some are never used.
    pub fn next(&self, namespace: &Namespace) -> u64 {
        let mut sequences = self.sequences.lock();
        let sequence = sequences
            .entry(namespace.id)
            .or_insert_with(|| self.load(namespace.id));
        if sequence.next >= sequence.mark {
            self.move_mark(namespace.id, sequence);
        }
        let number = sequence.next;
        sequence.next += 1;
        number
    }

    fn load(&self, namespace: u8) -> Sequence {
        let next = match self.stored(&SEQUENCES, &SEQUENCES.row_key(&namespace)) {
            Ok(next) => next.unwrap_or(1),
            Err(error) => {
                self.committer.stop_writing(error);
                1
            }
        };
        Sequence { next, mark: next }
    }

    /// The new mark is in the journal before any batch that uses a number below it. If it can't be
    /// written the store is read-only, and no batch is applied any more.
    fn move_mark(&self, namespace: u8, sequence: &mut Sequence) {
        sequence.mark = sequence.next + BLOCK;
        let mut batch = Batch::new();
        batch.put(&SEQUENCES, &namespace, &sequence.mark);
        if let Err(error) = self.committer.write_aside(batch) {
            tracing::debug!(%error, namespace, "a sequence could not be moved on");
        }
    }

    /// Closes the committer, and remembers where the sequences stand, so that an orderly stop leaves
    /// no number unused.
    pub(crate) fn close(&self) {
        let mut sequences = self.sequences.lock();
        let mut last = Batch::new();
        for (namespace, sequence) in &mut *sequences {
            sequence.mark = sequence.next;
            last.put(&SEQUENCES, namespace, &sequence.next);
        }
        self.committer.close(last);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn a_name_is_found_by_its_reference() {
        let state = std::hash::RandomState::new();
        let name = NameRef {
            namespace: 3,
            name: b"@alice",
        };
        let full = name.to_full();
        assert_eq!(state.hash_one(name), state.hash_one(&full));
        assert!(name.equivalent(&full));
        let elsewhere = NameRef {
            namespace: 4,
            ..name
        };
        assert!(!elsewhere.equivalent(&full));
    }
}
