//! Rows, guards, snapshots and scans.

use resuni_store::{Batch, CommitError, Direction, ScanRange, Store};

use super::{FAR, OTHERS, Place, ROWS, key, open};

pub async fn rows_are_written_read_and_removed(place: Place) {
    let store = open(&place).await;
    let mut batch = Batch::new();
    batch.put(&ROWS, &key(1, "a"), &1);
    batch.put(&ROWS, &key(1, "a"), &2);
    batch.put(&ROWS, &key(1, "b"), &3);
    batch.put(&FAR, &7, &4);
    assert_eq!(batch.len(), 4);
    store.commit_durable(batch).await.unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.get(&ROWS, &key(1, "a")).await.unwrap(), Some(2));
    assert_eq!(snapshot.get(&FAR, &7).await.unwrap(), Some(4));
    assert!(snapshot.contains(&ROWS, &key(1, "b")).await.unwrap());
    assert!(!snapshot.contains(&ROWS, &key(1, "")).await.unwrap());
    let keys = [key(1, "b"), key(9, "nobody"), key(1, "a")];
    let many = snapshot.get_many(&ROWS, &keys).await.unwrap();
    assert_eq!(many, [Some(3), None, Some(2)]);

    let mut batch = Batch::new();
    batch.delete(&ROWS, &key(1, "a"));
    batch.delete(&ROWS, &key(5, "never there"));
    store.commit(batch).await.unwrap().durable().await.unwrap();
    let now = store.snapshot();
    assert_eq!(now.get(&ROWS, &key(1, "a")).await.unwrap(), None);
    assert_eq!(now.get(&ROWS, &key(1, "b")).await.unwrap(), Some(3));
}

async fn put(store: &Store, number: u64, text: &str, value: u64) {
    let mut batch = Batch::new();
    batch.put(&ROWS, &key(number, text), &value);
    store.commit_durable(batch).await.unwrap();
}

pub async fn a_refused_batch_leaves_nothing(place: Place) {
    let store = open(&place).await;
    put(&store, 1, "there", 1).await;
    let mut batch = Batch::new();
    batch.put(&ROWS, &key(1, "new"), &1);
    batch.put(&FAR, &1, &1);
    batch.delete(&ROWS, &key(1, "there"));
    batch.guard_absent(&ROWS, &key(1, "there"));
    let refused = store.commit_durable(batch).await;
    assert!(matches!(refused, Err(CommitError::Guard { table: "rows" })));
    let snapshot = store.snapshot();
    assert_eq!(snapshot.get(&ROWS, &key(1, "new")).await.unwrap(), None);
    assert_eq!(snapshot.get(&FAR, &1).await.unwrap(), None);
    assert_eq!(
        snapshot.get(&ROWS, &key(1, "there")).await.unwrap(),
        Some(1)
    );
}

pub async fn guards_see_what_is_applied(place: Place) {
    let store = open(&place).await;
    let mut first = Batch::new();
    first.put(&ROWS, &key(1, "head"), &1);
    let applied = store.commit(first).await.unwrap();
    // Not yet durable, and already there for the next writer.
    let guarded = |guard: fn(&mut Batch)| {
        let mut batch = Batch::new();
        guard(&mut batch);
        batch.put(&FAR, &1, &1);
        store.commit(batch)
    };
    assert!(
        guarded(|b| b.guard_equals(&ROWS, &key(1, "head"), &1))
            .await
            .is_ok()
    );
    assert!(
        guarded(|b| b.guard_equals(&ROWS, &key(1, "head"), &2))
            .await
            .is_err()
    );
    assert!(
        guarded(|b| b.guard_equals(&ROWS, &key(2, "none"), &2))
            .await
            .is_err()
    );
    assert!(
        guarded(|b| b.guard_exists(&ROWS, &key(1, "head")))
            .await
            .is_ok()
    );
    assert!(
        guarded(|b| b.guard_exists(&ROWS, &key(2, "none")))
            .await
            .is_err()
    );
    assert!(
        guarded(|b| b.guard_absent(&ROWS, &key(2, "none")))
            .await
            .is_ok()
    );
    assert!(
        guarded(|b| b.guard_absent(&ROWS, &key(1, "head")))
            .await
            .is_err()
    );
    applied.durable().await.unwrap();
}

pub async fn of_two_guarded_writers_one_wins(place: Place) {
    let store = open(&place).await;
    put(&store, 1, "counter", 0).await;
    let writer = |store: Store| async move {
        for _ in 0..50 {
            loop {
                let row = key(1, "counter");
                let value = store.snapshot().get(&ROWS, &row).await.unwrap().unwrap();
                let mut batch = Batch::new();
                batch.guard_equals(&ROWS, &row, &value);
                batch.put(&ROWS, &row, &(value + 1));
                match store.commit(batch).await {
                    Ok(_) => break,
                    Err(CommitError::Guard { .. }) => tokio::task::yield_now().await,
                    Err(other) => panic!("{other}"),
                }
            }
        }
    };
    let writers: Vec<_> = (0..4)
        .map(|_| tokio::spawn(writer(store.clone())))
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let counted = store
        .snapshot()
        .get(&ROWS, &key(1, "counter"))
        .await
        .unwrap();
    assert_eq!(counted, Some(200));
}

pub async fn a_snapshot_does_not_change(place: Place) {
    let store = open(&place).await;
    put(&store, 1, "kept", 1).await;
    put(&store, 1, "removed", 1).await;
    let before = store.snapshot();
    let copy = before.clone();
    for value in 2..5 {
        put(&store, 1, "kept", value).await;
    }
    put(&store, 1, "added", 1).await;
    let mut batch = Batch::new();
    batch.delete(&ROWS, &key(1, "removed"));
    store.commit_durable(batch).await.unwrap();
    let between = store.snapshot();
    put(&store, 1, "removed", 9).await;
    drop(before);

    let all = |snapshot: resuni_store::Snapshot| async move {
        let rows = snapshot.scan(&ROWS, ScanRange::all(), Direction::Forward, 10);
        rows.await
            .unwrap()
            .into_iter()
            .map(|((_, text), value)| format!("{text}={value}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(all(copy).await, ["kept=1", "removed=1"]);
    assert_eq!(all(between).await, ["added=1", "kept=4"]);
    assert_eq!(
        all(store.snapshot()).await,
        ["added=1", "kept=4", "removed=9"]
    );
}

pub async fn scans_page_both_ways(place: Place) {
    let store = open(&place).await;
    let mut batch = Batch::new();
    let expected: Vec<_> = (0..100)
        .map(|n| (key(n / 10, &format!("{:02}", n % 10)), n))
        .collect();
    for (key, value) in &expected {
        batch.put(&ROWS, key, value);
    }
    store.commit_durable(batch).await.unwrap();
    let snapshot = store.snapshot();

    let mut forward = Vec::new();
    let mut range = ScanRange::all();
    loop {
        let page = snapshot
            .scan(&ROWS, range, Direction::Forward, 7)
            .await
            .unwrap();
        let Some((last, _)) = page.last() else { break };
        range = ScanRange::after(last);
        forward.extend(page);
    }
    assert_eq!(forward, expected);

    let mut backward = Vec::new();
    let mut range = ScanRange::all();
    loop {
        let page = snapshot
            .scan(&ROWS, range, Direction::Backward, 7)
            .await
            .unwrap();
        let Some((last, _)) = page.last() else { break };
        range = ScanRange::before(last);
        backward.extend(page);
    }
    backward.reverse();
    assert_eq!(backward, expected);
}

pub async fn ranges_hold_what_they_say(place: Place) {
    let store = open(&place).await;
    let mut batch = Batch::new();
    for number in [1, 2, u64::MAX] {
        for text in ["", "a", "a\0", "b"] {
            batch.put(&ROWS, &key(number, text), &0);
        }
    }
    store.commit_durable(batch).await.unwrap();
    let snapshot = store.snapshot();
    let count = async |range: ScanRange| {
        let forward = snapshot
            .scan(&ROWS, range.clone(), Direction::Forward, 100)
            .await
            .unwrap();
        let mut backward = snapshot
            .scan(&ROWS, range, Direction::Backward, 100)
            .await
            .unwrap();
        backward.reverse();
        assert_eq!(forward, backward);
        forward.len()
    };
    assert_eq!(count(ScanRange::all()).await, 12);
    assert_eq!(count(ScanRange::prefix(&2u64)).await, 4);
    assert_eq!(count(ScanRange::prefix(&u64::MAX)).await, 4);
    assert_eq!(count(ScanRange::prefix(&key(2, "a"))).await, 1);
    assert_eq!(count(ScanRange::from(&key(2, "a"))).await, 7);
    assert_eq!(count(ScanRange::after(&key(2, "a"))).await, 6);
    assert_eq!(count(ScanRange::after(&2u64)).await, 4);
    assert_eq!(count(ScanRange::after(&u64::MAX)).await, 0);
    assert_eq!(count(ScanRange::before(&key(2, "a"))).await, 5);
    assert_eq!(
        count(ScanRange::between(&key(1, "b"), &key(2, "b"))).await,
        4
    );
    assert_eq!(
        count(ScanRange::between(&key(2, "b"), &key(1, "b"))).await,
        0
    );
    assert_eq!(count(ScanRange::after(&key(2, "a")).within(&2u64)).await, 2);
    assert_eq!(
        count(ScanRange::before(&key(2, "a")).within(&2u64)).await,
        1
    );
    assert_eq!(
        count(ScanRange::before(&key(1, "a")).within(&2u64)).await,
        0
    );
    let none = snapshot.scan(&ROWS, ScanRange::all(), Direction::Forward, 0);
    assert!(none.await.unwrap().is_empty());
}

pub async fn tables_do_not_touch(place: Place) {
    let store = open(&place).await;
    let mut batch = Batch::new();
    batch.put(&ROWS, &key(u64::MAX, "z"), &1);
    batch.put(&OTHERS, &0, &"first".to_owned());
    batch.put(&OTHERS, &u64::MAX, &"last".to_owned());
    batch.put(&FAR, &0, &1);
    store.commit_durable(batch).await.unwrap();
    let snapshot = store.snapshot();
    for direction in [Direction::Forward, Direction::Backward] {
        let all = ScanRange::all;
        assert_eq!(
            snapshot
                .scan(&ROWS, all(), direction, 9)
                .await
                .unwrap()
                .len(),
            1
        );
        assert_eq!(
            snapshot
                .scan(&OTHERS, all(), direction, 9)
                .await
                .unwrap()
                .len(),
            2
        );
        assert_eq!(
            snapshot
                .scan(&FAR, all(), direction, 9)
                .await
                .unwrap()
                .len(),
            1
        );
    }
}

pub async fn a_batch_has_a_limit(place: Place) {
    let store = open(&place).await;
    let mut batch = Batch::new();
    let large = "x".repeat(1 << 20);
    for number in 0..64 {
        batch.put(&OTHERS, &number, &large);
    }
    assert!(batch.bytes() > Batch::MAX_BYTES);
    let refused = store.commit(batch).await.err();
    assert!(matches!(
        refused,
        Some(CommitError::TooLarge {
            limit: Batch::MAX_BYTES,
            ..
        })
    ));
    assert_eq!(store.snapshot().get(&OTHERS, &0).await.unwrap(), None);

    let mut batch = Batch::new();
    for number in 0..63 {
        batch.put(&OTHERS, &number, &large);
    }
    store.commit_durable(batch).await.unwrap();
    assert_eq!(
        store.snapshot().get(&OTHERS, &62).await.unwrap(),
        Some(large)
    );
}
