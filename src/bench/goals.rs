//! What the project aims at, and whether a run reached it.
//!
//! The absolute figures were set on a quiet machine of four cores. Where a machine is slower or
//! busier, a time or a rate counts as reached when it is as many times better than Synapse's in the
//! same run as it would be there.

use resuni_testkit::Kind;

use crate::table::{Run, What, best, times_better};

/// One aim.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// At least so many times better than Synapse.
    Times(f64),
    /// At least this value, or so many times Synapse's.
    AtLeast(f64, f64),
    /// At most this value, or so many times less than Synapse's.
    AtMost(f64, f64),
    /// At most a disk sync and so many milliseconds, or so many times less than Synapse's.
    SyncAnd(f64, f64),
    /// At most this value, whatever Synapse's is.
    Limit(f64),
    /// At most so many milliseconds of CPU per operation.
    Cpu(f64),
    /// At least this share of the rate of another row, of the same round: the disk is not as fast in each.
    ShareOf(f64, What),
    /// At most so many times the CPU of another row.
    CpuOf(f64, What),
}

/// All aims. A row may have several.
pub const GOALS: &[(What, Goal)] = &[
    (What::Sends, Goal::Times(20.0)),
    (What::Sends, Goal::Cpu(0.4)),
    (What::SendsLong, Goal::ShareOf(0.8, What::Sends)),
    (What::SendsLarge, Goal::ShareOf(0.8, What::Sends)),
    (What::DiskBytes, Goal::Limit(1500.0)),
    (What::History, Goal::AtLeast(50_000.0, 36.0)),
    (What::Joins, Goal::AtLeast(500.0, 50.0)),
    (What::State, Goal::Cpu(0.5)),
    (What::FirstSync, Goal::AtMost(50.0, 24.0)),
    (What::EmptySyncMany, Goal::Cpu(0.1)),
    (What::EmptySyncMany, Goal::CpuOf(1.2, What::EmptySyncOne)),
    (What::Delivery, Goal::SyncAnd(2.0, 12.3)),
    (What::RemoteJoin, Goal::AtMost(0.2, 3.0)),
    (What::RemoteDelivery, Goal::AtMost(15.0, 21.7)),
    (What::Burst, Goal::AtLeast(500.0, 71.0)),
    (What::MemoryIdle, Goal::Limit(60.0)),
    (What::MemoryAfter, Goal::Limit(120.0)),
];

/// Whether Resuni's rounds reached an aim; `None` if it was not measured.
pub fn reached(runs: &[Run], what: What, goal: Goal) -> Option<bool> {
    let ours = best(runs, Kind::Resuni, what)?;
    let value = ours.row.value;
    let theirs = best(runs, Kind::Synapse, what).map(|best| best.row.value);
    let times = theirs.and_then(|base| times_better(&ours.row, value, base));
    let so_many = |wanted: f64| times.is_some_and(|times| times >= wanted);
    let other = |what| best(runs, Kind::Resuni, what);
    Some(match goal {
        Goal::Times(wanted) => {
            theirs?;
            so_many(wanted)
        }
        Goal::AtLeast(wanted, times) => value >= wanted || so_many(times),
        Goal::AtMost(wanted, times) => value <= wanted || so_many(times),
        Goal::SyncAnd(more, times) => value <= disk_sync(runs)? + more || so_many(times),
        Goal::Limit(wanted) => value <= wanted,
        Goal::Cpu(wanted) => ours.cpu_ms? <= wanted,
        Goal::ShareOf(share, other) => best_share(runs, what, other)? >= share,
        Goal::CpuOf(share, what) => ours.cpu_ms? <= share * other(what)?.cpu_ms?,
    })
}

/// The best of Resuni's rounds, of a row's value to another's in the same round.
fn best_share(runs: &[Run], what: What, other: What) -> Option<f64> {
    let value = |run: &Run, what| {
        let row = run.rows.iter().find(|row| row.what == what);
        row.map(|row| row.value)
    };
    let ours = runs.iter().filter(|run| run.kind == Kind::Resuni);
    let shares = ours.filter_map(|run| Some(value(run, what)? / value(run, other)?));
    shares.max_by(f64::total_cmp)
}

/// The median of the rounds' disk syncs, in milliseconds.
pub fn disk_sync(runs: &[Run]) -> Option<f64> {
    let mut times: Vec<f64> = runs.iter().map(|run| run.disk_sync_ms).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

/// An aim in words.
pub fn words(goal: Goal, unit: &str) -> String {
    match goal {
        Goal::Times(times) => format!("≥ {times} × Synapse"),
        Goal::AtLeast(value, times) => format!("≥ {value} {unit} or {times} × Synapse"),
        Goal::AtMost(value, times) => format!("≤ {value} {unit} or Synapse / {times}"),
        Goal::SyncAnd(more, times) => format!("≤ a disk sync + {more} ms or Synapse / {times}"),
        Goal::Limit(value) => format!("≤ {value} {unit}"),
        Goal::Cpu(value) => format!("≤ {value} ms CPU"),
        Goal::ShareOf(share, what) => format!("≥ {share} of {} in a round", short(what)),
        Goal::CpuOf(times, what) => format!("CPU ≤ {times} × that of {}", short(what)),
    }
}

fn short(what: What) -> &'static str {
    match what {
        What::Sends => "sends into a new room",
        What::EmptySyncOne => "a user in 1 room",
        _ => "the other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{
        Row,
        tests::{row, run},
    };

    fn runs(ours: Vec<Row>, theirs: Vec<Row>) -> [Run; 2] {
        [run(Kind::Resuni, ours), run(Kind::Synapse, theirs)]
    }

    #[test]
    fn a_slow_machine_is_judged_by_the_ratio() {
        let time = |value| vec![row(What::FirstSync, value, false, None)];
        let goal = Goal::AtMost(50.0, 24.0);
        let judged = |ours, theirs| reached(&runs(time(ours), time(theirs)), What::FirstSync, goal);
        assert_eq!(judged(40.0, 100.0), Some(true));
        assert_eq!(judged(60.0, 1200.0), Some(false));
        assert_eq!(judged(60.0, 1500.0), Some(true));
        assert_eq!(reached(&[], What::FirstSync, goal), None);
    }

    #[test]
    fn what_shall_be_flat_is_compared_within_a_round() {
        let round = |new, long| {
            let rows = vec![
                row(What::Sends, new, true, None),
                row(What::SendsLong, long, true, None),
            ];
            run(Kind::Resuni, rows)
        };
        let goal = Goal::ShareOf(0.8, What::Sends);
        let judged = |runs: &[Run]| reached(runs, What::SendsLong, goal);
        // The disk was faster at the beginning of the first round.
        assert_eq!(judged(&[round(7000.0, 2400.0)]), Some(false));
        assert_eq!(
            judged(&[round(7000.0, 2400.0), round(2500.0, 2400.0)]),
            Some(true)
        );
    }

    #[test]
    fn rows_are_compared_with_other_rows() {
        let ours = vec![
            row(What::Sends, 1000.0, true, Some(0.2)),
            row(What::SendsLong, 790.0, true, Some(0.2)),
            row(What::EmptySyncOne, 1.0, true, Some(0.05)),
            row(What::EmptySyncMany, 1.0, true, Some(0.07)),
            row(What::Delivery, 3.9, false, None),
        ];
        let runs = runs(ours, vec![row(What::Sends, 40.0, true, None)]);
        let judged = |what, goal| reached(&runs, what, goal);
        assert_eq!(judged(What::Sends, Goal::Times(20.0)), Some(true));
        assert_eq!(judged(What::Sends, Goal::Times(26.0)), Some(false));
        let share = Goal::ShareOf(0.8, What::Sends);
        assert_eq!(judged(What::SendsLong, share), Some(false));
        assert_eq!(judged(What::EmptySyncMany, Goal::Cpu(0.1)), Some(true));
        let of_one = Goal::CpuOf(1.2, What::EmptySyncOne);
        assert_eq!(judged(What::EmptySyncMany, of_one), Some(false));
        assert_eq!(judged(What::Delivery, Goal::SyncAnd(2.0, 12.0)), Some(true));
    }
}
