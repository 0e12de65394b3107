//! Followers: parts that react to the log, each from its own stored place.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{Batch, CommitError, LogEntry, Position, Store, StoreError, Table, TableInfo};

static CURSORS: Table<String, Position> = Table::new(0x0107, "cursors");

pub(crate) const TABLES: [TableInfo; 1] = [CURSORS.info()];

/// Reads the log once, from the beginning on, over all restarts.
///
/// Every entry is delivered at least once: an entry whose effect was not committed together with the
/// cursor comes again after a crash, or after a batch that was refused.
pub struct Follower {
    store: Store,
    name: &'static str,
    cursor: Arc<AtomicU64>,
    /// The log had no entry up to here when it was last looked at.
    nothing_until: Position,
}

impl Follower {
    pub(crate) async fn open(store: &Store, name: &'static str) -> Result<Self, StoreError> {
        let cursor = store
            .snapshot()
            .get(&CURSORS, &name.to_owned())
            .await?
            .unwrap_or_default();
        Ok(Self {
            store: store.clone(),
            name,
            cursor: Arc::new(AtomicU64::new(cursor.0)),
            nothing_until: cursor,
        })
    }

    /// Everything up to here has had its effect.
    pub fn cursor(&self) -> Position {
        Position(self.cursor.load(Ordering::Acquire))
    }

    /// Waits for entries after the cursor; at most `limit`, at least one.
    ///
    /// # Errors
    /// [`StoreError`] when the log can't be read, or when the store has ended and nothing is left.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        let mut watermark = self.store.log().watch();
        loop {
            let after = self.cursor().max(self.nothing_until);
            let up_to = tokio::select! {
                biased;
                moved = watermark.wait_for(|up_to| *up_to > after) => {
                    *moved.map_err(|_| StoreError::Closed)?
                }
                reason = self.store.ended() => return Err(reason),
            };
            let entries = self.store.log().read(after, up_to, limit).await?;
            if !entries.is_empty() {
                return Ok(entries);
            }
            self.nothing_until = up_to;
        }
    }

    /// Puts the cursor into the batch that holds the effect of everything up to `to`. When the batch
    /// is applied, [`next`](Self::next) goes on after `to`; when it is refused, the same entries come
    /// again.
    pub fn advance(&mut self, batch: &mut Batch, to: Position) {
        batch.put(&CURSORS, &self.name.to_owned(), &to);
        batch.cursors.push((Arc::clone(&self.cursor), to));
    }

    /// Goes on after `to` without writing that down: for entries without an effect. After a restart
    /// they come again.
    pub fn pass(&mut self, to: Position) {
        self.nothing_until = self.nothing_until.max(to);
    }

    /// Moves the cursor by itself, for effects that are not in the store or for entries without one.
    ///
    /// # Errors
    /// [`StoreError`] when the store takes no writes.
    pub async fn save(&mut self, to: Position) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        self.advance(&mut batch, to);
        match self.store.commit(batch).await {
            Ok(_) => Ok(()),
            Err(CommitError::Store(error)) => Err(error),
            Err(other) => Err(StoreError::Engine(other.to_string().into())),
        }
    }
}
