//! Tests of what operators may do to whom.

use ruma::{owned_user_id, user_id};

use super::*;
use crate::{
    DeviceRequest,
    testing::{accounts, alice, bob},
};

async fn session(accounts: &Accounts, account: AccountNum) -> Session {
    let login = accounts.login(account, DeviceRequest::default());
    let token = login.await.unwrap().access_token;
    accounts.authenticate(&token).await.unwrap()
}

#[tokio::test]
async fn operators_restrict_others_but_not_each_other_nor_themselves() {
    let accounts = accounts().await;
    let (alice, bob) = (alice(&accounts).await, bob(&accounts).await);
    accounts.set_admin(alice, true).await.unwrap();
    let by = session(&accounts, alice).await;
    let (own, others) = (user_id!("@alice:example.org"), user_id!("@bob:example.org"));
    for restriction in [Restriction::Locked, Restriction::Suspended] {
        let is = || accounts.is_restricted(&by, others, restriction);
        let set = |on| accounts.restrict(&by, others, restriction, on);
        assert!(!is().await.unwrap());
        set(true).await.unwrap();
        assert!(is().await.unwrap());
        set(false).await.unwrap();
        assert!(!is().await.unwrap());
        let own = accounts.restrict(&by, own, restriction, true).await;
        assert!(matches!(own, Err(AccountError::Forbidden(_))));
    }
    accounts.set_admin(bob, true).await.unwrap();
    let peer = accounts
        .restrict(&by, others, Restriction::Locked, true)
        .await;
    assert!(matches!(peer, Err(AccountError::Forbidden(_))));
    accounts.set_admin(bob, false).await.unwrap();
    accounts.deactivate(bob, false).await.unwrap();
    let gone = accounts
        .is_restricted(&by, others, Restriction::Locked)
        .await;
    assert!(matches!(gone, Err(AccountError::NotFound(_))));
}

#[tokio::test]
async fn who_is_no_operator_learns_nothing_of_who_exists() {
    let accounts = accounts().await;
    alice(&accounts).await;
    let bob = bob(&accounts).await;
    let by = session(&accounts, bob).await;
    let users = [
        owned_user_id!("@alice:example.org"),
        owned_user_id!("@nobody:example.org"),
        owned_user_id!("@bob:elsewhere.example"),
    ];
    for user in users {
        let refused = |result| matches!(result, Err(AccountError::Forbidden(_)));
        let looked = accounts
            .is_restricted(&by, &user, Restriction::Locked)
            .await;
        assert!(refused(looked.map(drop)));
        let set = accounts
            .restrict(&by, &user, Restriction::Suspended, true)
            .await;
        assert!(refused(set));
    }
    assert!(accounts.require_operator(&by).is_err());
}
