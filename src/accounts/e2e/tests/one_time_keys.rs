//! Tests of one-time and fallback keys.

use std::{collections::BTreeMap, sync::Arc};

use ruma::device_id;
use serde_json::json;

use super::*;
use crate::testing::{accounts, is_sound};

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
