//! Which positions of the log are given out, and up to where the log is complete.

use std::collections::VecDeque;

/// A place in the log. Positions grow; some are never used.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Position(pub u64);

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a write to the engine. The engine's journal keeps their order, so that what is
/// synced is always everything up to one of them.
pub(crate) type WriteNumber = u64;

/// The reservations in flight and the watermark.
///
/// The watermark is the highest position such that it and every lower one are resolved: applied by a
/// write that is synced, or given up. It never reaches beyond `mark`, a number on disk: after a crash
/// positions go on above the mark, so that none that anybody was told of is given out again.
#[derive(Debug)]
pub(crate) struct Tracker {
    /// The next position to give out.
    next: u64,
    /// Positions below are covered by the row on disk.
    mark: u64,
    /// The write that put the mark there.
    mark_write: WriteNumber,
    /// Ordered, without holes, from `watermark + 1` to `next`.
    spans: VecDeque<Span>,
    watermark: u64,
    frozen: bool,
}

#[derive(Debug)]
struct Span {
    first: u64,
    count: u32,
    /// The write that must be synced before the watermark passes; none while undecided.
    resolved: Option<WriteNumber>,
}

impl Tracker {
    /// `next` is above everything that is on disk, the mark included.
    pub fn new(next: u64) -> Self {
        Self {
            next,
            mark: next,
            mark_write: 0,
            spans: VecDeque::new(),
            watermark: next - 1,
            frozen: false,
        }
    }

    /// Gives out `count` positions and answers the first; none when the mark must be moved before.
    pub fn reserve(&mut self, count: u32) -> Option<u64> {
        let first = self.next;
        let next = first + u64::from(count);
        if next > self.mark {
            return None;
        }
        self.next = next;
        if count > 0 {
            self.spans.push_back(Span {
                first,
                count,
                resolved: None,
            });
        }
        Some(first)
    }

    pub fn next(&self) -> u64 {
        self.next
    }

    /// The mark was moved by a write.
    pub fn mark(&mut self, mark: u64, write: WriteNumber) {
        self.mark = mark;
        self.mark_write = write;
    }

    /// The reservation that begins at `first` was applied by a write.
    pub fn applied(&mut self, first: u64, write: WriteNumber) {
        self.resolve(first, write);
    }

    /// The reservation that begins at `first` will not be used. The watermark may pass it when the
    /// mark above it is on disk.
    pub fn given_up(&mut self, first: u64) {
        self.resolve(first, self.mark_write);
    }

    fn resolve(&mut self, first: u64, write: WriteNumber) {
        if let Ok(at) = self.spans.binary_search_by_key(&first, |span| span.first) {
            self.spans[at].resolved = Some(write.max(self.mark_write));
        }
    }

    /// The watermark when everything up to the write `synced` is on disk.
    pub fn advance(&mut self, synced: WriteNumber) -> u64 {
        let frozen = self.frozen;
        while let Some(span) = self
            .spans
            .pop_front_if(|span| !frozen && span.resolved.is_some_and(|write| write <= synced))
        {
            self.watermark = span.first + u64::from(span.count) - 1;
        }
        self.watermark
    }

    /// The watermark stays where it is: what a failed write left on disk is not known.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    /// How many positions are given out and not yet below the watermark.
    pub fn lag(&self) -> u64 {
        self.next - 1 - self.watermark
    }
}
