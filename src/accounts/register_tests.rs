//! Tests of registration in all its forms, and of the end of accounts.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use resuni_store::{Direction, ScanRange, Store};
use ruma::{
    api::appservice::{Namespace, Namespaces, Registration, RegistrationInit},
    device_id, server_name, user_id,
};
use serde_json::json;

use super::*;
use crate::{
    AppServices, AuthError, SharedSecretRequest,
    tables::{DATA, DEACTIVATING, DEVICE, FILTERS},
    testing::{accounts, alice, bob, open, with_clock},
};

async fn is_sound(accounts: &Accounts) {
    let findings = accounts.doctor(&accounts.snapshot()).await.unwrap();
    assert_eq!(findings, Vec::<String>::new());
}

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
    let two = accounts.create_registration_token(Some("two".into()), Some(2), None);
    two.await.unwrap();
    let brief = accounts.create_registration_token(Some("brief".into()), None, Some(now + 1_000));
    brief.await.unwrap();
    assert!(
        accounts
            .create_registration_token(Some("two".into()), None, None)
            .await
            .is_err()
    );
    assert!(
        accounts
            .create_registration_token(Some("a b".into()), None, None)
            .await
            .is_err()
    );
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

fn bridge() -> Registration {
    let mut namespaces = Namespaces::new();
    namespaces.users = vec![Namespace::new(true, "@_irc_.*:example\\.org".into())];
    namespaces.aliases = vec![Namespace::new(true, "#_irc_.*".into())];
    RegistrationInit {
        id: "irc".into(),
        url: None,
        as_token: "as_secret".into(),
        hs_token: "hs_secret".into(),
        sender_localpart: "irc".into(),
        namespaces,
        rate_limited: None,
        protocols: None,
    }
    .into()
}

async fn with_bridge() -> Arc<Accounts> {
    let services = AppServices::new([bridge()], server_name!("example.org")).unwrap();
    open(Store::memory().await, services).await.0
}

#[tokio::test]
async fn an_application_service_acts_as_its_users() {
    let accounts = with_bridge().await;
    let session = accounts.authenticate("as_secret").await.unwrap();
    assert_eq!(session.user_id, "@irc:example.org");
    assert_eq!(session.device_id, None);
    assert_eq!(session.appservice.unwrap().id(), "irc");
    let user = "@_irc_bob:example.org";
    let as_user = |user, device| accounts.authenticate_as("as_secret", Some(user), device);
    assert!(matches!(
        as_user(user, None).await,
        Err(AuthError::NotRegistered)
    ));
    let new = NewAccount {
        localpart: Some("_irc_bob".into()),
        ..NewAccount::of_kind(AccountKind::AppService("irc".into()))
    };
    let bob = accounts.register(new).await.unwrap();
    assert_eq!(as_user(user, None).await.unwrap().account, bob.account);
    assert!(matches!(
        as_user(user, Some("D")).await,
        Err(AuthError::UnknownDevice)
    ));
    assert!(
        accounts
            .put_device(bob.account, device_id!("D"), None)
            .await
            .unwrap()
    );
    assert!(
        !accounts
            .put_device(bob.account, device_id!("D"), None)
            .await
            .unwrap()
    );
    let session = as_user(user, Some("D")).await.unwrap();
    assert_eq!(session.device_id.as_deref(), Some(device_id!("D")));
    alice(&accounts).await;
    for other in [
        "@alice:example.org",
        "@_irc_bob:elsewhere",
        "not an id",
        "x@_irc_b:example.org",
    ] {
        assert!(matches!(
            as_user(other, None).await,
            Err(AuthError::NotInNamespace)
        ));
    }
    accounts.deactivate(bob.account, false).await.unwrap();
    assert!(matches!(
        as_user(user, None).await,
        Err(AuthError::Deactivated)
    ));
    is_sound(&accounts).await;
}

#[tokio::test]
async fn a_namespace_is_kept_for_its_service() {
    let accounts = with_bridge().await;
    for name in ["_irc_bob", "_IRC_bob", "irc"] {
        let taken = accounts.available(name).await;
        assert!(matches!(taken, Err(AccountError::Exclusive)), "{name}");
    }
    accounts.available("_ircbob").await.unwrap();
    let outside = NewAccount {
        localpart: Some("bob".into()),
        ..NewAccount::of_kind(AccountKind::AppService("irc".into()))
    };
    let outside = accounts.register(outside).await;
    assert!(matches!(outside, Err(AccountError::Exclusive)));
    let services = accounts.appservices();
    assert!(services.is_exclusive_user(user_id!("@_irc_x:example.org")));
    let irc = services.by_as_token("as_secret").unwrap();
    assert!(services.is_exclusive_alias("#_irc_x:example.org", None));
    assert!(!services.is_exclusive_alias("#_irc_x:example.org", Some(irc.as_ref())));
    assert!(services.by_as_token("hs_secret").is_none());
}

#[test]
fn registrations_that_can_not_work_are_refused() {
    let server = server_name!("example.org");
    assert!(AppServices::new([bridge(), bridge()], server).is_err());
    let mut other = bridge();
    other.id = "other".into();
    assert!(
        AppServices::new([bridge(), other], server).is_err(),
        "same token"
    );
    let mut empty = bridge();
    empty.as_token = String::new();
    assert!(AppServices::new([empty], server).is_err());
    let mut bad = bridge();
    bad.namespaces.users = vec![Namespace::new(true, "(".into())];
    assert!(AppServices::new([bad], server).is_err());
}

#[tokio::test]
async fn a_deactivated_account_leaves_nothing_but_its_name() {
    let accounts = accounts().await;
    let (alice, bob) = (alice(&accounts).await, bob(&accounts).await);
    for device in ["A", "B"] {
        let device = DeviceRequest {
            device_id: Some(device.into()),
            refresh: true,
            ..DeviceRequest::default()
        };
        accounts.login(alice, device.clone()).await.unwrap();
        accounts.login(bob, device).await.unwrap();
    }
    let login = accounts
        .login(alice, DeviceRequest::default())
        .await
        .unwrap();
    let session = accounts.authenticate(&login.access_token).await.unwrap();
    accounts.seen(&session, "192.0.2.1".parse().unwrap());
    let content = json!({"a": 1}).as_object().unwrap().clone();
    for who in [alice, bob] {
        accounts
            .set_profile_field(who, "displayname", json!("X"))
            .await
            .unwrap();
        accounts
            .set_account_data(who, None, "a", &content)
            .await
            .unwrap();
        accounts
            .set_account_data(who, Some("!r:x"), "a", &content)
            .await
            .unwrap();
        accounts
            .store_filter(who, &serde_json::Map::new())
            .await
            .unwrap();
        accounts.set_admin(who, true).await.unwrap();
    }
    let (token, _) = accounts.create_login_token(alice).await.unwrap();
    let openid = accounts.create_openid_token(alice).await.unwrap();

    accounts.deactivate(alice, true).await.unwrap();
    accounts.deactivate(alice, false).await.unwrap();

    assert!(matches!(
        accounts.authenticate(&login.access_token).await,
        Err(AuthError::Unknown { soft_logout: false })
    ));
    let device = DeviceRequest::default;
    for refused in [
        accounts
            .login_password("alice", "alice's password", device())
            .await,
        accounts.login_token(&token, device()).await,
    ] {
        assert!(matches!(refused, Err(AccountError::Forbidden(_))));
    }
    assert!(matches!(
        accounts.login(alice, device()).await,
        Err(AccountError::Deactivated)
    ));
    assert_eq!(
        accounts.openid_user(&openid.access_token).await.unwrap(),
        None
    );
    assert!(matches!(
        accounts.available("alice").await,
        Err(AccountError::UserInUse)
    ));
    assert_eq!(accounts.profile("alice").await.unwrap(), None);
    assert!(
        accounts
            .set_profile_field(alice, "displayname", json!("X"))
            .await
            .is_err()
    );
    assert!(
        accounts
            .set_account_data(alice, None, "a", &content)
            .await
            .is_err()
    );
    assert!(
        accounts
            .set_password(alice, "new", false, None)
            .await
            .is_err()
    );
    let row = accounts.account(alice).await.unwrap().unwrap();
    assert!(row.deactivated.as_ref().unwrap().erase && !row.admin && row.password.is_none());
    let snapshot = accounts.snapshot();
    for who in [alice, bob] {
        let range = || ScanRange::prefix(&who);
        let forward = Direction::Forward;
        let rows = snapshot
            .scan(&DEVICE, range(), forward, 9)
            .await
            .unwrap()
            .len()
            + snapshot
                .scan(&DATA, range(), forward, 9)
                .await
                .unwrap()
                .len()
            + snapshot
                .scan(&PROFILES, range(), forward, 9)
                .await
                .unwrap()
                .len()
            + snapshot
                .scan(&FILTERS, range(), forward, 9)
                .await
                .unwrap()
                .len();
        assert_eq!(rows, if who == alice { 0 } else { 6 });
    }
    is_sound(&accounts).await;
}

#[tokio::test]
async fn a_deactivation_goes_on_after_a_crash() {
    let store = Store::memory().await;
    let (accounts, _) = open(store.clone(), AppServices::default()).await;
    let alice = alice(&accounts).await;
    accounts
        .login(alice, DeviceRequest::default())
        .await
        .unwrap();
    // What `deactivate` writes first, without what follows.
    let mut row = accounts.row_in_lane(alice).await.unwrap();
    row.password = None;
    row.deactivated = Some(crate::tables::Deactivated {
        at_ms: 1,
        erase: false,
    });
    let mut batch = Batch::new();
    batch.put(&ACCOUNTS, &alice, &row);
    batch.put(&DEACTIVATING, &alice, &());
    store.commit_durable(batch).await.unwrap();
    drop(accounts);
    let (accounts, _) = open(store, AppServices::default()).await;
    assert!(accounts.devices(alice).await.unwrap().is_empty());
    let left = accounts
        .snapshot()
        .get(&DEACTIVATING, &alice)
        .await
        .unwrap();
    assert_eq!(left, None);
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions() {
    let accounts = accounts().await;
    let alice = alice(&accounts).await;
    let here = accounts
        .login(alice, DeviceRequest::default())
        .await
        .unwrap();
    let there = accounts
        .login(alice, DeviceRequest::default())
        .await
        .unwrap();
    let keep = Some(here.device_id.as_ref());
    accounts
        .set_password(alice, "new password", true, keep)
        .await
        .unwrap();
    assert!(accounts.authenticate(&here.access_token).await.is_ok());
    assert!(accounts.authenticate(&there.access_token).await.is_err());
    let with = |password| accounts.login_password("alice", password, DeviceRequest::default());
    assert!(with("alice's password").await.is_err());
    with("new password").await.unwrap();
    assert!(accounts.set_password(alice, "", true, None).await.is_err());
}

#[tokio::test]
async fn a_login_token_is_used_once_and_soon() {
    let (accounts, clock) = with_clock().await;
    let alice = alice(&accounts).await;
    let (token, lifetime_ms) = accounts.create_login_token(alice).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (accounts, token) = (Arc::clone(&accounts), token.clone());
            tokio::spawn(async move {
                accounts
                    .login_token(&token, DeviceRequest::default())
                    .await
                    .is_ok()
            })
        })
        .collect();
    let mut logins = 0;
    for task in tasks {
        logins += usize::from(task.await.unwrap());
    }
    assert_eq!(logins, 1);
    let (late, _) = accounts.create_login_token(alice).await.unwrap();
    let openid = accounts.create_openid_token(alice).await.unwrap();
    clock.advance(lifetime_ms);
    let refused = accounts.login_token(&late, DeviceRequest::default()).await;
    assert!(matches!(refused, Err(AccountError::Forbidden(_))));
    assert_eq!(
        accounts
            .openid_user(&openid.access_token)
            .await
            .unwrap()
            .unwrap(),
        "@alice:example.org"
    );
    assert!(
        accounts.authenticate(&openid.access_token).await.is_err(),
        "it opens nothing else"
    );
    is_sound(&accounts).await;
    clock.advance(openid.expires_in_s * 1_000);
    assert_eq!(
        accounts.openid_user(&openid.access_token).await.unwrap(),
        None
    );
    accounts.housekeeping().await.unwrap();
    let left = accounts.snapshot();
    let left = left
        .scan(
            &crate::tables::EXPIRY,
            ScanRange::all(),
            Direction::Forward,
            9,
        )
        .await;
    assert!(left.unwrap().is_empty());
    is_sound(&accounts).await;
}

#[tokio::test]
async fn the_list_of_accounts_goes_on_where_it_ended() {
    let accounts = accounts().await;
    let (alice, bob) = (alice(&accounts).await, bob(&accounts).await);
    let first = accounts.list(None, 1).await.unwrap();
    assert_eq!(first[0].account, alice);
    assert_eq!(first[0].user_id, "@alice:example.org");
    let rest = accounts.list(Some(alice), 10).await.unwrap();
    assert_eq!(
        rest.iter().map(|one| one.account).collect::<Vec<_>>(),
        [bob]
    );
}
