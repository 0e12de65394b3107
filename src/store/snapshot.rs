//! Reading.

use std::ops::ControlFlow;

use crate::{
    Corrupt, Direction, Key, Position, ScanRange, StoreError, Table, TableInfo, Value,
    engine::RawSnapshot, key::decode_whole,
};

/// Everything as it was at one moment. Cheap to clone; hold it for a request, not for a day, since
/// the engine keeps what it shows.
#[derive(Clone)]
pub struct Snapshot {
    position: Position,
    raw: RawSnapshot,
}

impl Snapshot {
    pub(crate) fn new(position: Position, raw: RawSnapshot) -> Self {
        Self { position, raw }
    }

    /// The watermark when it was taken: every log entry up to it, with all that was written with it,
    /// is in this snapshot, and on disk. What was applied later may be in it too.
    pub fn position(&self) -> Position {
        self.position
    }

    /// One row.
    ///
    /// # Errors
    /// [`StoreError`] when the engine or the row can't be read.
    pub async fn get<K: Key, V: Value>(
        &self,
        table: &Table<K, V>,
        key: &K,
    ) -> Result<Option<V>, StoreError> {
        let value = self.raw.get(&table.row_key(key), V::decode)?;
        value.transpose().map_err(|source| corrupt(table, source))
    }

    /// Whether a row exists.
    ///
    /// # Errors
    /// [`StoreError`] when the engine can't be read.
    pub async fn contains<K: Key, V: Value>(
        &self,
        table: &Table<K, V>,
        key: &K,
    ) -> Result<bool, StoreError> {
        Ok(self.raw.get(&table.row_key(key), |_| ())?.is_some())
    }

    /// Many rows, in the order of their keys in `keys`.
    ///
    /// # Errors
    /// [`StoreError`] when the engine or a row can't be read.
    pub async fn get_many<K: Key, V: Value>(
        &self,
        table: &Table<K, V>,
        keys: &[K],
    ) -> Result<Vec<Option<V>>, StoreError> {
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| table.row_key(key)).collect();
        let values = self.raw.get_many(&keys, V::decode)?;
        let value = |value: Option<Result<V, Corrupt>>| {
            value.transpose().map_err(|source| corrupt(table, source))
        };
        values.into_iter().map(value).collect()
    }

    /// At most `limit` rows of a range, in the order of `direction`. The next page of a forward scan
    /// is the same range and [`ScanRange::after`] the last key; of a backward one, and
    /// [`ScanRange::before`] it.
    ///
    /// # Errors
    /// [`StoreError`] when the engine or a row can't be read.
    pub async fn scan<K: Key, V: Value>(
        &self,
        table: &Table<K, V>,
        range: ScanRange,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(K, V)>, StoreError> {
        let Some(range) = range.rows(table.id()).filter(|_| limit > 0) else {
            return Ok(Vec::new());
        };
        let mut rows = Vec::new();
        let mut bad = None;
        self.raw.scan(&range, direction, &mut |key, value| {
            let key = decode_whole(key.get(2..).unwrap_or_default());
            match key.and_then(|key| Ok((key, V::decode(value)?))) {
                Ok(row) => rows.push(row),
                Err(source) => bad = Some(source),
            }
            if bad.is_some() || rows.len() == limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        match bad {
            None => Ok(rows),
            Some(source) => Err(corrupt(table, source)),
        }
    }

    pub(crate) fn is_empty(&self) -> Result<bool, StoreError> {
        let mut empty = true;
        self.raw.scan_all(&mut |_, _| {
            empty = false;
            ControlFlow::Break(())
        })?;
        Ok(empty)
    }

    /// Reads every row of the database and checks that it can be decoded, for `resuni doctor`. Calls
    /// `found` with what is wrong; answers how many rows each table has, and those of unknown tables.
    ///
    /// `tables` are those of the crates above; the store's own are known.
    ///
    /// # Errors
    /// [`StoreError`] when the engine can't be read.
    pub fn check(
        &self,
        tables: &[TableInfo],
        found: &mut dyn FnMut(BadRow<'_>),
    ) -> Result<Vec<TableCount>, StoreError> {
        let own = crate::TABLES.iter().flat_map(|tables| tables.iter());
        let known: std::collections::HashMap<u16, &TableInfo> =
            own.chain(tables).map(|table| (table.id, table)).collect();
        let mut counts: Vec<TableCount> = Vec::new();
        self.raw.scan_all(&mut |row, value| {
            let Some((&[high, low], key)) = row.split_first_chunk() else {
                found(BadRow {
                    table: 0,
                    name: None,
                    key: row,
                    problem: "the key has no table".into(),
                });
                return ControlFlow::Continue(());
            };
            let id = u16::from_be_bytes([high, low]);
            let table = known.get(&id);
            if counts.last().is_none_or(|last| last.table != id) {
                counts.push(TableCount {
                    table: id,
                    name: table.map(|table| table.name),
                    rows: 0,
                    bytes: 0,
                });
            }
            if let Some(count) = counts.last_mut() {
                count.rows += 1;
                count.bytes += (row.len() + value.len()) as u64;
            }
            let problem = match table {
                None => Some("no such table is known".to_owned()),
                Some(table) => (table.check)(key, value)
                    .err()
                    .map(|corrupt| corrupt.to_string()),
            };
            if let Some(problem) = problem {
                found(BadRow {
                    table: id,
                    name: table.map(|table| table.name),
                    key,
                    problem,
                });
            }
            ControlFlow::Continue(())
        })?;
        Ok(counts)
    }
}

fn corrupt<K: Key, V: Value>(table: &Table<K, V>, source: Corrupt) -> StoreError {
    StoreError::Corrupt {
        table: table.name(),
        source,
    }
}

/// A row that [`Snapshot::check`] could not read.
#[derive(Clone, Debug)]
pub struct BadRow<'a> {
    /// The table's number.
    pub table: u16,
    /// The table's name, if it is known.
    pub name: Option<&'static str>,
    /// The key as it is on disk, without the table's number.
    pub key: &'a [u8],
    /// What is wrong.
    pub problem: String,
}

/// What [`Snapshot::check`] counted.
#[derive(Clone, Copy, Debug)]
pub struct TableCount {
    /// The table's number.
    pub table: u16,
    /// The table's name, if it is known.
    pub name: Option<&'static str>,
    /// How many rows it has.
    pub rows: u64,
    /// What keys and values weigh, before compression.
    pub bytes: u64,
}
