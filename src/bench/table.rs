//! What was measured: rows of one round, and the best of several.

use resuni_testkit::Kind;

/// What is measured, by which rows of different servers and the goals find each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Sends into a new room.
    Sends,
    /// Sends into as many rooms as there are connections.
    SendsManyRooms,
    /// Sends into a room with a long history.
    SendsLong,
    /// Sends into a room with many members of this server.
    SendsLarge,
    /// What a message adds to the data folder.
    DiskBytes,
    /// Pages of history.
    History,
    /// Joins of a public room by users of its server.
    Joins,
    /// All state of a room.
    State,
    /// The first sync of a user in many rooms.
    FirstSync,
    /// An incremental sync of a user in one room that brings nothing.
    EmptySyncOne,
    /// The same for a user in many rooms.
    EmptySyncMany,
    /// The first sync, without the members that it can do without, of a user in a large room.
    LazySync,
    /// The first sync of a user in so many rooms.
    FirstSyncOf(usize),
    /// The first window of the room list of such a user.
    FirstListOf(usize),
    /// A message, and the sync that brings it.
    Follow,
    /// What a waiting client costs in memory.
    WaitingMemory,
    /// What all of them cost in CPU.
    WaitingCpu,
    /// From a send to the waiting sync of another user of the same server.
    Delivery,
    /// From a send to the last of many waiting syncs of the same server.
    FanOut,
    /// The join of a large room on another server.
    RemoteJoin,
    /// From a send to the waiting sync of a user of another server.
    RemoteDelivery,
    /// Many messages at once to another server.
    Burst,
    /// From the join of a room with so many members until the next message in it was read.
    JoinReadable(usize),
    /// The same until all members are there.
    JoinWhole(usize),
    /// What that takes of memory at the most.
    JoinMemory(usize),
    /// One message of another server in a room with so many members.
    RoomLatency(usize),
    /// Messages of another server in full transactions.
    RoomMessages(usize),
    /// Joins on another server in full transactions.
    RoomJoins(usize),
    /// Messages of a user of the server.
    RoomOwn(usize),
    /// A fork of so many branches.
    Fork(usize),
    /// Resident memory of a server that nobody uses.
    MemoryIdle,
    /// Resident memory when all was done.
    MemoryAfter,
}

/// One line of the report.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured.
    pub what: What,
    /// The same for people, with the sizes of this run.
    pub name: String,
    /// The value, in `unit`.
    pub value: f64,
    /// The unit of `value`.
    pub unit: &'static str,
    /// Whether a larger value is the better one.
    pub more_is_better: bool,
    /// The server's CPU per operation, in milliseconds, where it was taken.
    pub cpu_ms: Option<f64>,
    /// A remark: how latencies spread, or how far a load came.
    pub note: String,
}

/// One round of one kind of server.
#[derive(Debug)]
pub struct Run {
    /// What it was.
    pub kind: Kind,
    /// What it said its version is.
    pub version: String,
    /// The median time of a disk sync just before.
    pub disk_sync_ms: f64,
    /// The machine's load average (one minute) before and after.
    pub load: (f64, f64),
    /// In the order they were measured.
    pub rows: Vec<Row>,
}

/// What several rounds say about one thing.
#[derive(Debug, Clone)]
pub struct Best {
    /// The row with the best value.
    pub row: Row,
    /// The least CPU per operation of any round.
    pub cpu_ms: Option<f64>,
    /// The worst value of any round.
    pub worst: f64,
    /// How many rounds.
    pub rounds: usize,
}

/// The best of a kind's rounds: other work on the machine makes figures worse, never better. What lies on disk is the
/// exception: how much of it is journal depends on the moment, so its worst round counts.
pub fn best(runs: &[Run], kind: Kind, what: What) -> Option<Best> {
    let rows = || {
        let of_kind = runs.iter().filter(|run| run.kind == kind);
        of_kind.flat_map(|run| run.rows.iter().filter(|row| row.what == what))
    };
    let badness = |row: &&Row| {
        if row.more_is_better {
            -row.value
        } else {
            row.value
        }
    };
    let order = |a: &&Row, b: &&Row| badness(a).total_cmp(&badness(b));
    let row = match what {
        What::DiskBytes => rows().max_by(order)?.clone(),
        _ => rows().min_by(order)?.clone(),
    };
    Some(Best {
        cpu_ms: rows().filter_map(|row| row.cpu_ms).min_by(f64::total_cmp),
        worst: rows().max_by(order)?.value,
        rounds: rows().count(),
        row,
    })
}

/// How many times better `value` is than `base`, both of rows like `row`.
pub fn times_better(row: &Row, value: f64, base: f64) -> Option<f64> {
    let (numerator, denominator) = match row.more_is_better {
        true => (value, base),
        false => (base, value),
    };
    (denominator > 0.0).then(|| numerator / denominator)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(what: What, value: f64, more_is_better: bool, cpu_ms: Option<f64>) -> Row {
        Row {
            what,
            name: format!("{what:?}"),
            value,
            unit: if more_is_better { "/s" } else { "ms" },
            more_is_better,
            cpu_ms,
            note: String::new(),
        }
    }

    pub(crate) fn run(kind: Kind, rows: Vec<Row>) -> Run {
        Run {
            kind,
            version: "1".to_owned(),
            disk_sync_ms: 2.0,
            load: (0.0, 0.0),
            rows,
        }
    }

    #[test]
    fn the_best_of_rounds_is_the_highest_rate_and_the_lowest_time() {
        let round = |rate, time, cpu| {
            let rows = vec![
                row(What::Sends, rate, true, Some(cpu)),
                row(What::Delivery, time, false, None),
            ];
            run(Kind::Resuni, rows)
        };
        let other = run(Kind::Synapse, vec![row(What::Sends, 1e9, true, None)]);
        let runs = [round(100.0, 9.0, 0.3), round(200.0, 3.0, 0.4), other];
        let sends = best(&runs, Kind::Resuni, What::Sends).unwrap();
        assert_eq!(
            (sends.row.value, sends.worst, sends.rounds),
            (200.0, 100.0, 2)
        );
        assert_eq!(sends.cpu_ms, Some(0.3));
        let delivery = best(&runs, Kind::Resuni, What::Delivery).unwrap();
        assert_eq!((delivery.row.value, delivery.worst), (3.0, 9.0));
        assert!(best(&runs, Kind::Resuni, What::Burst).is_none());
        let disk = |bytes| run(Kind::Resuni, vec![row(What::DiskBytes, bytes, false, None)]);
        let found = best(
            &[disk(0.0), disk(1568.0), disk(700.0)],
            Kind::Resuni,
            What::DiskBytes,
        );
        assert_eq!(found.unwrap().row.value, 1568.0);
    }

    #[test]
    fn better_is_more_of_a_rate_and_less_of_a_time() {
        let rate = row(What::Sends, 0.0, true, None);
        let time = row(What::Delivery, 0.0, false, None);
        assert_eq!(times_better(&rate, 200.0, 50.0), Some(4.0));
        assert_eq!(times_better(&time, 50.0, 200.0), Some(4.0));
        assert_eq!(times_better(&rate, 200.0, 0.0), None);
    }
}
