//! The log: one stream of entries for everything that reacts to a write.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    Corrupt, Direction, Key, Position, ScanRange, Snapshot, StoreError, Table, Value,
    committer::Committer,
    value::{split_version, unknown_version},
};

pub(crate) static LOG: Table<Position, LogRow> = Table::new(0x0101, "log");

/// What an entry is about. The high byte is the crate that declares it, as with tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Topic(pub u16);

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it stands.
    pub position: Position,
    /// What it is about.
    pub topic: Topic,
    /// Whom it is about: a room's or an account's number, as the topic says.
    pub scope: u64,
    /// What else the topic has to say.
    pub payload: Bytes,
}

/// An entry as it is on disk, where its key is the position.
pub(crate) struct LogRow {
    pub topic: Topic,
    pub scope: u64,
    pub payload: Bytes,
}

/// Version, topic, scope, then the payload to the end.
impl Value for LogRow {
    fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(11 + self.payload.len());
        row.push(1);
        (self.topic.0, self.scope).encode(&mut row);
        row.extend_from_slice(&self.payload);
        row
    }

    fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        match split_version(bytes)? {
            (1, mut body) => {
                let (topic, scope) = <(u16, u64)>::decode(&mut body)?;
                Ok(Self {
                    topic: Topic(topic),
                    scope,
                    payload: Bytes::copy_from_slice(body),
                })
            }
            (other, _) => Err(unknown_version(other)),
        }
    }
}

/// Positions that belong to one writer, who uses them in a batch (see [`crate::Batch::attach`]) or
/// gives them up by dropping this.
#[must_use = "positions that are dropped are given up"]
pub struct Reservation {
    first: u64,
    count: u32,
    committer: Option<Arc<Committer>>,
}

impl Reservation {
    pub(crate) fn new(first: u64, count: u32, committer: Arc<Committer>) -> Self {
        Self {
            first,
            count,
            committer: Some(committer),
        }
    }

    /// The lowest of the positions.
    pub fn first(&self) -> Position {
        Position(self.first)
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The position with the index `index`.
    ///
    /// # Panics
    /// When fewer were reserved.
    pub fn get(&self, index: u32) -> Position {
        assert!(
            index < self.count,
            "position {index} of {} reserved ones",
            self.count
        );
        Position(self.first + u64::from(index))
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Position> + use<> {
        (self.first..self.first + u64::from(self.count)).map(Position)
    }

    pub(crate) fn contains(&self, position: Position) -> bool {
        (self.first..self.first + u64::from(self.count)).contains(&position.0)
    }

    /// The positions were used: dropping this no longer gives them up.
    pub(crate) fn used(mut self) -> u64 {
        self.committer = None;
        self.first
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(committer) = self.committer.take()
            && self.count > 0
        {
            committer.give_up(self.first);
        }
    }
}

/// Reads the log, up to its watermark.
pub struct Log {
    committer: Arc<Committer>,
}

impl Log {
    pub(crate) fn new(committer: Arc<Committer>) -> Self {
        Self { committer }
    }

    /// Up to here the log is complete and on disk: nothing is ever added at or below.
    pub fn watermark(&self) -> Position {
        *self.committer.watermark.borrow()
    }

    /// Wakes when the watermark has moved.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.committer.watermark.subscribe()
    }

    /// At most `limit` entries after `after`, up to and including `up_to` but never beyond the
    /// watermark, in order.
    ///
    /// # Errors
    /// [`StoreError`] when the engine can't be read.
    pub async fn read(
        &self,
        after: Position,
        up_to: Position,
        limit: usize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let up_to = up_to.min(self.watermark());
        if after >= up_to {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.committer.ring.read(after, up_to, limit) {
            return Ok(entries);
        }
        let snapshot = Snapshot::new(up_to, self.committer.engine.snapshot());
        let range = ScanRange::between(&Position(after.0 + 1), &Position(up_to.0 + 1));
        let rows = snapshot
            .scan(&LOG, range, Direction::Forward, limit)
            .await?;
        let entry = |(
            position,
            LogRow {
                topic,
                scope,
                payload,
            },
        )| LogEntry {
            position,
            topic,
            scope,
            payload,
        };
        Ok(rows.into_iter().map(entry).collect())
    }

    /// Like [`read`](Self::read) without a limit, but from memory only: none when the entries after
    /// `after` are no longer all there.
    pub fn recent(&self, after: Position, up_to: Position) -> Option<Vec<LogEntry>> {
        self.committer
            .ring
            .read(after, up_to.min(self.watermark()), usize::MAX)
    }
}

/// The newest entries of the log, applied but not all of them below the watermark.
pub(crate) struct Ring(RwLock<Recent>);

struct Recent {
    /// Ordered by position.
    entries: VecDeque<LogEntry>,
    /// What the entries weigh.
    bytes: usize,
    /// Every applied entry above is in `entries`.
    floor: Position,
}

impl Ring {
    const MAX_ENTRIES: usize = 16 << 10;
    const MAX_BYTES: usize = 8 << 20;

    pub fn new(floor: Position) -> Self {
        Self(RwLock::new(Recent {
            entries: VecDeque::new(),
            bytes: 0,
            floor,
        }))
    }

    pub fn extend(&self, entries: Vec<LogEntry>) {
        let mut recent = self.0.write();
        for entry in entries {
            recent.insert(entry);
        }
        while recent.entries.len() > Self::MAX_ENTRIES || recent.bytes > Self::MAX_BYTES {
            recent.forget_first();
        }
    }

    pub fn read(&self, after: Position, up_to: Position, limit: usize) -> Option<Vec<LogEntry>> {
        let recent = self.0.read();
        if after < recent.floor {
            return None;
        }
        let start = recent
            .entries
            .partition_point(|entry| entry.position <= after);
        let rest = recent
            .entries
            .range(start..)
            .take_while(|entry| entry.position <= up_to);
        Some(rest.take(limit).cloned().collect())
    }
}

impl Recent {
    /// Entries come nearly in order: writers apply their batches shortly after they reserve.
    fn insert(&mut self, entry: LogEntry) {
        if entry.position <= self.floor {
            return;
        }
        self.bytes += entry.payload.len();
        let at = self
            .entries
            .iter()
            .rposition(|other| other.position < entry.position)
            .map_or(0, |at| at + 1);
        self.entries.insert(at, entry);
    }

    fn forget_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.payload.len();
            self.floor = entry.position;
        }
    }
}
