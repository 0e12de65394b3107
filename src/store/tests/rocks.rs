//! What only an engine on disk can do: be locked, be somebody else's, survive a crash.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use resuni_store::{
    Batch, EngineConfig, Namespace, OpenError, Position, RocksConfig, Store, Table, Topic,
};

static ROWS: Table<u64, u64> = Table::new(0x0201, "rows");
static FAR: Table<u64, Position> = Table::new(0x0301, "far");
static EVENTS: Namespace = Namespace::new(1, "events");
static TOPIC: Topic = Topic(0x0201);

async fn open(path: &Path) -> Result<Store, OpenError> {
    Store::open(EngineConfig::Rocks(RocksConfig::new(path))).await
}

#[tokio::test]
async fn a_database_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    let refused = open(directory.path()).await.err().unwrap();
    assert!(matches!(refused, OpenError::Locked(_)), "{refused}");
    drop(store);
    open(directory.path()).await.unwrap();
}

#[tokio::test]
async fn a_foreign_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let path = directory.path().join("families");
    drop(rocksdb::DB::open_cf(&options, &path, ["pduid_pdu"]).unwrap());
    let refused = open(&path).await.err().unwrap();
    assert!(
        matches!(&refused, OpenError::Foreign(why) if why.contains("pduid_pdu")),
        "{refused}"
    );

    let path = directory.path().join("plain");
    let plain = rocksdb::DB::open(&options, &path).unwrap();
    plain.put("somebody", "else").unwrap();
    drop(plain);
    let refused = open(&path).await.err().unwrap();
    assert!(matches!(refused, OpenError::Foreign(_)), "{refused}");
    let families = rocksdb::DB::list_cf(&options, &path).unwrap();
    assert_eq!(families, ["default"]);
    let plain = rocksdb::DB::open(&options, &path).unwrap();
    assert_eq!(plain.get("somebody").unwrap().unwrap(), b"else");
}

/// Only as the other process of [`what_was_acknowledged_survives_a_kill`]: writes until it is killed
/// and prints each number once it is durable.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by what_was_acknowledged_survives_a_kill"]
async fn crashing_process() {
    let Some(path) = std::env::var_os("RESUNI_STORE_CRASH_PATH") else {
        return;
    };
    let store = open(Path::new(&path)).await.unwrap();
    let write = |store: Store| async move {
        for _ in 0..u64::MAX {
            let number = store.numbers().next(&EVENTS);
            let mut batch = Batch::new();
            let reservation = store.reserve(2);
            let position = reservation.get(1);
            batch.log(position, TOPIC, number, vec![0; 100]);
            batch.guard_absent(&ROWS, &number);
            batch.put(&ROWS, &number, &number);
            batch.put(&FAR, &number, &position);
            batch.attach(reservation);
            store.commit_durable(batch).await.unwrap();
            let watermark = store.log().watermark();
            let mut out = std::io::stdout().lock();
            writeln!(out, "durable {number} {} {}", position.0, watermark.0).unwrap();
            out.flush().unwrap();
        }
    };
    let writers: Vec<_> = (0..8).map(|_| tokio::spawn(write(store.clone()))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 1..=6 {
        let before = acknowledged.len();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crashing_process", "--ignored", "--nocapture"])
            .env("RESUNI_STORE_CRASH_PATH", directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            // The kill may cut a line short; what was not told in full was not acknowledged.
            let line = line.unwrap_or_default();
            let Some(facts) = line.strip_prefix("durable ") else {
                continue;
            };
            let facts: Vec<u64> = facts
                .split(' ')
                .filter_map(|fact| fact.parse().ok())
                .collect();
            if let [number, position, watermark] = facts[..] {
                acknowledged.push((number, Position(position)));
                told = told.max(watermark);
            }
            if acknowledged.len() == before + 40 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(
            acknowledged.len() > before,
            "the other process wrote nothing"
        );

        let store = open(directory.path()).await.unwrap();
        let snapshot = store.snapshot();
        for (number, position) in &acknowledged {
            assert_eq!(snapshot.get(&ROWS, number).await.unwrap(), Some(*number));
            assert_eq!(snapshot.get(&FAR, number).await.unwrap(), Some(*position));
        }
        let watermark = store.log().watermark();
        assert!(
            watermark.0 >= told,
            "a watermark that somebody was told came back lower"
        );
        let entries = store
            .log()
            .read(Position(0), watermark, usize::MAX)
            .await
            .unwrap();
        for (number, position) in &acknowledged {
            let found = entries.binary_search_by_key(position, |entry| entry.position);
            assert_eq!(entries[found.unwrap()].scope, *number);
        }
        // Rows that were written together are there together, acknowledged or not.
        for entry in &entries {
            assert_eq!(
                snapshot.get(&FAR, &entry.scope).await.unwrap(),
                Some(entry.position)
            );
        }
        assert!(store.reserve(1).first() > entries.last().unwrap().position);
        let number = store.numbers().next(&EVENTS);
        assert!(
            entries.iter().all(|entry| entry.scope < number),
            "a number came twice"
        );
        let bad = &mut |row: resuni_store::BadRow<'_>| unreachable!("{row:?}");
        snapshot.check(&[ROWS.info(), FAR.info()], bad).unwrap();
    }
}
