//! Tests of application services.

use resuni_store::Store;
use ruma::{
    api::appservice::{Namespaces, RegistrationInit},
    device_id, server_name, user_id,
};

use super::*;
use crate::{
    AccountError, NewAccount,
    testing::{alice, is_sound, open},
};

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
