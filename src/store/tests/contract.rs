//! What every engine owes the store: the same suite for each.

#![expect(clippy::unwrap_used, reason = "tests")]

use resuni_store::{Batch, CommitError, Direction, EngineConfig, Namespace, ScanRange, Store, Table, Topic};

static ROWS: Table<(u64, String), u64> = Table::new(0xF001, "rows");
static USERS: Namespace = Namespace::new(1, "users");

#[tokio::test]
async fn smoke() {
    let store = Store::open(EngineConfig::Memory).await.unwrap();
    let mut batch = Batch::new();
    let reservation = store.reserve(2);
    batch.log(reservation.get(1), Topic(0xF001), 7, b"hello".to_vec());
    batch.put(&ROWS, &(1, "a".into()), &1);
    batch.put(&ROWS, &(1, "b".into()), &2);
    batch.put(&ROWS, &(2, "c".into()), &3);
    let number = store.numbers().assign(&USERS, b"@alice", &mut batch).await.unwrap();
    batch.attach(reservation);
    let before = store.snapshot();
    store.commit_durable(batch).await.unwrap();
    assert_eq!(before.get(&ROWS, &(1, "a".into())).await.unwrap(), None);
    let now = store.snapshot();
    assert_eq!(now.position(), store.log().watermark());
    let rows = now.scan(&ROWS, ScanRange::prefix(&1u64), Direction::Backward, 9).await.unwrap();
    assert_eq!(rows, [((1, "b".into()), 2), ((1, "a".into()), 1)]);
    assert_eq!(store.numbers().find(&USERS, b"@alice").await.unwrap(), Some(number));
    let mut follower = store.follower("test").await.unwrap();
    let entries = follower.next(10).await.unwrap();
    assert_eq!(entries.len(), 1);
    let mut batch = Batch::new();
    batch.guard_absent(&ROWS, &(1, "a".into()));
    assert!(matches!(store.commit(batch).await, Err(CommitError::Guard { table: "rows" })));
    store.close().await;
}
