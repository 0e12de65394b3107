//! Tests of sessions.

use std::{net::IpAddr, time::Duration};

use ruma::{device_id, owned_device_id};

use super::*;
use crate::testing::{TestClock, accounts, alice, config, is_sound, open, with_clock};

fn on(device: &str) -> DeviceRequest {
    DeviceRequest {
        device_id: Some(device.into()),
        ..DeviceRequest::default()
    }
}

fn refreshing() -> DeviceRequest {
    DeviceRequest {
        refresh: true,
        ..on("D")
    }
}

async fn is_known(accounts: &Accounts, token: &str) -> bool {
    match accounts.authenticate(token).await {
        Ok(_) => true,
        Err(AuthError::Unknown { soft_logout: false }) => false,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn somebody_logs_in_and_is_recognised() {
    let accounts = accounts().await;
    let alice = alice(&accounts).await;
    for name in ["alice", "ALICE", "@alice:example.org"] {
        let login = accounts
            .login_password(name, "alice's password", on("PHONE"))
            .await
            .unwrap();
        assert_eq!(login.user_id, "@alice:example.org");
        assert_eq!(login.refresh_token, None);
        let session = accounts.authenticate(&login.access_token).await.unwrap();
        assert_eq!(session.account, alice);
        assert_eq!(session.device_id, Some(owned_device_id!("PHONE")));
        assert!(!session.is_guest && !session.is_admin && session.appservice.is_none());
    }
    is_sound(&accounts).await;
}

#[tokio::test]
async fn who_is_not_recognised() {
    let accounts = accounts().await;
    alice(&accounts).await;
    for (name, password) in [
        ("alice", "wrong"),
        ("alice", ""),
        ("nobody", "alice's password"),
        ("@alice:elsewhere", "alice's password"),
        ("", ""),
    ] {
        let refused = accounts
            .login_password(name, password, DeviceRequest::default())
            .await;
        assert!(matches!(refused, Err(AccountError::Forbidden(_))), "{name}");
    }
    assert!(matches!(
        accounts.authenticate("").await,
        Err(AuthError::Missing)
    ));
    assert!(!is_known(&accounts, "rsa_guess").await);
}

#[tokio::test]
async fn a_new_login_on_a_device_revokes_its_tokens_and_keeps_its_name() {
    let accounts = accounts().await;
    let alice = alice(&accounts).await;
    let named = |name: &str| DeviceRequest {
        display_name: Some(name.into()),
        ..refreshing()
    };
    let first = accounts.login(alice, named("Phone")).await.unwrap();
    let other = accounts.login(alice, on("OTHER")).await.unwrap();
    assert!(is_known(&accounts, &first.access_token).await);
    let second = accounts.login(alice, named("New")).await.unwrap();
    assert!(!is_known(&accounts, &first.access_token).await);
    assert!(
        accounts
            .refresh(&first.refresh_token.unwrap())
            .await
            .is_err()
    );
    assert!(is_known(&accounts, &second.access_token).await);
    assert!(is_known(&accounts, &other.access_token).await);
    let device = accounts.device(alice, device_id!("D")).await.unwrap();
    assert_eq!(device.unwrap().display_name.as_deref(), Some("Phone"));
    is_sound(&accounts).await;
}

#[tokio::test]
async fn logging_out_ends_the_device() {
    let accounts = accounts().await;
    let alice = alice(&accounts).await;
    let a = accounts.login(alice, on("A")).await.unwrap();
    let b = accounts.login(alice, on("B")).await.unwrap();
    let session = accounts.authenticate(&a.access_token).await.unwrap();
    accounts.logout(&session).await.unwrap();
    assert!(!is_known(&accounts, &a.access_token).await);
    assert!(is_known(&accounts, &b.access_token).await);
    assert!(
        accounts
            .device(alice, device_id!("A"))
            .await
            .unwrap()
            .is_none()
    );
    accounts.logout_all(alice).await.unwrap();
    assert!(!is_known(&accounts, &b.access_token).await);
    assert!(accounts.devices(alice).await.unwrap().is_empty());
    is_sound(&accounts).await;
}

#[tokio::test]
async fn the_old_pair_is_valid_until_the_new_one_is_used() {
    let accounts = accounts().await;
    let alice = alice(&accounts).await;
    let old = accounts.login(alice, refreshing()).await.unwrap();
    let old_refresh = old.refresh_token.unwrap();
    // The first answer is lost: the client asks again.
    let lost = accounts.refresh(&old_refresh).await.unwrap();
    let new = accounts.refresh(&old_refresh).await.unwrap();
    assert!(!is_known(&accounts, &lost.access_token).await);
    assert!(
        accounts
            .refresh(&lost.refresh_token.unwrap())
            .await
            .is_err()
    );
    assert!(is_known(&accounts, &old.access_token).await);
    is_sound(&accounts).await;
    assert!(is_known(&accounts, &new.access_token).await);
    assert!(!is_known(&accounts, &old.access_token).await);
    assert!(matches!(
        accounts.refresh(&old_refresh).await,
        Err(AccountError::UnknownToken { soft_logout: false })
    ));
    is_sound(&accounts).await;
    assert!(is_known(&accounts, &new.access_token).await);
}

#[tokio::test]
async fn using_the_new_refresh_token_also_ends_the_old_pair() {
    let accounts = accounts().await;
    let alice = alice(&accounts).await;
    let one = accounts.login(alice, refreshing()).await.unwrap();
    let two = accounts
        .refresh(&one.refresh_token.clone().unwrap())
        .await
        .unwrap();
    let three = accounts
        .refresh(&two.refresh_token.clone().unwrap())
        .await
        .unwrap();
    assert!(!is_known(&accounts, &one.access_token).await);
    assert!(accounts.refresh(&one.refresh_token.unwrap()).await.is_err());
    assert!(is_known(&accounts, &two.access_token).await);
    is_sound(&accounts).await;
    assert!(is_known(&accounts, &three.access_token).await);
    assert!(!is_known(&accounts, &two.access_token).await);
    is_sound(&accounts).await;
}

async fn expire(clock: &TestClock) {
    let lifetime = config().access_token_lifetime;
    clock.advance(u64::try_from(lifetime.as_millis()).unwrap());
}

#[tokio::test]
async fn an_expired_token_is_a_soft_logout() {
    let (accounts, clock) = with_clock().await;
    let alice = alice(&accounts).await;
    let login = accounts.login(alice, refreshing()).await.unwrap();
    let forever = accounts.login(alice, on("OLD")).await.unwrap();
    assert_eq!(login.expires_in_ms, Some(3_600_000));
    assert!(is_known(&accounts, &login.access_token).await);
    expire(&clock).await;
    assert!(matches!(
        accounts.authenticate(&login.access_token).await,
        Err(AuthError::Unknown { soft_logout: true })
    ));
    assert!(is_known(&accounts, &forever.access_token).await);
    let new = accounts
        .refresh(&login.refresh_token.unwrap())
        .await
        .unwrap();
    assert!(is_known(&accounts, &new.access_token).await);
    assert_eq!(new.device_id, "D");
    assert_eq!(new.user_id, "@alice:example.org");
}

#[tokio::test]
async fn tokens_survive_a_restart_but_are_not_on_disk() {
    let store = resuni_store::Store::memory().await;
    let (accounts, _) = open(store.clone(), Default::default()).await;
    let alice = alice(&accounts).await;
    let login = accounts.login(alice, on("A")).await.unwrap();
    drop(accounts);
    let (accounts, _) = open(store, Default::default()).await;
    assert!(is_known(&accounts, &login.access_token).await);
    let rows = accounts
        .snapshot()
        .scan(&ACCESS, ScanRange::all(), Direction::Forward, 10)
        .await
        .unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].0, secrets::hash(&login.access_token));
}

#[tokio::test]
async fn locks_and_suspensions_hold_at_once() {
    let accounts = accounts().await;
    let alice = alice(&accounts).await;
    let login = accounts.login(alice, refreshing()).await.unwrap();
    let token = &login.access_token;
    assert!(is_known(&accounts, token).await);
    accounts.set_suspended(alice, true).await.unwrap();
    assert!(accounts.authenticate(token).await.unwrap().is_suspended);
    accounts.set_locked(alice, true).await.unwrap();
    assert!(matches!(
        accounts.authenticate(token).await,
        Err(AuthError::Locked)
    ));
    assert!(matches!(
        accounts
            .login_password("alice", "alice's password", on("X"))
            .await,
        Err(AccountError::Locked)
    ));
    let refresh = login.refresh_token.unwrap();
    assert!(matches!(
        accounts.refresh(&refresh).await,
        Err(AccountError::Locked)
    ));
    let session = accounts.authenticate_even_locked(token).await.unwrap();
    assert!(session.is_locked);
    accounts.set_locked(alice, false).await.unwrap();
    assert!(
        is_known(&accounts, token).await,
        "the session is still there"
    );
    accounts.logout(&session).await.unwrap();
    assert!(!is_known(&accounts, token).await);
}

#[tokio::test]
async fn who_guesses_passwords_has_to_wait_even_with_the_right_one() {
    let (accounts, clock) = with_clock().await;
    alice(&accounts).await;
    let attempt = async |password: &str| {
        accounts
            .login_password("alice", password, DeviceRequest::default())
            .await
            .map(drop)
    };
    for _ in 0..config().failed_logins.burst {
        assert!(matches!(
            attempt("guess").await,
            Err(AccountError::Forbidden(_))
        ));
    }
    for password in ["guess", "alice's password"] {
        assert!(matches!(
            attempt(password).await,
            Err(AccountError::LimitExceeded {
                retry_after_ms: 20_000
            })
        ));
    }
    clock.advance(20_000);
    attempt("alice's password").await.unwrap();
}

#[tokio::test]
async fn last_seen_is_shown_at_once_and_written_later() {
    let (accounts, clock) = with_clock().await;
    let alice = alice(&accounts).await;
    let login = accounts.login(alice, on("A")).await.unwrap();
    let session = accounts.authenticate(&login.access_token).await.unwrap();
    let ip: IpAddr = "192.0.2.1".parse().unwrap();
    accounts.seen(&session, ip, None);
    let seen = async || accounts.devices(alice).await.unwrap()[0].last_seen_ms;
    let first = seen().await.unwrap();
    clock.advance(59_000);
    accounts.seen(&session, ip, None);
    assert_eq!(seen().await, Some(first), "to the minute");
    accounts.housekeeping().await.unwrap();
    assert_eq!(seen().await, Some(first));
    clock.advance(1_000);
    accounts.seen(&session, ip, None);
    assert_eq!(seen().await, Some(first + 60_000));
    accounts.logout(&session).await.unwrap();
    accounts.seen(&session, ip, None);
    clock.advance(60_000);
    accounts.seen(&session, ip, None);
    accounts.housekeeping().await.unwrap();
    is_sound(&accounts).await;
}

#[tokio::test]
async fn a_logout_at_the_same_time_as_many_requests_ends_the_token() {
    for _ in 0..50 {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let login = accounts.login(alice, on("A")).await.unwrap();
        let requests: Vec<_> = (0..8)
            .map(|_| {
                let (accounts, token) = (Arc::clone(&accounts), login.access_token.clone());
                tokio::spawn(async move {
                    while accounts.authenticate(&token).await.is_ok() {
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        accounts.logout_all(alice).await.unwrap();
        for request in requests {
            // Ends only because the token does.
            tokio::time::timeout(Duration::from_secs(30), request)
                .await
                .unwrap()
                .unwrap();
        }
        assert!(!is_known(&accounts, &login.access_token).await);
    }
}

#[tokio::test]
async fn device_ids_have_a_limit() {
    let accounts = accounts().await;
    let alice = alice(&accounts).await;
    for bad in [String::new(), "x".repeat(256)] {
        assert!(accounts.login(alice, on(&bad)).await.is_err());
    }
    let login = accounts
        .login(alice, DeviceRequest::default())
        .await
        .unwrap();
    assert_eq!(login.device_id.as_str().len(), 10);
}
