//! Tests of how operators find accounts.

use super::*;
use crate::{
    NewAccount,
    testing::{accounts, alice, bob},
};

async fn names(accounts: &Accounts, query: AccountQuery) -> Vec<String> {
    let query = AccountQuery {
        limit: 100,
        ..query
    };
    let (found, total) = accounts.search(&query).await.unwrap();
    assert_eq!(found.len(), total);
    let names = found.into_iter().map(|found| found.account.row.localpart);
    names.collect()
}

#[tokio::test]
async fn accounts_are_found_by_what_they_are() {
    let accounts = accounts().await;
    let (bob, alice) = (bob(&accounts).await, alice(&accounts).await);
    let guest = NewAccount {
        localpart: Some("guest".into()),
        ..NewAccount::of_kind(AccountKind::Guest)
    };
    accounts.register(guest).await.unwrap();
    accounts.set_admin(bob, true).await.unwrap();
    accounts.set_locked(alice, true).await.unwrap();
    let shown = "Zoë".into();
    accounts
        .set_profile_field(alice, "displayname", shown)
        .await
        .unwrap();
    let all = AccountQuery::default;
    assert_eq!(names(&accounts, all()).await, ["alice", "bob", "guest"]);
    let cases = [
        (
            AccountQuery {
                guests: Some(false),
                ..all()
            },
            vec!["alice", "bob"],
        ),
        (
            AccountQuery {
                admins: Some(true),
                ..all()
            },
            vec!["bob"],
        ),
        (
            AccountQuery {
                locked: Some(false),
                ..all()
            },
            vec!["bob", "guest"],
        ),
        (
            AccountQuery {
                name: Some("zoË".into()),
                ..all()
            },
            vec!["alice"],
        ),
        (
            AccountQuery {
                user_id: Some("b:exam".into()),
                ..all()
            },
            vec!["bob"],
        ),
        (
            AccountQuery {
                backward: true,
                ..all()
            },
            vec!["guest", "bob", "alice"],
        ),
        (
            AccountQuery {
                order: AccountOrder::Admin,
                backward: true,
                ..all()
            },
            vec!["bob", "alice", "guest"],
        ),
        (
            AccountQuery {
                order: AccountOrder::DisplayName,
                ..all()
            },
            vec!["guest", "alice", "bob"],
        ),
    ];
    for (query, wanted) in cases {
        assert_eq!(names(&accounts, query.clone()).await, wanted, "{query:?}");
    }
    let query = AccountQuery {
        from: 1,
        limit: 1,
        ..all()
    };
    let (page, total) = accounts.search(&query).await.unwrap();
    assert_eq!((page.len(), total), (1, 3));
    assert_eq!(page[0].account.row.localpart, "bob");
}
