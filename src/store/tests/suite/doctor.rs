//! What a database says about itself.

use std::{future::Future, pin::Pin};

use resuni_store::{
    Batch, CommitError, Direction, Migration, Namespace, OpenError, OpenOptions, ScanRange, Store,
    Table,
};

use super::{FAR, OTHERS, Place, ROWS, key, log, open};

pub async fn the_doctor_sees_every_row(place: Place) {
    static USERS: Namespace = Namespace::new(1, "users");
    static UNKNOWN: Table<u64, u64> = Table::new(0x0777, "unknown");
    /// The same table as `OTHERS`, with values that are none of its own.
    static WRONG: Table<u64, Vec<u8>> = Table::new(0x0202, "others");
    let store = open(&place).await;
    log(&store, 1).await;
    let mut batch = Batch::new();
    store
        .numbers()
        .assign(&USERS, b"@alice", &mut batch)
        .await
        .unwrap();
    batch.put(&ROWS, &key(1, "a"), &1);
    batch.put(&ROWS, &key(1, "b"), &1);
    batch.put(&OTHERS, &1, &"good".to_owned());
    store.commit_durable(batch).await.unwrap();

    let tables = [ROWS.info(), OTHERS.info(), FAR.info()];
    let examine = || {
        let mut bad = Vec::new();
        let found = &mut |row: resuni_store::BadRow<'_>| bad.push((row.table, row.key.to_vec()));
        let counts = store.snapshot().check(&tables, found).unwrap();
        (counts, bad)
    };
    let (counts, bad) = examine();
    assert_eq!(bad, []);
    let rows = |table| {
        counts
            .iter()
            .find(|count| count.table == table)
            .map(|count| count.rows)
    };
    assert_eq!(
        (rows(0x0201), rows(0x0202), rows(0x0301)),
        (Some(2), Some(1), None)
    );
    assert_eq!(
        (rows(0x0101), rows(0x0102), rows(0x0103)),
        (Some(1), Some(1), Some(1))
    );

    let mut batch = Batch::new();
    batch.put(&WRONG, &2, &vec![0xFF, 0xFE]);
    batch.put(&UNKNOWN, &3, &3);
    store.commit_durable(batch).await.unwrap();
    let (_, bad) = examine();
    assert_eq!(
        bad,
        [
            (0x0202, 2u64.to_be_bytes().to_vec()),
            (0x0777, 3u64.to_be_bytes().to_vec())
        ]
    );
    let error = store
        .snapshot()
        .get(&OTHERS, &2)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"others\"") && error.contains("resuni doctor"),
        "{error}"
    );
}

type Step<'a> = Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send + 'a>>;

/// Makes `FAR` from `ROWS`, and would count itself if it ran twice.
fn copy(store: &Store) -> Step<'_> {
    Box::pin(async move {
        let rows = store
            .snapshot()
            .scan(&ROWS, ScanRange::all(), Direction::Forward, 10)
            .await?;
        let mut batch = Batch::new();
        for ((number, _), value) in rows {
            batch.put(&FAR, &number, &value);
            batch.put(&ROWS, &key(number, "x"), &(value + 1));
        }
        store.commit_durable(batch).await?;
        Ok(())
    })
}

fn fail(_: &Store) -> Step<'_> {
    Box::pin(async { Err(CommitError::Guard { table: "rows" }) })
}

const COPY: Migration = Migration {
    number: 2,
    name: "copy the rows",
    oldest_reader: 2,
    run: copy,
};
const FAIL: Migration = Migration {
    number: 3,
    name: "fail",
    oldest_reader: 2,
    run: fail,
};

pub async fn migrations_run_once_and_forward(place: Place) {
    if !place.keeps() {
        return;
    }
    let open_with = |migrations| {
        Store::open(OpenOptions {
            engine: place.engine(),
            migrations,
        })
    };
    let store = open_with(&[]).await.unwrap();
    let mut batch = Batch::new();
    batch.put(&ROWS, &key(1, "x"), &1);
    store.commit_durable(batch).await.unwrap();
    drop(store);

    for _ in 0..2 {
        let store = open_with(&[COPY]).await.unwrap();
        assert_eq!(store.snapshot().get(&FAR, &1).await.unwrap(), Some(1));
        assert_eq!(
            store.snapshot().get(&ROWS, &key(1, "x")).await.unwrap(),
            Some(2)
        );
    }
    let failed = open_with(&[COPY, FAIL]).await.err().unwrap();
    assert!(
        matches!(
            failed,
            OpenError::Migration {
                number: 3,
                name: "fail",
                ..
            }
        ),
        "{failed}"
    );
    drop(open_with(&[COPY]).await.unwrap());
    // A program that is too old changes nothing, not even by closing what it refused.
    let newer = open_with(&[]).await.err().unwrap();
    assert!(
        matches!(
            newer,
            OpenError::Newer {
                found: 2,
                needs: 2,
                known: 1
            }
        ),
        "{newer}"
    );
}
