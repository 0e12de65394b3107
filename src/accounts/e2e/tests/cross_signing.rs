//! Tests of device keys, cross-signing keys and what people say about them.

use std::collections::BTreeMap;

use ruma::{DeviceId, OwnedUserId, UserId, device_id, user_id};
use serde_json::json;

use super::*;
use crate::testing::{accounts, is_sound};

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
    super::super::cross_signing::public_key(key)
        .unwrap()
        .to_owned()
}
