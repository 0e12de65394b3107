//! Events that are sent later.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use resuni_accounts::AccountNum;
use resuni_rooms::TxnKey;
use serde_json::{json, value::to_raw_value};

use super::Home;
use crate::{Delayed, DelayedAction, DelayedError, DelayedEvents};

fn later(home: &Home) -> Arc<DelayedEvents> {
    let next = AtomicU8::new(0);
    let id = move || [next.fetch_add(1, Ordering::SeqCst); 16];
    DelayedEvents::new(home.rooms.clone(), home.accounts.clone(), id)
}

fn event(home: &Home, account: AccountNum, key: &str, delay_ms: u64) -> Delayed {
    Delayed {
        account,
        room: home.room.clone(),
        kind: "org.example".to_owned(),
        state_key: Some(key.to_owned()),
        content: to_raw_value(&json!({ "key": key })).unwrap(),
        redacts: None,
        delay_ms,
        txn: None,
        sticky_ms: None,
    }
}

async fn has(home: &Home, key: &str) -> bool {
    let view = home.rooms.view(&home.room).await.unwrap().unwrap();
    view.state("org.example", key).await.unwrap().is_some()
}

#[tokio::test]
async fn events_are_sent_when_they_are_due_and_not_before() {
    let home = Home::new().await;
    let alice = home.accounts.find_user(&home.alice).await.unwrap().unwrap();
    let delayed = later(&home);
    for (key, delay) in [("late", 3_600_000), ("soon", 1)] {
        delayed.add(event(&home, alice, key, delay)).await.unwrap();
    }
    assert_eq!(delayed.list(alice).await.unwrap().len(), 2);
    tokio::spawn({
        let delayed = delayed.clone();
        async move { delayed.run().await }
    });
    let mut log = home.rooms.store().log().watch();
    while !has(&home, "soon").await {
        log.changed().await.unwrap();
    }
    assert!(!has(&home, "late").await);
}

#[tokio::test]
async fn an_event_is_cancelled_sent_at_once_or_waits_longer() {
    let home = Home::new().await;
    let alice = home.accounts.find_user(&home.alice).await.unwrap().unwrap();
    let delayed = later(&home);
    let add = async |key: &str| delayed.add(event(&home, alice, key, 60_000)).await.unwrap();
    let (never, now, on) = (add("never").await, add("now").await, add("on").await);
    delayed.act(&never, DelayedAction::Cancel).await.unwrap();
    delayed.act(&now, DelayedAction::Send).await.unwrap();
    delayed.act(&on, DelayedAction::Restart).await.unwrap();
    assert!(has(&home, "now").await);
    assert!(!has(&home, "never").await);
    let left = delayed.list(alice).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["delay_id"], json!(on));
    let again = delayed.act(&never, DelayedAction::Send).await;
    assert!(matches!(again, Err(DelayedError::NotFound)));
}

#[tokio::test]
async fn the_same_transaction_is_one_event_and_there_is_an_end_to_them() {
    let home = Home::new().await;
    let alice = home.accounts.find_user(&home.alice).await.unwrap().unwrap();
    let delayed = later(&home);
    let with = |txn: usize| Delayed {
        txn: Some(TxnKey {
            device: "D".into(),
            txn: txn.to_string(),
        }),
        ..event(&home, alice, "k", 60_000)
    };
    let first = delayed.add(with(0)).await.unwrap();
    assert_eq!(delayed.add(with(0)).await.unwrap(), first);
    for n in 1..crate::MAX_DELAYED {
        delayed.add(with(n)).await.unwrap();
    }
    let more = delayed.add(with(1_000)).await;
    assert!(matches!(more, Err(DelayedError::TooMany { .. })));
    let long = Delayed {
        delay_ms: crate::MAX_DELAY_MS + 1,
        ..with(1_001)
    };
    assert!(matches!(
        delayed.add(long).await,
        Err(DelayedError::TooLong)
    ));
}
