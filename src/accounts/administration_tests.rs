//! Tests of what operators change of accounts.

use resuni_store::Store;

use super::*;
use crate::{
    AppServices, NewAccount,
    testing::{accounts, alice, bob, is_sound, open},
};

#[tokio::test]
async fn an_account_comes_back_empty_and_with_a_new_password() {
    let accounts = accounts().await;
    let alice = alice(&accounts).await;
    accounts.deactivate(alice, true).await.unwrap();
    accounts.reactivate(alice, Some("again")).await.unwrap();
    let row = accounts.active(alice).await.unwrap();
    assert!(!row.admin && row.deactivated.is_none());
    assert!(accounts.check_password(Some(alice), "again").await.unwrap());
    assert!(accounts.devices(alice).await.unwrap().is_empty());
    // Of who is there nothing changes, the password neither.
    accounts.reactivate(alice, Some("other")).await.unwrap();
    assert!(accounts.check_password(Some(alice), "again").await.unwrap());
    is_sound(&accounts).await;
}

#[tokio::test]
async fn addresses_are_replaced_and_belong_to_one_account() {
    let accounts = accounts().await;
    let (alice, bob) = (alice(&accounts).await, bob(&accounts).await);
    let set = |account, wanted: &[&str]| {
        let wanted: Vec<String> = wanted.iter().map(|&text| text.to_owned()).collect();
        let accounts = &accounts;
        async move { accounts.set_addresses(account, &wanted).await }
    };
    set(alice, &["a@x.example", "B@x.example"]).await.unwrap();
    set(alice, &["b@x.example", "c@x.example"]).await.unwrap();
    let has = accounts.contacts(alice).await.unwrap();
    let has: Vec<&str> = has.iter().map(|contact| contact.address.as_str()).collect();
    assert_eq!(has, ["b@x.example", "c@x.example"]);
    let taken = set(bob, &["c@x.example", "d@x.example"]).await;
    assert!(matches!(taken, Err(AccountError::ThreepidInUse)));
    assert!(accounts.contacts(bob).await.unwrap().is_empty());
    set(bob, &["a@x.example"]).await.unwrap();
    assert!(set(bob, &["nonsense"]).await.is_err());
    accounts.deactivate(bob, false).await.unwrap();
    assert!(set(bob, &["e@x.example"]).await.is_err());
    set(bob, &[]).await.unwrap();
    is_sound(&accounts).await;
}

#[tokio::test]
async fn rates_of_users_survive_a_restart() {
    let store = Store::memory().await;
    let (accounts, _) = open(store.clone(), AppServices::default()).await;
    let (alice, bob) = (alice(&accounts).await, bob(&accounts).await);
    let slow = OwnRate {
        messages_per_second: 1,
        burst_count: 0,
    };
    accounts.set_own_rate(alice, Some(slow)).await.unwrap();
    accounts.set_own_rate(bob, Some(slow)).await.unwrap();
    accounts.set_own_rate(bob, None).await.unwrap();
    let (again, _) = open(store, AppServices::default()).await;
    assert_eq!(again.own_rate(alice), Some(slow));
    assert_eq!(again.own_rate(bob), None);
    assert!(!slow.is_unlimited());
    assert_eq!(slow.rate().burst, 1);
}

#[tokio::test]
async fn sessions_of_operators_are_bounded_and_nobodys_devices() {
    let accounts = accounts().await;
    let alice = alice(&accounts).await;
    let mut tokens = Vec::new();
    for _ in 0..=OPERATORS_SESSIONS {
        tokens.push(accounts.login_as(alice, None).await.unwrap());
    }
    let mut alive = 0;
    for token in &tokens {
        alive += usize::from(accounts.authenticate(token).await.is_ok());
    }
    assert_eq!(alive, OPERATORS_SESSIONS);
    assert!(accounts.devices(alice).await.unwrap().is_empty());
    is_sound(&accounts).await;
    let newest = tokens.last().unwrap();
    let session = accounts.authenticate(newest).await.unwrap();
    assert_eq!(session.device_id, None);
    accounts.logout(&session).await.unwrap();
    assert!(accounts.authenticate(newest).await.is_err());
    let guest = NewAccount::of_kind(AccountKind::Guest);
    let guest = accounts.register(guest).await.unwrap().account;
    assert!(accounts.login_as(guest, None).await.is_err());
    accounts.deactivate(alice, false).await.unwrap();
    for token in &tokens {
        assert!(accounts.authenticate(token).await.is_err());
    }
    is_sound(&accounts).await;
}
