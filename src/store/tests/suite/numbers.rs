//! Short numbers and sequences.

use std::collections::HashSet;

use resuni_store::{Batch, Namespace};

use super::{FAR, Place, open};

static USERS: Namespace = Namespace::new(1, "users");
static ROOMS: Namespace = Namespace::new(2, "rooms");

pub async fn names_have_one_number(place: Place) {
    let store = open(&place).await;
    let numbers = store.numbers();
    assert_eq!(numbers.find(&USERS, b"@alice").await.unwrap(), None);
    let mut batch = Batch::new();
    let alice = numbers.assign(&USERS, b"@alice", &mut batch).await.unwrap();
    assert_eq!(
        numbers.assign(&USERS, b"@alice", &mut batch).await.unwrap(),
        alice
    );
    let odd = numbers
        .assign(&USERS, b"odd\0\x01\xff", &mut batch)
        .await
        .unwrap();
    assert_ne!(odd, alice);
    let room = numbers.assign(&ROOMS, b"@alice", &mut batch).await.unwrap();
    assert_eq!(
        numbers.find(&USERS, b"@alice").await.unwrap(),
        None,
        "not yet applied"
    );
    store.commit_durable(batch).await.unwrap();

    let mut later = Batch::new();
    assert_eq!(
        numbers.assign(&USERS, b"@alice", &mut later).await.unwrap(),
        alice
    );
    assert!(later.is_empty(), "the rows are there already");
    assert_eq!(
        numbers.name(&USERS, alice).await.unwrap().as_deref(),
        Some(&b"@alice"[..])
    );
    assert_eq!(numbers.name(&USERS, 404).await.unwrap(), None);
    store.close().await;
    drop(store);

    if place.keeps() {
        let store = open(&place).await;
        let numbers = store.numbers();
        assert_eq!(numbers.find(&USERS, b"@alice").await.unwrap(), Some(alice));
        assert_eq!(numbers.find(&ROOMS, b"@alice").await.unwrap(), Some(room));
        assert_eq!(
            numbers.name(&USERS, odd).await.unwrap().as_deref(),
            Some(&b"odd\0\x01\xff"[..])
        );
        let mut batch = Batch::new();
        let bob = numbers.assign(&USERS, b"@bob", &mut batch).await.unwrap();
        assert_eq!(bob, odd + 1, "an orderly stop leaves no number unused");
    }
}

/// Two writers need the same new name at once; whichever of their batches is applied, in whatever
/// order, the name is there under the number that both used.
pub async fn writers_agree_on_a_new_name(place: Place) {
    let store = open(&place).await;
    let numbers = store.numbers();
    for round in 0..3u8 {
        let name = [b'@', round];
        let (mut first, mut second) = (Batch::new(), Batch::new());
        let number = numbers.assign(&USERS, &name, &mut first).await.unwrap();
        assert_eq!(
            numbers.assign(&USERS, &name, &mut second).await.unwrap(),
            number
        );
        assert_eq!((first.len(), second.len()), (2, 2));
        match round {
            0 => drop(first),
            1 => {
                first.guard_exists(&FAR, &404);
                assert!(store.commit(first).await.is_err());
            }
            _ => store.commit_durable(first).await.unwrap(),
        }
        store.commit_durable(second).await.unwrap();
        assert_eq!(numbers.find(&USERS, &name).await.unwrap(), Some(number));
        assert_eq!(
            numbers.name(&USERS, number).await.unwrap().as_deref(),
            Some(&name[..])
        );
    }

    let assign = |store: resuni_store::Store| async move {
        let mut all = Vec::new();
        for name in 0..50u8 {
            let mut batch = Batch::new();
            let number = store
                .numbers()
                .assign(&ROOMS, &[name], &mut batch)
                .await
                .unwrap();
            tokio::task::yield_now().await;
            drop(store.commit(batch).await.unwrap());
            all.push(number);
        }
        all
    };
    let writers: Vec<_> = (0..6)
        .map(|_| tokio::spawn(assign(store.clone())))
        .collect();
    let mut answers = HashSet::new();
    for writer in writers {
        answers.insert(writer.await.unwrap());
    }
    assert_eq!(answers.len(), 1, "all writers were given the same numbers");
}

pub async fn a_dropped_batch_forgets_its_names(place: Place) {
    let store = open(&place).await;
    let mut batch = Batch::new();
    let forgotten = store
        .numbers()
        .assign(&USERS, b"@alice", &mut batch)
        .await
        .unwrap();
    drop(batch);
    let mut batch = Batch::new();
    let number = store
        .numbers()
        .assign(&USERS, b"@alice", &mut batch)
        .await
        .unwrap();
    assert_ne!(number, forgotten);
    assert_eq!(batch.len(), 2);
    store.commit_durable(batch).await.unwrap();
    assert_eq!(
        store.numbers().find(&USERS, b"@alice").await.unwrap(),
        Some(number)
    );
}

pub async fn sequences_never_repeat(place: Place) {
    let store = open(&place).await;
    let count = |store: resuni_store::Store| {
        move || (0..2000).map(|_| store.numbers().next(&ROOMS)).collect()
    };
    let threads: Vec<std::thread::JoinHandle<Vec<u64>>> = (0..4)
        .map(|_| std::thread::spawn(count(store.clone())))
        .collect();
    let mut seen = HashSet::new();
    for thread in threads {
        for number in thread.join().unwrap() {
            assert!(number > 0 && seen.insert(number), "{number} came twice");
        }
    }
    assert_eq!(seen.len(), 8000);
    store.close().await;
    drop(store);
    if place.keeps() {
        let store = open(&place).await;
        assert_eq!(store.numbers().next(&ROOMS), 8001);
    }
}
