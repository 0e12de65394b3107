//! Tests of the end of accounts, and of new passwords.

use resuni_store::Store;
use serde_json::json;

use super::*;
use crate::{
    AppServices, AuthError, DeviceRequest,
    tables::DEVICE,
    testing::{accounts, alice, bob, is_sound, open},
};

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
    accounts.seen(&session, "192.0.2.1".parse().unwrap(), None);
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
