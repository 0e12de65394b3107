//! Tests of registration.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};

use super::*;
use crate::{
    NewRegistrationToken, SharedSecretRequest,
    testing::{accounts, alice, is_sound, with_clock},
};

#[tokio::test]
async fn an_account_and_its_first_session_in_one_batch() {
    let accounts = accounts().await;
    let new = NewAccount {
        device: Some(DeviceRequest::default()),
        display_name: Some("Carol".into()),
        ..NewAccount::user("Carol", "secret")
    };
    let before = accounts.snapshot().position();
    let registered = accounts.register(new).await.unwrap();
    assert_eq!(registered.user_id, "@carol:example.org");
    let login = registered.login.unwrap();
    let session = accounts.authenticate(&login.access_token).await.unwrap();
    assert_eq!(session.account, registered.account);
    let profile = accounts.profile("carol").await.unwrap().unwrap();
    assert_eq!(profile["displayname"], "Carol");
    let log = accounts.store().log();
    let entries = log.read(before, log.watermark(), 10).await.unwrap();
    let topics: Vec<_> = entries.iter().map(|e| (e.topic, e.scope)).collect();
    let scope = registered.account.0;
    assert_eq!(topics, [(ACCOUNT, scope), (crate::DEVICES, scope)]);
    is_sound(&accounts).await;
}

#[tokio::test]
async fn a_name_is_given_once() {
    let accounts = accounts().await;
    alice(&accounts).await;
    for name in ["alice", "ALICE"] {
        assert!(matches!(
            accounts.available(name).await,
            Err(AccountError::UserInUse)
        ));
        let again = accounts.register(NewAccount::user(name, "x")).await;
        assert!(matches!(again, Err(AccountError::UserInUse)));
    }
    accounts.available("alicia").await.unwrap();
}

#[tokio::test]
async fn only_one_of_many_gets_the_name() {
    let accounts = accounts().await;
    let tasks: Vec<_> = (0..16)
        .map(|n| {
            let accounts = Arc::clone(&accounts);
            tokio::spawn(async move {
                let new = NewAccount::user("dora", format!("{n}"));
                accounts.register(new).await.is_ok()
            })
        })
        .collect();
    let mut registered = 0;
    for task in tasks {
        registered += usize::from(task.await.unwrap());
    }
    assert_eq!(registered, 1);
    is_sound(&accounts).await;
}

#[tokio::test]
async fn names_are_made_up_for_guests_and_the_shy() {
    let accounts = accounts().await;
    let guest = accounts
        .register(NewAccount::of_kind(AccountKind::Guest))
        .await
        .unwrap();
    assert!(guest.user_id.localpart().starts_with("guest-"));
    let shy = NewAccount {
        localpart: None,
        ..NewAccount::user("", "secret")
    };
    let shy = accounts.register(shy).await.unwrap();
    assert!(!shy.user_id.localpart().is_empty());
    let login = accounts
        .login(guest.account, DeviceRequest::default())
        .await
        .unwrap();
    assert!(
        accounts
            .authenticate(&login.access_token)
            .await
            .unwrap()
            .is_guest
    );
    assert!(
        accounts
            .set_password(guest.account, "x", false, None)
            .await
            .is_err()
    );
    let with_password = NewAccount {
        kind: AccountKind::Guest,
        ..NewAccount::user("g", "x")
    };
    assert!(accounts.register(with_password).await.is_err());
}

#[tokio::test]
async fn nobody_registers_without_a_real_password() {
    let accounts = accounts().await;
    assert!(matches!(
        accounts.register(NewAccount::user("eve", "")).await,
        Err(AccountError::WeakPassword(_))
    ));
    accounts.available("eve").await.unwrap();
    // No password at all is a choice of the operator; no password opens such an account.
    let new = NewAccount {
        password: None,
        ..NewAccount::user("eve", "")
    };
    accounts.register(new).await.unwrap();
    for password in ["", "*", "!", "eve"] {
        let login = accounts.login_password("eve", password, DeviceRequest::default());
        assert!(matches!(login.await, Err(AccountError::Forbidden(_))));
    }
}

#[tokio::test]
async fn a_registration_token_is_used_up() {
    let (accounts, clock) = with_clock().await;
    let now = accounts.now_ms();
    let make = |token: &str, uses_allowed, expires_ms| {
        accounts.create_registration_token(NewRegistrationToken {
            token: Some(token.into()),
            length: None,
            uses_allowed,
            expires_ms,
        })
    };
    make("two", Some(2), None).await.unwrap();
    make("brief", None, Some(now + 1_000)).await.unwrap();
    assert!(make("two", None, None).await.is_err());
    assert!(make("a b", None, None).await.is_err());
    assert!(make("past", None, Some(now - 1)).await.is_err());
    let with = |name: &str, token: &str| NewAccount {
        registration_token: Some(token.into()),
        ..NewAccount::user(name, "secret")
    };
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let (accounts, new) = (Arc::clone(&accounts), with(&format!("u{n}"), "two"));
            tokio::spawn(async move { accounts.register(new).await.is_ok() })
        })
        .collect();
    let mut registered = 0;
    for task in tasks {
        registered += usize::from(task.await.unwrap());
    }
    assert_eq!(registered, 2);
    assert!(!accounts.registration_token_valid("two").await.unwrap());
    assert!(accounts.registration_token_valid("brief").await.unwrap());
    accounts.register(with("x", "brief")).await.unwrap();
    clock.advance(1_000);
    assert!(accounts.register(with("y", "brief")).await.is_err());
    assert!(accounts.register(with("y", "unknown")).await.is_err());
    let used: Vec<_> = accounts.registration_tokens().await.unwrap();
    assert_eq!(used.iter().map(|token| token.used).sum::<u64>(), 3);
    is_sound(&accounts).await;
}

fn mac(parts: &[&str]) -> String {
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(b"shared").unwrap();
    mac.update(parts.join("\0").as_bytes());
    let bytes = mac.finalize().into_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn the_shared_secret_registers() {
    let (accounts, clock) = with_clock().await;
    let nonce = accounts.shared_secret_nonce().unwrap();
    let signed = mac(&[&nonce, "Root", "secret", "admin"]);
    let request = SharedSecretRequest {
        nonce: &nonce,
        username: "Root",
        password: "secret",
        admin: true,
        user_type: None,
        mac: &signed,
    };
    let new = accounts.verify_shared_secret(&request).unwrap();
    let root = accounts.register(new).await.unwrap();
    assert_eq!(root.user_id, "@root:example.org");
    assert!(accounts.active(root.account).await.unwrap().admin);
    let twice = accounts.verify_shared_secret(&request);
    assert!(
        matches!(twice, Err(AccountError::Rejected(_))),
        "a nonce is used once"
    );

    let nonce = accounts.shared_secret_nonce().unwrap();
    let upper = mac(&[&nonce, "bot", "secret", "notadmin", "bot"]).to_uppercase();
    let request = SharedSecretRequest {
        nonce: &nonce,
        username: "bot",
        admin: false,
        user_type: Some("bot"),
        mac: &upper,
        ..request
    };
    assert_eq!(
        accounts
            .verify_shared_secret(&request)
            .unwrap()
            .user_type
            .as_deref(),
        Some("bot")
    );

    let nonce = accounts.shared_secret_nonce().unwrap();
    let signed = mac(&[&nonce, "bot", "secret", "notadmin"]);
    let late = SharedSecretRequest {
        nonce: &nonce,
        user_type: None,
        mac: &signed,
        ..request
    };
    clock.advance(60_000);
    assert!(accounts.verify_shared_secret(&late).is_err());
}

#[tokio::test]
async fn a_wrong_signature_is_refused_and_costs_the_nonce() {
    let accounts = accounts().await;
    for bad in ["", "00", "zz", &"0".repeat(40), "é"] {
        let nonce = accounts.shared_secret_nonce().unwrap();
        let right = mac(&[&nonce, "a", "b", "notadmin"]);
        let request = SharedSecretRequest {
            nonce: &nonce,
            username: "a",
            password: "b",
            admin: false,
            user_type: None,
            mac: bad,
        };
        let refused = accounts.verify_shared_secret(&request);
        assert!(matches!(refused, Err(AccountError::Forbidden(_))), "{bad}");
        let retried = SharedSecretRequest {
            mac: &right,
            ..request
        };
        assert!(accounts.verify_shared_secret(&retried).is_err());
    }
    // "a\0b" as a name would be signed like "a" with the password "b…".
    let nonce = accounts.shared_secret_nonce().unwrap();
    let signed = mac(&[&nonce, "a", "b", "c", "notadmin"]);
    let shifted = SharedSecretRequest {
        nonce: &nonce,
        username: "a\0b",
        password: "c",
        admin: false,
        user_type: None,
        mac: &signed,
    };
    assert!(accounts.verify_shared_secret(&shifted).is_err());
}
