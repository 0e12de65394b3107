//! A bounded cache of rows that is never stale after a revocation.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use quick_cache::sync::Cache;

/// Rows by key. Rows that do not exist are not remembered, so that guessing fills nothing.
///
/// The danger of such a cache is the reader that loads a row, sleeps while the row is revoked and
/// the cache cleaned, and then puts the revoked row back. Therefore each revocation advances
/// `epoch` after its commit and before it cleans; a reader that sees the epoch moved since before
/// it took its snapshot takes its own entry out again.
pub(crate) struct Cached<K, V> {
    entries: Cache<K, Arc<V>>,
    epoch: AtomicU64,
}

impl<K: Copy + Eq + Hash, V> Cached<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: Cache::new(capacity),
            epoch: AtomicU64::new(0),
        }
    }

    /// The row of `key`, from memory or through `load`, which must take its snapshot itself.
    pub(crate) async fn get_or_load<E, F>(
        &self,
        key: K,
        load: impl FnOnce() -> F,
    ) -> Result<Option<Arc<V>>, E>
    where
        F: Future<Output = Result<Option<V>, E>>,
    {
        if let Some(found) = self.entries.get(&key) {
            return Ok(Some(found));
        }
        let epoch = self.epoch.load(SeqCst);
        let Some(loaded) = load().await?.map(Arc::new) else {
            return Ok(None);
        };
        self.entries.insert(key, Arc::clone(&loaded));
        if self.epoch.load(SeqCst) != epoch {
            self.entries.remove(&key);
        }
        Ok(Some(loaded))
    }

    /// Forgets `keys`; to be called after the commit that changed their rows.
    pub(crate) fn forget(&self, keys: impl IntoIterator<Item = K>) {
        self.epoch.fetch_add(1, SeqCst);
        for key in keys {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn load(value: Option<u8>) -> Result<Option<u8>, ()> {
        Ok(value)
    }

    #[tokio::test]
    async fn a_row_is_loaded_once_and_again_after_it_was_forgotten() {
        let cache = Cached::new(8);
        assert_eq!(
            cache.get_or_load(1, || load(Some(1))).await,
            Ok(Some(Arc::new(1)))
        );
        assert_eq!(
            cache.get_or_load(1, || load(Some(2))).await,
            Ok(Some(Arc::new(1)))
        );
        cache.forget([1]);
        assert_eq!(
            cache.get_or_load(1, || load(Some(3))).await,
            Ok(Some(Arc::new(3)))
        );
        assert_eq!(cache.get_or_load(2, || load(None)).await, Ok(None));
        assert_eq!(
            cache.get_or_load(2, || load(Some(4))).await,
            Ok(Some(Arc::new(4)))
        );
    }

    #[tokio::test]
    async fn a_row_revoked_while_it_was_being_loaded_is_not_remembered() {
        let cache = Cached::new(8);
        let slow = cache.get_or_load(1, || async {
            // The reader has its old snapshot; now another task revokes the row.
            cache.forget([1]);
            Ok::<_, ()>(Some(1))
        });
        assert_eq!(slow.await, Ok(Some(Arc::new(1))));
        assert_eq!(cache.get_or_load(1, || load(None)).await, Ok(None));
    }
}
