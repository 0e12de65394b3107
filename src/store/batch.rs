//! Batches: guards and writes as data.

use std::sync::{Arc, atomic::AtomicU64};

use bytes::Bytes;

use crate::{
    Key, LogEntry, Position, Table, Topic, Value,
    engine::Write,
    log::{LOG, LogRow, Reservation},
    numbers::NewName,
};

/// What is written together: all of it or nothing.
///
/// A row that is written twice has the later value. A batch sees nothing of what it will write:
/// reads go to a snapshot.
#[derive(Default)]
pub struct Batch {
    pub(crate) guards: Vec<Guard>,
    pub(crate) writes: Vec<Write>,
    pub(crate) entries: Vec<LogEntry>,
    pub(crate) reservations: Vec<Reservation>,
    pub(crate) names: Vec<Arc<NewName>>,
    pub(crate) cursors: Vec<(Arc<AtomicU64>, Position)>,
    bytes: usize,
}

/// What must be so at the moment the batch is applied.
pub(crate) struct Guard {
    pub table: &'static str,
    pub key: Vec<u8>,
    pub expected: Expected,
}

pub(crate) enum Expected {
    Absent,
    Present,
    Equal(Vec<u8>),
}

impl Expected {
    pub fn holds(&self, found: Option<&[u8]>) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::Equal(value) => found == Some(value),
        }
    }
}

impl Batch {
    /// What a batch may weigh, in bytes of keys and values.
    pub const MAX_BYTES: usize = 64 << 20;

    /// A batch that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a row.
    pub fn put<K: Key, V: Value>(&mut self, table: &Table<K, V>, key: &K, value: &V) {
        self.write(Write::Put(table.row_key(key), value.encode()));
    }

    /// Removes a row; there need not be one.
    pub fn delete<K: Key, V: Value>(&mut self, table: &Table<K, V>, key: &K) {
        self.write(Write::Delete(table.row_key(key)));
    }

    fn write(&mut self, write: Write) {
        self.bytes += match &write {
            Write::Put(key, value) => key.len() + value.len(),
            Write::Delete(key) => key.len(),
        };
        self.writes.push(write);
    }

    /// The batch is refused if the row exists when it is applied.
    pub fn guard_absent<K: Key, V: Value>(&mut self, table: &Table<K, V>, key: &K) {
        self.guard(table, key, Expected::Absent);
    }

    /// The batch is refused if the row doesn't exist when it is applied.
    pub fn guard_exists<K: Key, V: Value>(&mut self, table: &Table<K, V>, key: &K) {
        self.guard(table, key, Expected::Present);
    }

    /// The batch is refused if the row is absent or has another value when it is applied. Values are
    /// compared as they are written today: a row in an older shape is not equal.
    pub fn guard_equals<K: Key, V: Value>(&mut self, table: &Table<K, V>, key: &K, value: &V) {
        self.guard(table, key, Expected::Equal(value.encode()));
    }

    fn guard<K: Key, V: Value>(&mut self, table: &Table<K, V>, key: &K, expected: Expected) {
        let key = table.row_key(key);
        self.bytes += key.len();
        self.guards.push(Guard {
            table: table.name(),
            key,
            expected,
        });
    }

    /// Writes a log entry on a reserved position. The [`Reservation`] must be attached to the same
    /// batch, before or after.
    pub fn log(&mut self, position: Position, topic: Topic, scope: u64, payload: Vec<u8>) {
        let payload = Bytes::from(payload);
        self.put(
            &LOG,
            &position,
            &LogRow {
                topic,
                scope,
                payload: payload.clone(),
            },
        );
        self.entries.push(LogEntry {
            position,
            topic,
            scope,
            payload,
        });
    }

    /// Ties positions to the batch: they are resolved when it is applied, and given up when it is
    /// refused or dropped.
    pub fn attach(&mut self, reservation: Reservation) {
        self.reservations.push(reservation);
    }

    /// Everything `other` would do, after what this batch does.
    pub fn merge(&mut self, other: Self) {
        self.guards.extend(other.guards);
        self.writes.extend(other.writes);
        self.entries.extend(other.entries);
        self.reservations.extend(other.reservations);
        self.names.extend(other.names);
        self.cursors.extend(other.cursors);
        self.bytes += other.bytes;
    }

    /// How many rows it writes or removes.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether it writes nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// What it weighs, in bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first log entry on a position that no attached reservation holds.
    pub(crate) fn unreserved(&self) -> Option<Position> {
        let held = |position| {
            self.reservations
                .iter()
                .any(|reservation| reservation.contains(position))
        };
        self.entries
            .iter()
            .map(|entry| entry.position)
            .find(|position| !held(*position))
    }
}
