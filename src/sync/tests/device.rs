//! Tests of what a sync tells a device.

use std::collections::BTreeMap;

use resuni_accounts::{
    DeviceRequest,
    e2e::{KeyUpload, MessageId},
};
use ruma::user_id;

use super::*;

impl Home {
    /// Somebody with a device that has keys.
    async fn with_device(&self, name: &str) -> Person {
        let mut person = self.person(name).await;
        let login = self
            .accounts
            .login(person.account, DeviceRequest::default())
            .await
            .unwrap();
        person.device = Some(login.device_id);
        self.new_keys(&person, "first").await;
        person
    }

    async fn new_keys(&self, who: &Person, key: &str) {
        let device = who.device.as_deref().unwrap();
        let keys = json!({
            "user_id": who.id, "device_id": device, "algorithms": [], "keys": { "x": key },
        });
        let upload = KeyUpload {
            device_keys: keys.as_object().cloned(),
            ..KeyUpload::default()
        };
        self.accounts
            .upload_keys(who.account, device, &upload)
            .await
            .unwrap();
    }

    async fn send_to(&self, who: &Person, n: usize) {
        let id = MessageId::Transaction {
            device: "D",
            kind: "m.test",
            txn: &n.to_string(),
        };
        let content = BTreeMap::from([("*".to_owned(), json!({ "n": n }))]);
        self.accounts
            .send_to_device(
                user_id!("@sender:h"),
                id,
                "m.test",
                &BTreeMap::from([(who.account, content)]),
            )
            .await
            .unwrap();
    }
}

fn numbers(answer: &Value) -> Vec<u64> {
    let events = answer["to_device"]["events"].as_array();
    let events = events.into_iter().flatten();
    events
        .map(|event| event["content"]["n"].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn every_message_is_told_until_the_device_has_it() {
    let home = Home::new().await;
    let alice = home.with_device("alice").await;
    let first = home.sync(&alice, "").await;
    assert!(numbers(&first).is_empty());
    for n in 0..250 {
        home.send_to(&alice, n).await;
    }
    let mut since = next(&first).to_owned();
    let mut told = Vec::new();
    for size in [100, 100, 50, 0] {
        let answer = home.sync(&alice, &since).await;
        assert_eq!(numbers(&answer).len(), size);
        let again = home.sync(&alice, &since).await;
        assert_eq!(numbers(&again), numbers(&answer), "the answer may be lost");
        told.extend(numbers(&answer));
        since = next(&answer).to_owned();
    }
    assert_eq!(told, (0..250).collect::<Vec<_>>());
    assert_eq!(numbers(&home.sync(&alice, "").await).len(), 0, "deleted");
}

#[tokio::test]
async fn counts_are_told_with_every_answer() {
    let home = Home::new().await;
    let alice = home.with_device("alice").await;
    let first = home.sync(&alice, "").await;
    assert_eq!(
        first["device_one_time_keys_count"],
        json!({ "signed_curve25519": 0 })
    );
    assert_eq!(first["device_unused_fallback_key_types"], json!([]));
    let quiet = home.sync(&alice, next(&first)).await;
    let counts = json!({
        "next_batch": next(&first),
        "device_one_time_keys_count": { "signed_curve25519": 0 },
        "device_unused_fallback_key_types": [],
    });
    assert_eq!(quiet, counts);
}

#[tokio::test]
async fn whose_keys_changed_and_with_whom_a_room_is_shared() {
    let home = Home::new().await;
    let (alice, bob) = (
        home.with_device("alice").await,
        home.with_device("bob").await,
    );
    let eve = home.with_device("eve").await;
    let room = home.room(&alice).await;
    let lists = |answer: &Value| answer["device_lists"].clone();

    let mut since = next(&home.sync(&alice, "").await).to_owned();
    let mut step = async || {
        let answer = home.sync(&alice, &since).await;
        since = next(&answer).to_owned();
        lists(&answer)
    };
    home.join(&room, &bob).await;
    assert_eq!(step().await, json!({ "changed": ["@bob:h"], "left": [] }));
    home.say(&room, &bob, "hello").await;
    assert_eq!(step().await, Value::Null);
    home.new_keys(&bob, "second").await;
    home.new_keys(&eve, "second").await;
    assert_eq!(step().await, json!({ "changed": ["@bob:h"], "left": [] }));
    home.new_keys(&alice, "second").await;
    assert_eq!(step().await, json!({ "changed": ["@alice:h"], "left": [] }));
    home.rooms.leave(&room, &bob.id, None).await.unwrap();
    assert_eq!(step().await, json!({ "changed": [], "left": ["@bob:h"] }));
    home.new_keys(&bob, "third").await;
    assert_eq!(step().await, Value::Null);
    let bobs = home.room(&bob).await;
    home.join(&bobs, &alice).await;
    let both = json!(["@alice:h", "@bob:h"]);
    assert_eq!(
        step().await,
        json!({ "changed": both, "left": [] }),
        "her other devices too"
    );
    home.rooms.leave(&bobs, &alice.id, None).await.unwrap();
    assert_eq!(step().await, json!({ "changed": [], "left": ["@bob:h"] }));
}

#[tokio::test]
async fn a_waiting_device_is_woken_by_messages_and_by_new_keys() {
    let home = Arc::new(Home::new().await);
    let (alice, bob) = (
        home.with_device("alice").await,
        home.with_device("bob").await,
    );
    let room = home.room(&alice).await;
    home.join(&room, &bob).await;
    let alice = Arc::new(alice);
    let since = next(&home.sync(&alice, "").await).to_owned();
    let wait = |since: String| {
        let (home, alice) = (home.clone(), alice.clone());
        tokio::spawn(async move {
            home.sync_with(&alice, &since, |request| {
                request.timeout = Duration::from_secs(60);
            })
            .await
        })
    };
    let waiting = wait(since);
    tokio::task::yield_now().await;
    home.send_to(&alice, 1).await;
    let answer = waiting.await.unwrap();
    assert_eq!(numbers(&answer), [1]);
    let waiting = wait(next(&answer).to_owned());
    tokio::task::yield_now().await;
    home.new_keys(&bob, "second").await;
    let answer = waiting.await.unwrap();
    assert_eq!(answer["device_lists"]["changed"], json!(["@bob:h"]));
}
