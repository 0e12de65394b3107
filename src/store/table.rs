//! Tables and ranges of their keys.

use std::marker::PhantomData;

use crate::{Corrupt, Key, Value, key::decode_whole};

/// A table: declared once, as a `static`, by the crate that owns it.
///
/// ```
/// use resuni_store::Table;
/// pub static MEMBERS: Table<(u64, u8, u64), u64> = Table::new(0x0207, "members");
/// ```
pub struct Table<K, V> {
    id: u16,
    name: &'static str,
    row: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Value> Table<K, V> {
    /// The high byte of `id` is the crate that owns the table (see `docs/architecture.md`); the
    /// number is on disk and never given to another table.
    pub const fn new(id: u16, name: &'static str) -> Self {
        Self {
            id,
            name,
            row: PhantomData,
        }
    }

    /// Its number.
    pub const fn id(&self) -> u16 {
        self.id
    }

    /// Its name, for messages.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What the doctor needs to check every row of it.
    pub const fn info(&self) -> TableInfo {
        TableInfo {
            id: self.id,
            name: self.name,
            check: check_row::<K, V>,
        }
    }

    pub(crate) fn row_key(&self, key: &K) -> Vec<u8> {
        let mut out = Vec::with_capacity(34);
        out.extend_from_slice(&self.id.to_be_bytes());
        key.encode(&mut out);
        out
    }
}

fn check_row<K: Key, V: Value>(key: &[u8], value: &[u8]) -> Result<(), Corrupt> {
    decode_whole::<K>(key)?;
    V::decode(value)?;
    Ok(())
}

/// A table without its types: what it is called and whether a row of it can be read.
#[derive(Clone, Copy, Debug)]
pub struct TableInfo {
    /// The table's number.
    pub id: u16,
    /// The table's name.
    pub name: &'static str,
    /// Decodes a key (without the table's number) and its value.
    pub check: fn(&[u8], &[u8]) -> Result<(), Corrupt>,
}

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Smallest key first.
    Forward,
    /// Greatest key first.
    Backward,
}

/// A range of the keys of one table.
///
/// Wherever a key is asked for, the leading elements of a tuple will do; they stand for all keys
/// that begin with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRange {
    /// Inclusive.
    start: Vec<u8>,
    /// Exclusive; none: to the end of the table.
    end: Option<Vec<u8>>,
}

impl ScanRange {
    /// The whole table.
    pub const fn all() -> Self {
        Self {
            start: Vec::new(),
            end: None,
        }
    }

    /// All keys that begin with `key`.
    pub fn prefix(key: &impl Key) -> Self {
        let start = key.to_key();
        Self {
            end: successor(&start),
            start,
        }
    }

    /// `key` and all after it.
    pub fn from(key: &impl Key) -> Self {
        Self {
            start: key.to_key(),
            end: None,
        }
    }

    /// All after `key` and after those that begin with it.
    pub fn after(key: &impl Key) -> Self {
        successor(&key.to_key()).map_or_else(Self::nothing, |start| Self { start, end: None })
    }

    /// All before `key`.
    pub fn before(key: &impl Key) -> Self {
        Self {
            start: Vec::new(),
            end: Some(key.to_key()),
        }
    }

    /// `from` and all after it that come before `to`.
    pub fn between(from: &impl Key, to: &impl Key) -> Self {
        Self {
            start: from.to_key(),
            end: Some(to.to_key()),
        }
    }

    /// Only the keys that also begin with `prefix`.
    #[must_use]
    pub fn within(self, prefix: &impl Key) -> Self {
        self.and(Self::prefix(prefix))
    }

    /// Only the keys that are also in `other`.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let end = match (self.end, other.end) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self {
            start: self.start.max(other.start),
            end,
        }
    }

    const fn nothing() -> Self {
        Self {
            start: Vec::new(),
            end: Some(Vec::new()),
        }
    }

    /// The range of rows in the engine; `None` when nothing lies in it.
    pub(crate) fn rows(&self, table: u16) -> Option<RowRange> {
        let id = table.to_be_bytes();
        let start = [&id, self.start.as_slice()].concat();
        let end = match &self.end {
            Some(end) => Some([&id, end.as_slice()].concat()),
            None => successor(&id),
        };
        (end.as_ref().is_none_or(|end| start < *end)).then_some(RowRange { start, end })
    }
}

/// A range of rows in the engine, table number included.
#[derive(Clone, Debug)]
pub(crate) struct RowRange {
    /// Inclusive.
    pub start: Vec<u8>,
    /// Exclusive; none: to the end of everything.
    pub end: Option<Vec<u8>>,
}

/// The smallest byte string greater than all that begin with `prefix`.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut next = prefix[..=last].to_vec();
    next[last] += 1;
    Some(next)
}
