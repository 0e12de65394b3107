//! Tests of what is kept for end-to-end encryption. Signatures are real ones.

use std::{collections::BTreeMap, sync::Arc};

use resuni_store::Position;
use ruma::{
    CanonicalJsonValue, DeviceId, OwnedUserId, UserId, device_id,
    serde::Base64,
    signatures::{Ed25519KeyPair, KeyPair, to_canonical_json_string_for_signing},
    user_id,
};
use serde_json::{Value, json};

use super::*;
use crate::{
    DeviceRequest, NewAccount,
    testing::{TestClock, accounts, with_clock},
};

/// A key that signs.
struct Signer(Ed25519KeyPair);

impl Signer {
    fn new() -> Self {
        let document = Ed25519KeyPair::generate();
        Self(Ed25519KeyPair::from_der(&document, "1".into()).unwrap())
    }

    fn public(&self) -> String {
        Base64::<Standard, _>::new(self.0.public_key()).encode()
    }

    /// Its id when it is a cross-signing key.
    fn id(&self) -> String {
        format!("ed25519:{}", self.public())
    }

    fn sign(&self, user: &UserId, key_id: &str, key: &mut Object) {
        let CanonicalJsonValue::Object(canonical) = to_canonical_value(&*key).unwrap() else {
            panic!("an object");
        };
        let text = to_canonical_json_string_for_signing(&canonical).unwrap();
        let signature = self.0.sign(text.as_bytes()).base64();
        add_signature(key, user.as_str(), key_id, &signature);
    }

    fn cross_signing(&self, user: &UserId, usage: &str) -> Object {
        object(json!({
            "user_id": user,
            "usage": [usage],
            "keys": {self.id(): self.public()},
        }))
    }

    fn device(&self, user: &UserId, device: &str) -> Object {
        let mut keys = object(json!({
            "user_id": user,
            "device_id": device,
            "algorithms": ["m.megolm.v1.aes-sha2"],
            "keys": {format!("ed25519:{device}"): self.public()},
        }));
        self.sign(user, &format!("ed25519:{device}"), &mut keys);
        keys
    }
}

fn object(value: Value) -> Object {
    value.as_object().unwrap().clone()
}

/// A person with a device and all their keys.
struct Person {
    account: AccountNum,
    user: OwnedUserId,
    device: Signer,
    master: Signer,
    self_signing: Signer,
    user_signing: Signer,
}

impl Person {
    async fn new(accounts: &Accounts, name: &str) -> Self {
        let new = NewAccount {
            device: Some(on("PHONE")),
            ..NewAccount::user(name, "secret")
        };
        let registered = accounts.register(new).await.unwrap();
        Self {
            account: registered.account,
            user: registered.user_id,
            device: Signer::new(),
            master: Signer::new(),
            self_signing: Signer::new(),
            user_signing: Signer::new(),
        }
    }

    fn upload(&self) -> CrossSigningUpload {
        let key = |signer: &Signer, usage| {
            let mut key = signer.cross_signing(&self.user, usage);
            self.master.sign(&self.user, &self.master.id(), &mut key);
            Some(key)
        };
        CrossSigningUpload {
            master: Some(self.master.cross_signing(&self.user, "master")),
            self_signing: key(&self.self_signing, "self_signing"),
            user_signing: key(&self.user_signing, "user_signing"),
        }
    }

    /// Uploads the device's keys and the cross-signing keys.
    async fn publish(&self, accounts: &Accounts) {
        let keys = KeyUpload {
            device_keys: Some(self.device.device(&self.user, "PHONE")),
            ..KeyUpload::default()
        };
        let phone = device_id!("PHONE");
        accounts
            .upload_keys(self.account, phone, &keys)
            .await
            .unwrap();
        accounts
            .upload_cross_signing(self.account, &self.upload())
            .await
            .unwrap();
    }
}

fn on(device: &str) -> DeviceRequest {
    DeviceRequest {
        device_id: Some(device.into()),
        ..DeviceRequest::default()
    }
}

async fn is_sound(accounts: &Accounts) {
    let findings = accounts.doctor(&accounts.snapshot()).await.unwrap();
    assert_eq!(findings, Vec::<String>::new());
}

fn one_time(names: &[&str]) -> KeyUpload {
    let keys = names
        .iter()
        .map(|name| ((*name).to_owned(), json!({"key": name})));
    KeyUpload {
        one_time_keys: keys.collect(),
        ..KeyUpload::default()
    }
}

async fn claim(accounts: &Accounts, account: AccountNum) -> Option<String> {
    let wanted = [(device_id!("PHONE"), "signed_curve25519")];
    let mut keys = accounts.claim_keys(account, &wanted).await.unwrap();
    let keys = keys.remove("PHONE")?;
    assert_eq!(keys.len(), 1);
    keys.keys().next().cloned()
}

#[tokio::test]
async fn one_time_keys_are_given_out_once_in_the_order_of_their_upload() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await.account;
    let phone = device_id!("PHONE");
    for (n, key) in ["z", "a", "m"].into_iter().enumerate() {
        let upload = one_time(&[&format!("signed_curve25519:{key}")]);
        let counts = accounts.upload_keys(alice, phone, &upload).await.unwrap();
        assert_eq!(counts["signed_curve25519"], n as u64 + 1);
    }
    for key in ["z", "a", "m"] {
        let name = format!("signed_curve25519:{key}");
        assert_eq!(claim(&accounts, alice).await, Some(name));
        is_sound(&accounts).await;
    }
    assert_eq!(claim(&accounts, alice).await, None);
    let keys = accounts
        .one_time_keys(&accounts.snapshot(), alice, phone)
        .await
        .unwrap();
    assert_eq!(
        keys.counts,
        BTreeMap::from([("signed_curve25519".into(), 0)])
    );
}

#[tokio::test]
async fn many_who_claim_at_once_get_different_keys() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await.account;
    let names: Vec<_> = (0..20).map(|n| format!("signed_curve25519:{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    accounts
        .upload_keys(alice, device_id!("PHONE"), &one_time(&names))
        .await
        .unwrap();
    let tasks: Vec<_> = (0..30)
        .map(|_| {
            let accounts = Arc::clone(&accounts);
            tokio::spawn(async move { claim(&accounts, alice).await })
        })
        .collect();
    let mut claimed = Vec::new();
    for task in tasks {
        claimed.extend(task.await.unwrap());
    }
    claimed.sort();
    claimed.dedup();
    assert_eq!(claimed.len(), 20);
    is_sound(&accounts).await;
}

#[tokio::test]
async fn a_one_time_key_can_be_uploaded_again_but_not_changed() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await.account;
    let phone = device_id!("PHONE");
    let upload = one_time(&["signed_curve25519:a"]);
    accounts.upload_keys(alice, phone, &upload).await.unwrap();
    let counts = accounts.upload_keys(alice, phone, &upload).await.unwrap();
    assert_eq!(counts["signed_curve25519"], 1);
    let mut other = upload.clone();
    other.one_time_keys["signed_curve25519:a"] = json!({"key": "other"});
    assert!(matches!(
        accounts.upload_keys(alice, phone, &other).await,
        Err(AccountError::InvalidParam(_))
    ));
    for bad in ["signed_curve25519", ":a", "a:", ""] {
        assert!(
            accounts
                .upload_keys(alice, phone, &one_time(&[bad]))
                .await
                .is_err()
        );
    }
    let unknown = accounts.upload_keys(alice, device_id!("X"), &upload).await;
    assert!(matches!(unknown, Err(AccountError::UnknownDevice)));
}

#[tokio::test]
async fn a_device_has_a_limit_of_one_time_keys() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await.account;
    let names: Vec<_> = (0..1_001)
        .map(|n| format!("signed_curve25519:{n}"))
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let phone = device_id!("PHONE");
    assert!(
        accounts
            .upload_keys(alice, phone, &one_time(&names))
            .await
            .is_err()
    );
    accounts
        .upload_keys(alice, phone, &one_time(&names[1..]))
        .await
        .unwrap();
    is_sound(&accounts).await;
}

#[tokio::test]
async fn a_fallback_key_is_used_when_there_is_no_other() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await.account;
    let phone = device_id!("PHONE");
    let fallback = |id: &str| KeyUpload {
        fallback_keys: object(json!({format!("signed_curve25519:{id}"): {"key": id}})),
        ..one_time(&[&format!("signed_curve25519:once-{id}")])
    };
    let unused = async || {
        let keys = accounts
            .one_time_keys(&accounts.snapshot(), alice, phone)
            .await;
        keys.unwrap().unused_fallback
    };
    accounts
        .upload_keys(alice, phone, &fallback("f"))
        .await
        .unwrap();
    assert_eq!(
        claim(&accounts, alice).await.unwrap(),
        "signed_curve25519:once-f"
    );
    assert_eq!(unused().await, ["signed_curve25519"]);
    for _ in 0..2 {
        assert_eq!(
            claim(&accounts, alice).await.unwrap(),
            "signed_curve25519:f"
        );
        assert!(unused().await.is_empty());
    }
    let mut same = fallback("f");
    same.one_time_keys.clear();
    accounts.upload_keys(alice, phone, &same).await.unwrap();
    assert!(
        unused().await.is_empty(),
        "the same key is still a used one"
    );
    accounts
        .upload_keys(alice, phone, &fallback("g"))
        .await
        .unwrap();
    assert_eq!(unused().await, ["signed_curve25519"]);
    is_sound(&accounts).await;
}

#[tokio::test]
async fn device_keys_must_be_those_of_the_session() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await;
    let upload = async |user: &UserId, device: &str| {
        let keys = KeyUpload {
            device_keys: Some(alice.device.device(user, device)),
            ..KeyUpload::default()
        };
        accounts
            .upload_keys(alice.account, device_id!("PHONE"), &keys)
            .await
    };
    assert!(upload(user_id!("@bob:example.org"), "PHONE").await.is_err());
    assert!(upload(&alice.user, "OTHER").await.is_err());
    upload(&alice.user, "PHONE").await.unwrap();
}

#[tokio::test]
async fn keys_are_shown_with_the_name_of_their_device() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await;
    alice.publish(&accounts).await;
    accounts.login(alice.account, on("OTHER")).await.unwrap();
    let name = Some("Phone".to_owned());
    accounts
        .rename_device(alice.account, device_id!("PHONE"), name)
        .await
        .unwrap();
    let keys = accounts
        .query_keys(alice.account, &[], Some(alice.account))
        .await
        .unwrap();
    assert_eq!(keys.devices.len(), 1, "a device without keys is not shown");
    assert_eq!(
        keys.devices["PHONE"]["unsigned"],
        json!({"device_display_name": "Phone"})
    );
    assert!(keys.master.is_some() && keys.self_signing.is_some() && keys.user_signing.is_some());
    let phone: &[&DeviceId] = &[device_id!("PHONE"), device_id!("NONE")];
    let keys = accounts
        .query_keys(alice.account, phone, None)
        .await
        .unwrap();
    assert_eq!(keys.devices.len(), 1);
    assert!(keys.master.is_some() && keys.user_signing.is_none());
}

#[tokio::test]
async fn cross_signing_keys_have_to_be_signed_by_the_master_key() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await;
    let upload = alice.upload();
    let without_master = CrossSigningUpload {
        master: None,
        ..upload.clone()
    };
    assert!(matches!(
        accounts
            .upload_cross_signing(alice.account, &without_master)
            .await,
        Err(AccountError::MissingParam(_))
    ));
    let mut forged = upload.clone();
    let mut key = alice
        .self_signing
        .cross_signing(&alice.user, "self_signing");
    Signer::new().sign(&alice.user, &alice.master.id(), &mut key);
    forged.self_signing = Some(key);
    assert!(matches!(
        accounts.upload_cross_signing(alice.account, &forged).await,
        Err(AccountError::InvalidSignature)
    ));
    let mut other_usage = upload.clone();
    std::mem::swap(&mut other_usage.self_signing, &mut other_usage.user_signing);
    assert!(
        accounts
            .upload_cross_signing(alice.account, &other_usage)
            .await
            .is_err()
    );
    let bob = user_id!("@bob:example.org");
    let of_bob = CrossSigningUpload {
        master: Some(alice.master.cross_signing(bob, "master")),
        ..CrossSigningUpload::default()
    };
    assert!(
        accounts
            .upload_cross_signing(alice.account, &of_bob)
            .await
            .is_err()
    );
    assert!(
        accounts
            .query_keys(alice.account, &[], None)
            .await
            .unwrap()
            .master
            .is_none()
    );
    accounts
        .upload_cross_signing(alice.account, &upload)
        .await
        .unwrap();
    accounts
        .upload_cross_signing(alice.account, &without_master)
        .await
        .unwrap();
}

#[tokio::test]
async fn only_new_cross_signing_keys_have_to_be_confirmed() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await;
    let needs = async |upload: &CrossSigningUpload| {
        accounts
            .cross_signing_needs_auth(alice.account, upload)
            .await
            .unwrap()
    };
    let upload = alice.upload();
    assert!(!needs(&upload).await, "the first ones");
    accounts
        .upload_cross_signing(alice.account, &upload)
        .await
        .unwrap();
    let before = accounts.snapshot().position();
    assert!(!needs(&upload).await, "the same again");
    accounts
        .upload_cross_signing(alice.account, &upload)
        .await
        .unwrap();
    assert_eq!(accounts.snapshot().position(), before);
    let other = Person {
        master: Signer::new(),
        device: Signer::new(),
        self_signing: Signer::new(),
        user_signing: Signer::new(),
        user: alice.user.clone(),
        ..alice
    };
    assert!(needs(&other.upload()).await);
    let only_master = CrossSigningUpload {
        master: other.upload().master,
        ..CrossSigningUpload::default()
    };
    assert!(needs(&only_master).await);
    accounts
        .upload_cross_signing(alice.account, &only_master)
        .await
        .unwrap();
    let keys = accounts
        .query_keys(alice.account, &[], Some(alice.account))
        .await
        .unwrap();
    assert!(keys.self_signing.is_none() && keys.user_signing.is_none());
}

#[tokio::test]
async fn a_key_may_not_be_named_like_a_device() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await;
    accounts
        .login(alice.account, on(&alice.self_signing.public()))
        .await
        .unwrap();
    assert!(matches!(
        accounts
            .upload_cross_signing(alice.account, &alice.upload())
            .await,
        Err(AccountError::Forbidden(_))
    ));
    let bob = Person::new(&accounts, "bob").await;
    bob.publish(&accounts).await;
    let name = bob.master.public();
    accounts.login(bob.account, on(&name)).await.unwrap();
    let keys = KeyUpload {
        device_keys: Some(bob.device.device(&bob.user, &name)),
        ..KeyUpload::default()
    };
    let device: &DeviceId = name.as_str().into();
    assert!(
        accounts
            .upload_keys(bob.account, device, &keys)
            .await
            .is_err()
    );
}

/// One signed key as `/keys/signatures/upload` has it.
fn signed(
    owner: &UserId,
    id: &str,
    key: Object,
) -> BTreeMap<OwnedUserId, BTreeMap<String, Object>> {
    BTreeMap::from([(owner.to_owned(), BTreeMap::from([(id.to_owned(), key)]))])
}

#[tokio::test]
async fn a_device_is_vouched_for_by_the_self_signing_key() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await;
    alice.publish(&accounts).await;
    let id = alice.self_signing.id();
    let mut key = alice.device.device(&alice.user, "PHONE");
    alice.self_signing.sign(&alice.user, &id, &mut key);
    let upload = signed(&alice.user, "PHONE", key.clone());
    assert!(
        accounts
            .upload_signatures(alice.account, &upload)
            .await
            .unwrap()
            .is_empty()
    );
    let shown = async || {
        let keys = accounts.query_keys(alice.account, &[], None).await.unwrap();
        keys.devices["PHONE"]["signatures"][alice.user.as_str()].clone()
    };
    assert_eq!(
        shown().await[&id],
        key["signatures"][alice.user.as_str()][&id]
    );
    // Uploading the keys again keeps it.
    alice.publish(&accounts).await;
    assert!(shown().await[&id].is_string());
    // Another device of that name has new keys, and nobody has vouched for them.
    let keys = KeyUpload {
        device_keys: Some(Signer::new().device(&alice.user, "PHONE")),
        ..KeyUpload::default()
    };
    accounts
        .upload_keys(alice.account, device_id!("PHONE"), &keys)
        .await
        .unwrap();
    assert!(shown().await[&id].is_null());
    assert_eq!(
        accounts
            .upload_signatures(alice.account, &upload)
            .await
            .unwrap()[alice.user.as_str()],
        BTreeMap::from([("PHONE".to_owned(), SignatureFailure::UnknownKey)])
    );
}

#[tokio::test]
async fn a_false_signature_is_not_kept() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await;
    alice.publish(&accounts).await;
    let mut key = alice.device.device(&alice.user, "PHONE");
    Signer::new().sign(&alice.user, &alice.self_signing.id(), &mut key);
    let upload = signed(&alice.user, "PHONE", key);
    let before = accounts.snapshot().position();
    assert_eq!(
        accounts
            .upload_signatures(alice.account, &upload)
            .await
            .unwrap()[alice.user.as_str()],
        BTreeMap::from([("PHONE".to_owned(), SignatureFailure::Invalid)])
    );
    assert_eq!(accounts.snapshot().position(), before);
}

#[tokio::test]
async fn a_device_vouches_for_the_master_key() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await;
    alice.publish(&accounts).await;
    let mut key = alice.upload().master.unwrap();
    alice.device.sign(&alice.user, "ed25519:PHONE", &mut key);
    let upload = signed(&alice.user, &alice.master.public(), key.clone());
    assert!(
        accounts
            .upload_signatures(alice.account, &upload)
            .await
            .unwrap()
            .is_empty()
    );
    let keys = accounts.query_keys(alice.account, &[], None).await.unwrap();
    assert_eq!(keys.master.unwrap(), key);
}

#[tokio::test]
async fn what_people_say_about_others_only_they_see() {
    let accounts = accounts().await;
    let alice = Person::new(&accounts, "alice").await;
    let bob = Person::new(&accounts, "bob").await;
    alice.publish(&accounts).await;
    bob.publish(&accounts).await;
    let mut key = bob.upload().master.unwrap();
    alice
        .user_signing
        .sign(&alice.user, &alice.user_signing.id(), &mut key);
    let upload = signed(&bob.user, &bob.master.public(), key.clone());
    assert!(
        accounts
            .upload_signatures(alice.account, &upload)
            .await
            .unwrap()
            .is_empty()
    );
    let master = async |reader| {
        accounts
            .query_keys(bob.account, &[], reader)
            .await
            .unwrap()
            .master
            .unwrap()
    };
    assert_eq!(master(Some(alice.account)).await, key);
    assert_eq!(master(Some(bob.account)).await.get("signatures"), None);
    assert_eq!(master(None).await.get("signatures"), None);

    // Bob's device is not for Alice to sign, nor a key that is not Bob's.
    let mut device = bob.device.device(&bob.user, "PHONE");
    alice
        .self_signing
        .sign(&alice.user, &alice.self_signing.id(), &mut device);
    let mut other = Signer::new().cross_signing(&bob.user, "master");
    alice
        .user_signing
        .sign(&alice.user, &alice.user_signing.id(), &mut other);
    let other_id = public_key_of(&other);
    for upload in [
        signed(&bob.user, "PHONE", device),
        signed(&bob.user, &other_id, other),
    ] {
        let failures = accounts
            .upload_signatures(alice.account, &upload)
            .await
            .unwrap();
        assert_eq!(failures[bob.user.as_str()].len(), 1);
    }
    accounts.deactivate(alice.account, false).await.unwrap();
    is_sound(&accounts).await;
}

fn public_key_of(key: &Object) -> String {
    cross_signing::public_key(key).unwrap().to_owned()
}

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
    let id = MessageId::Transaction { device: "D", txn };
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
