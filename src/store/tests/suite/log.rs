//! Positions, the watermark and followers.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use resuni_store::{Batch, CommitError, Direction, Position, ScanRange, Store, StoreError};

use super::{FAR, Place, ROWS, TOPIC, key, log, open};

pub async fn a_log_entry_needs_its_reservation(place: Place) {
    let store = open(&place).await;
    let mut batch = Batch::new();
    let reservation = store.reserve(1);
    batch.log(reservation.first(), TOPIC, 1, vec![]);
    assert!(matches!(
        store.commit(batch).await.err(),
        Some(CommitError::Unreserved(_))
    ));
}

pub async fn given_up_positions_are_passed(place: Place) {
    let store = open(&place).await;
    let first = log(&store, 1).await;
    drop(store.reserve(5));
    let mut refused = Batch::new();
    refused.attach(store.reserve(2));
    refused.guard_exists(&FAR, &404);
    assert!(store.commit(refused).await.is_err());
    let last = log(&store, 2).await;
    assert_eq!(last.0, first.0 + 8);
    assert_eq!(store.log().watermark(), last);
    let entries = store.log().read(Position(0), last, 10).await.unwrap();
    assert_eq!(
        entries.iter().map(|entry| entry.scope).collect::<Vec<_>>(),
        [1, 2]
    );
}

pub async fn the_watermark_waits_for_the_lowest(place: Place) {
    let store = open(&place).await;
    let begin = log(&store, 0).await;
    let slow = store.reserve(1);
    let fast = log(&store, 2).await;
    assert_eq!(store.log().watermark(), begin);
    assert_eq!(store.log().read(begin, fast, 10).await.unwrap(), []);
    assert_eq!(store.log().recent(begin, fast), Some(vec![]));
    let mut watch = store.log().watch();
    let mut batch = Batch::new();
    batch.log(slow.first(), TOPIC, 1, vec![]);
    batch.attach(slow);
    store.commit_durable(batch).await.unwrap();
    assert_eq!(
        *watch.wait_for(|position| *position >= fast).await.unwrap(),
        fast
    );
    let entries = store.log().read(begin, fast, 10).await.unwrap();
    assert_eq!(
        entries.iter().map(|entry| entry.scope).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(store.log().recent(begin, fast), Some(entries));
}

pub async fn the_log_is_read_from_memory_and_from_disk(place: Place) {
    let store = open(&place).await;
    let begin = store.log().watermark();
    // More than the ring holds.
    for _ in 0..40 {
        let mut batch = Batch::new();
        let reservation = store.reserve(500);
        for position in reservation.iter() {
            batch.log(position, TOPIC, position.0, vec![1, 2, 3]);
        }
        batch.attach(reservation);
        store.commit_durable(batch).await.unwrap();
    }
    let end = store.log().watermark();
    assert_eq!(end.0, begin.0 + 20_000);
    assert_eq!(store.log().recent(begin, end), None);
    let mut at = begin;
    while at < end {
        let page = store.log().read(at, end, 999).await.unwrap();
        for entry in page {
            assert_eq!(entry.position.0, at.0 + 1);
            assert_eq!(
                (entry.scope, &*entry.payload),
                (entry.position.0, &[1u8, 2, 3][..])
            );
            at = entry.position;
        }
    }
    let recent = store.log().recent(Position(end.0 - 10_000), end).unwrap();
    assert_eq!(recent.len(), 10_000);
    assert_eq!(
        store
            .log()
            .read(Position(end.0 - 10_000), end, usize::MAX)
            .await
            .unwrap(),
        recent
    );
}

pub async fn a_snapshot_holds_the_log_up_to_its_position(place: Place) {
    let store = open(&place).await;
    let writers: Vec<_> = (0..4)
        .map(|n| tokio::spawn(write_noisily(store.clone(), n, 100)))
        .collect();
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        let snapshot = store.snapshot();
        let entries = store
            .log()
            .read(Position(0), snapshot.position(), usize::MAX)
            .await
            .unwrap();
        for entry in entries {
            let row = snapshot.get(&FAR, &entry.position.0).await.unwrap();
            assert_eq!(
                row,
                Some(entry.scope),
                "an entry without the row written with it"
            );
        }
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Reserves, dawdles, then commits, is refused, or gives up. Each entry is written with a row.
async fn write_noisily(store: Store, scope: u64, rounds: usize) -> Vec<Position> {
    let mut random = StdRng::seed_from_u64(scope);
    let mut written = Vec::new();
    for _ in 0..rounds {
        let count = random.random_range(1..4);
        let fate = random.random_range(0..10);
        let reservation = store.reserve(count);
        for _ in 0..random.random_range(0..4) {
            tokio::task::yield_now().await;
        }
        let mut batch = Batch::new();
        if fate == 0 {
            continue;
        }
        let used: Vec<_> = reservation.iter().skip(usize::from(fate == 1)).collect();
        for position in &used {
            batch.log(*position, TOPIC, scope, vec![]);
            batch.put(&FAR, &position.0, &scope);
        }
        batch.attach(reservation);
        if fate == 2 {
            batch.guard_exists(&ROWS, &key(404, "never"));
            assert!(store.commit(batch).await.is_err());
            continue;
        }
        let applied = store.commit(batch).await.unwrap();
        if fate > 4 {
            applied.durable().await.unwrap();
        }
        written.extend(used);
    }
    written
}

/// The promise of the watermark: who was told that the log is complete up to a position has seen
/// every entry that there will ever be up to it.
pub async fn readers_never_miss_an_entry(place: Place) {
    let store = open(&place).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let reader = |store: Store, mut stopped: tokio::sync::watch::Receiver<bool>| async move {
        let mut seen: Vec<Position> = Vec::new();
        let mut at = Position(0);
        let mut watch = store.log().watch();
        loop {
            let last_round = *stopped.borrow();
            let up_to = *watch.borrow_and_update();
            while at < up_to {
                let page = store.log().read(at, up_to, 5).await.unwrap();
                at = if page.len() < 5 {
                    up_to
                } else {
                    page[4].position
                };
                seen.extend(page.iter().map(|entry| entry.position));
            }
            if last_round && at == store.log().watermark() {
                return seen;
            }
            tokio::select! {
                moved = watch.changed() => moved.unwrap(),
                told = stopped.changed(), if !last_round => told.unwrap(),
            }
        }
    };
    let readers: Vec<_> = (0..3)
        .map(|_| tokio::spawn(reader(store.clone(), stopped.clone())))
        .collect();
    let writers: Vec<_> = (0..8)
        .map(|n| tokio::spawn(write_noisily(store.clone(), n, 60)))
        .collect();
    let mut written = Vec::new();
    for writer in writers {
        written.extend(writer.await.unwrap());
    }
    written.sort_unstable();
    log(&store, 99).await;
    written.push(store.log().watermark());
    stop.send(true).unwrap();
    for reader in readers {
        let seen = tokio::time::timeout(Duration::from_secs(60), reader)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(seen, written);
    }
}

pub async fn followers_go_on_from_their_cursor(place: Place) {
    let store = open(&place).await;
    for scope in 1..=5 {
        log(&store, scope).await;
    }
    let mut follower = store.follower("effects").await.unwrap();
    let entries = follower.next(2).await.unwrap();
    assert_eq!(
        entries.iter().map(|entry| entry.scope).collect::<Vec<_>>(),
        [1, 2]
    );
    // Without a saved cursor the same entries come again.
    assert_eq!(follower.next(2).await.unwrap(), entries);
    let mut batch = Batch::new();
    batch.put(&FAR, &1, &1);
    follower.advance(&mut batch, entries[1].position);
    store.commit_durable(batch).await.unwrap();
    assert_eq!(follower.cursor(), entries[1].position);
    let third = follower.next(1).await.unwrap();
    assert_eq!(third[0].scope, 3);
    follower.save(third[0].position).await.unwrap();

    let mut again = store.follower("effects").await.unwrap();
    assert_eq!(again.next(1).await.unwrap()[0].scope, 4);
    assert_eq!(
        store
            .follower("other")
            .await
            .unwrap()
            .next(9)
            .await
            .unwrap()
            .len(),
        5
    );

    let last = again.next(9).await.unwrap();
    again.save(last[1].position).await.unwrap();
    drop(store.reserve(3));
    let waiting = tokio::spawn(async move { again.next(9).await });
    tokio::task::yield_now().await;
    log(&store, 6).await;
    assert_eq!(waiting.await.unwrap().unwrap()[0].scope, 6);
}

pub async fn a_refused_batch_does_not_move_a_follower(place: Place) {
    let store = open(&place).await;
    log(&store, 1).await;
    let mut follower = store.follower("effects").await.unwrap();
    let entries = follower.next(9).await.unwrap();
    let mut batch = Batch::new();
    batch.guard_exists(&FAR, &404);
    follower.advance(&mut batch, entries[0].position);
    assert!(store.commit(batch).await.is_err());
    assert_eq!(follower.next(9).await.unwrap(), entries);
}

pub async fn reopening_goes_on_above(place: Place) {
    if !place.keeps() {
        return;
    }
    let store = open(&place).await;
    let lineage = store.lineage();
    let last = log(&store, 7).await;
    let given_up = store.reserve(4);
    let highest = given_up.get(3);
    drop(given_up);
    let told = store.log().watermark();
    store.close().await;
    drop(store);

    let store = open(&place).await;
    assert_eq!(store.lineage(), lineage);
    assert!(store.log().watermark() >= told);
    assert!(store.reserve(1).first() > highest);
    let entries = store
        .log()
        .read(Position(0), store.log().watermark(), 9)
        .await
        .unwrap();
    assert_eq!(
        entries
            .iter()
            .map(|entry| entry.position)
            .collect::<Vec<_>>(),
        [last]
    );
    let next = log(&store, 8).await;
    assert_eq!(store.log().read(last, next, 9).await.unwrap().len(), 1);
    let mut follower = store.follower("late").await.unwrap();
    assert_eq!(follower.next(9).await.unwrap().len(), 2);
}

pub async fn a_closed_store_takes_no_writes(place: Place) {
    let store = open(&place).await;
    let mut batch = Batch::new();
    batch.put(&FAR, &1, &1);
    let applied = store.commit(batch).await.unwrap();
    store.close().await;
    applied.durable().await.unwrap();
    let mut batch = Batch::new();
    batch.put(&FAR, &2, &2);
    let refused = store.commit(batch).await.err();
    assert!(matches!(
        refused,
        Some(CommitError::Store(StoreError::Closed))
    ));
    let snapshot = store.snapshot();
    let rows = snapshot
        .scan(&FAR, ScanRange::all(), Direction::Forward, 9)
        .await
        .unwrap();
    assert_eq!(rows, [(1, 1)]);
    store.close().await;
    assert!(matches!(store.ended().await, StoreError::Closed));
}

pub async fn followers_read_the_rest_of_a_closed_log(place: Place) {
    let store = open(&place).await;
    log(&store, 1).await;
    let mut follower = store.follower("effects").await.unwrap();
    let mut waiting = store.follower("waiting").await.unwrap();
    waiting.save(store.log().watermark()).await.unwrap();
    let waiting = tokio::spawn(async move { waiting.next(9).await });
    tokio::task::yield_now().await;
    store.close().await;
    assert!(matches!(waiting.await.unwrap(), Err(StoreError::Closed)));
    let entries = follower.next(9).await.unwrap();
    assert_eq!(entries.len(), 1);
    assert!(follower.save(entries[0].position).await.is_err());
}
