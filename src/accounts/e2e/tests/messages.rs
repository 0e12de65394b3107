//! Tests of messages from device to device and of the list of changed keys.

use std::{collections::BTreeMap, sync::Arc};

use resuni_store::Position;
use ruma::{device_id, user_id};
use serde_json::{Value, json};

use super::*;
use crate::testing::{TestClock, accounts, is_sound, with_clock};

async fn send(
    accounts: &Accounts,
    txn: &str,
    to: &[(AccountNum, &str, Value)],
) -> Result<(), AccountError> {
    let mut messages = BTreeMap::<_, BTreeMap<_, _>>::new();
    for (account, device, content) in to {
        let of_account = messages.entry(*account).or_default();
        of_account.insert((*device).to_owned(), content.clone());
    }
    let id = MessageId::Transaction {
        device: "D",
        kind: "m.test",
        txn,
    };
    let sender = user_id!("@sender:example.org");
    accounts
        .send_to_device(sender, id, "m.test", &messages)
        .await
}

async fn waiting(accounts: &Accounts, account: AccountNum, since: Position) -> ToDevicePage {
    let snapshot = accounts.snapshot();
    let up_to = snapshot.position();
    let device = device_id!("PHONE");
    accounts
        .to_device(&snapshot, account, device, since, up_to, 3)
        .await
        .unwrap()
}

fn contents(page: &ToDevicePage) -> Vec<Value> {
    let contents = page.messages.iter().map(|message| {
        let event: Value = serde_json::from_str(message.event.get()).unwrap();
        assert_eq!(event["type"], "m.test");
        assert_eq!(event["sender"], "@sender:example.org");
        event["content"].clone()
    });
    contents.collect()
}

#[tokio::test]
async fn messages_arrive_in_order_and_go_when_the_device_has_them() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await.account;
    for n in 0..5 {
        let txn = n.to_string();
        send(&accounts, &txn, &[(alice, "PHONE", json!(n))])
            .await
            .unwrap();
    }
    let first = waiting(&accounts, alice, Position(0)).await;
    assert_eq!(contents(&first), [json!(0), json!(1), json!(2)]);
    assert!(first.more);
    let token = first.messages[2].position;
    // The answer is lost: the same token gives the same messages.
    assert_eq!(
        contents(&waiting(&accounts, alice, Position(0)).await).len(),
        3
    );
    let device = device_id!("PHONE");
    accounts
        .delete_to_device(alice, device, token)
        .await
        .unwrap();
    let second = waiting(&accounts, alice, token).await;
    assert_eq!(contents(&second), [json!(3), json!(4)]);
    assert!(!second.more);
    assert_eq!(
        contents(&waiting(&accounts, alice, Position(0)).await).len(),
        2
    );
    accounts
        .delete_to_device(alice, device, second.messages[1].position)
        .await
        .unwrap();
    assert!(
        waiting(&accounts, alice, Position(0))
            .await
            .messages
            .is_empty()
    );
}

#[tokio::test]
async fn a_repeated_request_delivers_nothing_twice() {
    let (accounts, clock): (_, Arc<TestClock>) = with_clock().await;
    let alice = Person::new(&accounts, "alice").await.account;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let accounts = Arc::clone(&accounts);
            let to = [(alice, "PHONE", json!(1))];
            tokio::spawn(async move { send(&accounts, "same", &to).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(
        waiting(&accounts, alice, Position(0)).await.messages.len(),
        1
    );
    is_sound(&accounts).await;
    clock.advance(24 * 60 * 60_000 + 1);
    accounts.housekeeping().await.unwrap();
    is_sound(&accounts).await;
    send(&accounts, "same", &[(alice, "PHONE", json!(1))])
        .await
        .unwrap();
    assert_eq!(
        waiting(&accounts, alice, Position(0)).await.messages.len(),
        2
    );
}

#[tokio::test]
async fn a_star_means_all_devices() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await.account;
    let bob = Person::new(&accounts, "bob").await.account;
    accounts.login(alice, on("LAPTOP")).await.unwrap();
    let to = [
        (alice, "*", json!("all")),
        (alice, "PHONE", json!("one")),
        (alice, "GONE", json!("none")),
        (bob, "PHONE", json!("bob")),
    ];
    send(&accounts, "1", &to).await.unwrap();
    assert_eq!(
        contents(&waiting(&accounts, alice, Position(0)).await),
        [json!("one")]
    );
    assert_eq!(
        contents(&waiting(&accounts, bob, Position(0)).await),
        [json!("bob")]
    );
    let snapshot = accounts.snapshot();
    let laptop = device_id!("LAPTOP");
    let page = accounts
        .to_device(
            &snapshot,
            alice,
            laptop,
            Position(0),
            snapshot.position(),
            10,
        )
        .await;
    assert_eq!(contents(&page.unwrap()), [json!("all")]);
}

#[tokio::test]
async fn a_queue_keeps_its_newest_messages() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await.account;
    for n in 0..12_000 {
        let txn = n.to_string();
        send(&accounts, &txn, &[(alice, "PHONE", json!(n))])
            .await
            .unwrap();
    }
    let snapshot = accounts.snapshot();
    let device = device_id!("PHONE");
    let up_to = snapshot.position();
    let page = accounts
        .to_device(&snapshot, alice, device, Position(0), up_to, 20_000)
        .await;
    let kept = contents(&page.unwrap());
    assert_eq!(kept.len(), 10_000);
    assert_eq!(kept.last(), Some(&json!(11_999)));
}

#[tokio::test]
async fn a_device_takes_everything_with_it() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await;
    alice.publish(&accounts).await;
    let phone = device_id!("PHONE");
    let upload = KeyUpload {
        fallback_keys: object(json!({"signed_curve25519:f": {}})),
        ..one_time(&["signed_curve25519:a"])
    };
    accounts
        .upload_keys(alice.account, phone, &upload)
        .await
        .unwrap();
    send(&accounts, "1", &[(alice.account, "PHONE", json!(1))])
        .await
        .unwrap();
    let before = accounts.snapshot().position();
    accounts
        .delete_devices(alice.account, &[phone])
        .await
        .unwrap();
    accounts.login(alice.account, on("PHONE")).await.unwrap();
    is_sound(&accounts).await;
    assert_eq!(claim(&accounts, alice.account).await, None);
    assert!(
        waiting(&accounts, alice.account, Position(0))
            .await
            .messages
            .is_empty()
    );
    let keys = accounts.query_keys(alice.account, &[], None).await.unwrap();
    assert!(keys.devices.is_empty() && keys.master.is_some());
    let snapshot = accounts.snapshot();
    let changed = accounts
        .device_lists_since(&snapshot, before, snapshot.position())
        .await;
    assert_eq!(changed.unwrap(), [alice.user]);
}

#[tokio::test]
async fn whose_keys_changed() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await;
    let bob = Person::new(&accounts, "bob").await;
    let since = async |position| {
        let snapshot = accounts.snapshot();
        let up_to = snapshot.position();
        accounts
            .device_lists_since(&snapshot, position, up_to)
            .await
            .unwrap()
    };
    let start = accounts.snapshot().position();
    alice.publish(&accounts).await;
    let middle = accounts.snapshot().position();
    bob.publish(&accounts).await;
    let elsewhere = user_id!("@carol:elsewhere");
    accounts.remote_keys_changed(elsewhere).await.unwrap();
    assert_eq!(since(start).await, [&*alice.user, &*bob.user, elsewhere]);
    assert_eq!(since(middle).await, [&*bob.user, elsewhere]);
    alice.publish(&accounts).await;
    assert_eq!(
        since(middle).await,
        [&*bob.user, elsewhere],
        "the same keys again"
    );
    accounts
        .rename_device(alice.account, device_id!("PHONE"), Some("A".into()))
        .await
        .unwrap();
    accounts.remote_keys_changed(elsewhere).await.unwrap();
    assert_eq!(since(start).await, [&*bob.user, &*alice.user, elsewhere]);
    let position = accounts
        .device_list_position(&alice.user)
        .await
        .unwrap()
        .unwrap();
    assert!(position > middle);
    is_sound(&accounts).await;
}
