//! Keys of devices and messages to devices, between two servers.

use std::{collections::BTreeMap, time::Duration};

use resuni_accounts::{AccountNum, e2e::KeyUpload};
use resuni_federation::Terms;
use resuni_rooms::Preset;
use resuni_store::Position;
use ruma::{
    OneTimeKeyAlgorithm, OwnedUserId,
    api::federation::{
        device::get_devices::v1 as get_devices,
        keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
    },
    device_id, owned_device_id,
};
use serde_json::{Map, Value, json};

use crate::{
    authority::Authority,
    hostile::send,
    part::{PATIENCE, Part, servers},
    two_servers::{addresses, join, room},
};

async fn account(at: &Part) -> AccountNum {
    at.accounts.find("user").await.unwrap().unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// The user's device gets keys.
async fn publish(at: &Part) {
    let device_keys = json!({
        "user_id": at.user(), "device_id": "PHONE", "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { "ed25519:PHONE": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "curve25519:PHONE": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" },
        "signatures": {},
    });
    let upload = KeyUpload {
        device_keys: Some(object(device_keys)),
        one_time_keys: object(json!({ "signed_curve25519:a": { "key": "one" } })),
        fallback_keys: Map::new(),
    };
    at.accounts
        .upload_keys(account(at).await, device_id!("PHONE"), &upload)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_asked_for_and_changes_are_told() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = room(&a, "12", Preset::PublicChat).await;
    join(&b, &room, &a).await.unwrap();
    // The join alone may have been told of by now, or not yet.
    let before = a.accounts.device_list_position(&b.user()).await.unwrap();
    publish(&b).await;
    let told = async {
        while a.accounts.device_list_position(&b.user()).await.unwrap() == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();

    let client = &a.federation.network.client;
    // Of users of other servers nothing is told, not even ours.
    let asked = [b.user(), a.user()].map(|user| (user, Vec::new()));
    let request = get_keys::Request::new(asked.into());
    let answer = client.send(&b.name, request, Terms::ASKED).await.unwrap();
    assert_eq!(answer.device_keys.keys().collect::<Vec<_>>(), [&b.user()]);
    let keys = &answer.device_keys[&b.user()][device_id!("PHONE")];
    assert!(keys.json().get().contains("ed25519:PHONE"));

    let request = get_devices::Request::new(b.user());
    let answer = client.send(&b.name, request, Terms::ASKED).await.unwrap();
    assert_eq!(answer.devices.len(), 1);
    assert_eq!(
        answer.devices[0].device_display_name.as_deref(),
        Some("Phone")
    );

    let claim = async || {
        let device = [(
            owned_device_id!("PHONE"),
            OneTimeKeyAlgorithm::SignedCurve25519,
        )];
        let request = claim_keys::Request::new([(b.user(), device.into())].into());
        client
            .send(&b.name, request, Terms::ASKED)
            .await
            .unwrap()
            .one_time_keys
    };
    assert_eq!(claim().await[&b.user()].len(), 1);
    assert!(claim().await.is_empty(), "a one-time key is given out once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_a_device_outlives_both_servers() {
    let authority = Authority::new();
    let [mut a, mut b] = servers(&authority, ["a.test", "b.test"]).await;
    let map = addresses(&a, &b).await;
    b.stop().await;
    let send = async |from: &Part, id: &str, to: OwnedUserId| {
        let device: BTreeMap<String, Value> = [("*".to_owned(), json!({ "n": id }))].into();
        from.federation
            .sender
            .send_to_device(&from.user(), "m.test", id, [(to, device)].into())
            .await
            .unwrap();
    };
    for n in 0..70 {
        send(&a, &n.to_string(), b.user()).await;
    }
    send(&a, "69", b.user()).await;
    a.stop().await;
    a.restart(&authority, &map).await;
    b.restart(&authority, &map).await;
    let page = async {
        loop {
            let snapshot = b.accounts_snapshot();
            let page = b
                .accounts
                .to_device(
                    &snapshot,
                    account(&b).await,
                    device_id!("PHONE"),
                    Position(0),
                    snapshot.position(),
                    100,
                )
                .await
                .unwrap();
            if page.messages.len() >= 70 {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let page = tokio::time::timeout(PATIENCE, page).await.unwrap();
    let numbers: Vec<String> = page
        .messages
        .iter()
        .map(|message| {
            let event: Value = serde_json::from_str(message.event.get()).unwrap();
            event["content"]["n"].as_str().unwrap().to_owned()
        })
        .collect();
    let expected: Vec<String> = (0..70).map(|n| n.to_string()).collect();
    assert_eq!(numbers, expected, "all of them, in order, each once");
    let drained = async {
        while a.federation.stats().queued > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, drained).await.unwrap();
}

/// Synapse: a message to devices of whoever was named was kept. Here it is for people of this server who are there, and
/// from people of the server that sends it.
#[tokio::test(flavor = "multi_thread")]
async fn s024_messages_to_devices_of_nobody_here_are_not_kept() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let edu = |sender: &OwnedUserId, id: &str, to: &str| {
        let messages =
            json!({ to: { "*": { "n": id }, "PHONE": { "n": id }, "NONE": { "n": id } } });
        json!({ "edu_type": "m.direct_to_device", "content": { "sender": sender, "type": "m.test",
            "message_id": id, "messages": messages } })
    };
    let edus = vec![
        edu(&b.user(), "unknown", "@nobody:a.test"),
        edu(&b.user(), "remote", "@user:c.test"),
        edu(&b.user(), "back", b.user().as_str()),
        edu(&a.user(), "not theirs", a.user().as_str()),
        edu(&b.user(), "right", a.user().as_str()),
    ];
    send(&b, &a, "t1", Vec::new(), edus).await.unwrap();
    let snapshot = a.accounts_snapshot();
    let counts = snapshot.check(&[], &mut |_| {}).unwrap();
    // Messages to devices, by the number of their table.
    let kept = counts.iter().find(|table| table.table == 0x0327);
    assert_eq!(kept.map(|table| table.rows), Some(1));
    let end = snapshot.position();
    let (account, phone) = (account(&a).await, device_id!("PHONE"));
    let page = a
        .accounts
        .to_device(&snapshot, account, phone, Position(0), end, 10);
    let messages = page.await.unwrap().messages;
    assert_eq!(messages.len(), 1);
    assert!(messages[0].event.get().contains("right"));
}
