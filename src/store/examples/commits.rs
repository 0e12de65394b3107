//! Prints what commits cost on this machine: `cargo run --release -p resuni-store --example commits`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people who measure"
)]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use resuni_store::{
    Batch, Direction, EngineConfig, Namespace, RocksConfig, ScanRange, Store, Table, Topic,
};

static EVENTS: Table<(u64, u64), Vec<u8>> = Table::new(0x0201, "events");
static EDGES: Table<u64, u64> = Table::new(0x0202, "edges");
static IDS: Namespace = Namespace::new(1, "ids");

/// Roughly what a message writes: an event of 800 bytes, its number, an edge and a log entry.
async fn batch(store: &Store, room: u64) -> Batch {
    let mut batch = Batch::new();
    let reservation = store.reserve(1);
    let position = reservation.first();
    let id = format!("$event-id-of-some-length-{room}-{}", position.0);
    let event = store
        .numbers()
        .assign(&IDS, id.as_bytes(), &mut batch)
        .await
        .unwrap();
    batch.guard_absent(&EVENTS, &(room, position.0));
    batch.put(&EVENTS, &(room, position.0), &id.repeat(25).into_bytes());
    batch.put(&EDGES, &event, &room);
    batch.log(position, Topic(0x0201), room, event.to_be_bytes().to_vec());
    batch.attach(reservation);
    batch
}

fn cpu() -> Duration {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        return Duration::ZERO;
    };
    let ticks: u64 = stat
        .split(' ')
        .skip(13)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok())
        .unwrap_or_default()
}

fn report(what: &str, count: u32, began: (Instant, Duration)) {
    let (wall, cpu) = (began.0.elapsed(), cpu() - began.1);
    let rate = f64::from(count) / wall.as_secs_f64();
    println!(
        "{what:<40} {rate:>10.0}/s  {:>8.1?} wall  {:>8.1?} CPU each",
        wall / count,
        cpu / count
    );
}

async fn measure(name: &str, engine: EngineConfig) {
    println!("{name}: idle {} KiB", resident_kib());
    let store = Store::open(engine).await.unwrap();
    println!("{name}: open {} KiB", resident_kib());
    let now = || (Instant::now(), cpu());

    let (began, count) = (now(), 20_000);
    for _ in 0..count {
        let batch = batch(&store, 1).await;
        drop(store.commit(batch).await.unwrap());
    }
    report("applied, one writer", count, began);

    for writers in [1, 16, 64] {
        let (began, each) = (now(), 2_000 / writers);
        let tasks: Vec<_> = (0..writers)
            .map(|room| {
                let store = store.clone();
                tokio::spawn(async move {
                    for _ in 0..each {
                        let batch = batch(&store, u64::from(room)).await;
                        store.commit_durable(batch).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        report(
            &format!("durable, {writers} writers"),
            each * writers,
            began,
        );
    }

    let (began, count) = (now(), 200_000);
    for number in 0..u64::from(count) {
        store
            .snapshot()
            .get(&EDGES, &(number % 20_000))
            .await
            .unwrap();
    }
    report("a snapshot and a row", count, began);

    let (began, count) = (now(), 2_000);
    for _ in 0..count {
        let range = ScanRange::prefix(&1u64);
        store
            .snapshot()
            .scan(&EVENTS, range, Direction::Backward, 100)
            .await
            .unwrap();
    }
    report("a page of 100 rows", count, began);
    store.close().await;
    println!("{name}: closed {} KiB", resident_kib());
}

#[tokio::main]
async fn main() {
    let path = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("target/commits.db"), PathBuf::from);
    measure("RocksDB", EngineConfig::Rocks(RocksConfig::new(path))).await;
    measure("memory", EngineConfig::Memory).await;
}
