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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Reserve(u32),
        /// Moves the mark, by a write.
        Mark(u64),
        /// Applies the open reservation with this index.
        Apply(usize),
        GiveUp(usize),
        /// Syncs all but so many of the writes.
        Sync(u64),
        Crash,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..4u32).prop_map(Step::Reserve),
            1 => (1..8u64).prop_map(Step::Mark),
            4 => (0..4usize).prop_map(Step::Apply),
            2 => (0..4usize).prop_map(Step::GiveUp),
            3 => (0..3u64).prop_map(Step::Sync),
            1 => Just(Step::Crash),
        ]
    }

    /// Everything that was ever decided, looked through from the beginning each time.
    #[derive(Default)]
    struct Model {
        /// For each position from 1 on: none while undecided, then the write that has to be synced.
        decided: Vec<Option<WriteNumber>>,
        open: Vec<(u64, u32)>,
        writes: WriteNumber,
        synced: WriteNumber,
        /// Each mark and the write that put it there.
        marks: Vec<(u64, WriteNumber)>,
        told: u64,
    }

    impl Model {
        fn watermark(&self) -> u64 {
            let complete = |at: &Option<WriteNumber>| at.is_some_and(|write| write <= self.synced);
            self.decided.iter().take_while(|at| complete(at)).count() as u64
        }

        fn decide(&mut self, first: u64, count: u32, write: WriteNumber) {
            let first = usize::try_from(first - 1).unwrap();
            self.decided[first..first + count as usize].fill(Some(write));
        }

        fn mark_on_disk(&self) -> u64 {
            let on_disk = self.marks.iter().filter(|(_, write)| *write <= self.synced);
            on_disk.map(|(mark, _)| *mark).max().unwrap_or(1)
        }
    }

    proptest! {
        #[test]
        fn the_watermark_is_that_of_the_model(steps in prop::collection::vec(step(), 0..200)) {
            let mut tracker = Tracker::new(1);
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Reserve(count) => {
                        let Some(first) = tracker.reserve(count) else { continue };
                        prop_assert_eq!(first, model.decided.len() as u64 + 1);
                        if count > 0 {
                            model.decided.extend((0..count).map(|_| None));
                            model.open.push((first, count));
                        }
                    }
                    Step::Mark(more) => {
                        model.writes += 1;
                        let mark = tracker.next() + more;
                        model.marks.push((mark, model.writes));
                        tracker.mark(mark, model.writes);
                    }
                    Step::Apply(index) if index < model.open.len() => {
                        let (first, count) = model.open.remove(index);
                        model.writes += 1;
                        model.decide(first, count, model.writes);
                        tracker.applied(first, model.writes);
                    }
                    Step::GiveUp(index) if index < model.open.len() => {
                        let (first, count) = model.open.remove(index);
                        let mark = model.marks.last().map_or(0, |(_, write)| *write);
                        model.decide(first, count, mark);
                        tracker.given_up(first);
                    }
                    Step::Apply(_) | Step::GiveUp(_) => {}
                    Step::Sync(behind) => model.synced = model.synced.max(model.writes.saturating_sub(behind)),
                    Step::Crash => {
                        // What was told lies below the mark on disk, so nothing of it comes again.
                        let mark = model.mark_on_disk();
                        prop_assert!(model.told < mark);
                        // Writes after the synced ones are lost, and with them their positions.
                        model.writes = model.synced;
                        model.marks.retain(|(_, write)| *write <= model.synced);
                        model.open.clear();
                        model.decided = vec![Some(0); usize::try_from(mark - 1).unwrap()];
                        tracker = Tracker::new(mark);
                    }
                }
                let watermark = tracker.advance(model.synced);
                prop_assert_eq!(watermark, model.watermark());
                prop_assert!(watermark >= model.told, "the watermark went back");
                prop_assert_eq!(tracker.lag(), model.decided.len() as u64 - watermark);
                model.told = watermark;
            }
        }
    }

    #[test]
    fn a_frozen_watermark_stays() {
        let mut tracker = Tracker::new(1);
        tracker.mark(10, 1);
        let first = tracker.reserve(2).unwrap();
        tracker.freeze();
        tracker.given_up(first);
        assert_eq!(tracker.advance(9), 0);
    }
}
