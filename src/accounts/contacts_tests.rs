//! Tests of addresses and of how they are shown to be one's own.

use std::sync::Arc;

use ruma::ClientSecret;

use super::*;
use crate::{
    AccountKind, Begun, DeviceRequest, NewAccount, ValidationRequest,
    testing::{TestClock, alice, bob, is_sound, with_clock},
};

const SECRET: &str = "client-secret";

fn secret(text: &str) -> &ClientSecret {
    text.try_into().unwrap()
}

fn request(purpose: Purpose, address: &str) -> ValidationRequest<'_> {
    ValidationRequest {
        purpose,
        address,
        client_secret: secret(SECRET),
        attempt: 1,
        next_link: None,
    }
}

async fn begin(
    accounts: &Accounts,
    purpose: Purpose,
    address: &str,
) -> Result<Begun, AccountError> {
    accounts.begin_validation(&request(purpose, address)).await
}

/// An address whose owner has opened the link.
async fn shown(accounts: &Accounts, purpose: Purpose, address: &str) -> Validated {
    let begun = begin(accounts, purpose, address).await.unwrap();
    let token = begun.token.unwrap();
    accounts
        .confirm_validation(&begun.sid, SECRET, &token)
        .await
        .unwrap();
    accounts
        .validated(purpose, &begun.sid, SECRET)
        .await
        .unwrap()
}

async fn world() -> (Arc<Accounts>, Arc<TestClock>, AccountNum, AccountNum) {
    let (accounts, clock) = with_clock().await;
    let (alice, bob) = (alice(&accounts).await, bob(&accounts).await);
    (accounts, clock, alice, bob)
}

fn failed<T>(result: Result<T, AccountError>) -> bool {
    matches!(result, Err(AccountError::ThreepidAuthFailed))
}

#[test]
fn addresses_are_compared_in_lower_case_and_odd_ones_refused() {
    let good = email_address(" Alice.B+x@Example.ORG ").unwrap();
    assert_eq!(good, "alice.b+x@example.org");
    let long = format!("{}@example.org", "a".repeat(250));
    for bad in [
        "alice",
        "@example.org",
        "alice@",
        "a@b@c",
        "a b@c",
        "a@b\r\nBcc: c@d",
        "<a@b>",
        "a,b@c",
        "a@.b",
        long.as_str(),
        "",
    ] {
        assert!(email_address(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn an_address_is_added_once_it_was_shown_to_be_ones_own() {
    let (accounts, _, alice, bob) = world().await;
    let begun = begin(&accounts, Purpose::Add, "A@x.org").await.unwrap();
    assert!(failed(
        accounts.validated(Purpose::Add, &begun.sid, SECRET).await
    ));
    let token = begun.token.unwrap();
    for (sid, secret, token) in [
        ("other", SECRET, token.as_str()),
        (begun.sid.as_str(), "another", token.as_str()),
        (begun.sid.as_str(), SECRET, "another"),
        (begun.sid.as_str(), SECRET, ""),
    ] {
        assert!(failed(
            accounts.confirm_validation(sid, secret, token).await
        ));
    }
    let confirmed = accounts
        .confirm_validation(&begun.sid, SECRET, &token)
        .await;
    assert_eq!(confirmed.unwrap(), None);
    let validated = accounts
        .validated(Purpose::Add, &begun.sid, SECRET)
        .await
        .unwrap();
    accounts
        .add_contact(alice, validated.clone())
        .await
        .unwrap();
    let contacts = accounts.contacts(alice).await.unwrap();
    assert_eq!((contacts.len(), &*contacts[0].address), (1, "a@x.org"));
    // What was used is used up, and the address taken.
    assert!(accounts.add_contact(bob, validated).await.is_err());
    assert!(failed(
        accounts.validated(Purpose::Add, &begun.sid, SECRET).await
    ));
    let taken = begin(&accounts, Purpose::Add, "a@X.org").await;
    assert!(matches!(taken, Err(AccountError::ThreepidInUse)));
    is_sound(&accounts).await;
    accounts
        .remove_contact(bob, Medium::Email, "a@x.org")
        .await
        .unwrap();
    assert_eq!(accounts.contacts(alice).await.unwrap().len(), 1);
    accounts
        .remove_contact(alice, Medium::Email, "A@x.org")
        .await
        .unwrap();
    assert!(accounts.contacts(alice).await.unwrap().is_empty());
    is_sound(&accounts).await;
}

#[tokio::test]
async fn a_session_of_one_purpose_or_address_is_no_use_for_another() {
    let (accounts, _, alice, _) = world().await;
    let validated = shown(&accounts, Purpose::Add, "alice@x.org").await;
    accounts.add_contact(alice, validated).await.unwrap();
    let begun = begin(&accounts, Purpose::Add, "mallory@x.org")
        .await
        .unwrap();
    let token = begun.token.unwrap();
    accounts
        .confirm_validation(&begun.sid, SECRET, &token)
        .await
        .unwrap();
    for purpose in [Purpose::ResetPassword, Purpose::Register] {
        assert!(failed(
            accounts.validated(purpose, &begun.sid, SECRET).await
        ));
    }
    let own = accounts
        .validated(Purpose::Add, &begun.sid, SECRET)
        .await
        .unwrap();
    assert!(failed(
        accounts.reset_password(own, "new password", true).await
    ));
    // Asking again with the same secret for another address is another session, not shown yet.
    let other = begin(&accounts, Purpose::ResetPassword, "alice@x.org")
        .await
        .unwrap();
    assert_ne!(other.sid, begun.sid);
    assert!(failed(
        accounts
            .validated(Purpose::ResetPassword, &other.sid, SECRET)
            .await
    ));
}

#[tokio::test]
async fn who_asks_again_gets_no_second_mail_until_they_say_so() {
    let (accounts, clock, _, _) = world().await;
    let first = begin(&accounts, Purpose::Add, "a@x.org").await.unwrap();
    let again = begin(&accounts, Purpose::Add, "a@x.org").await.unwrap();
    assert_eq!((&again.sid, again.token), (&first.sid, None));
    let next = |attempt| ValidationRequest {
        attempt,
        ..request(Purpose::Add, "a@x.org")
    };
    let more = accounts.begin_validation(&next(2)).await.unwrap();
    assert_eq!(more.sid, first.sid);
    // The link of the first mail does not count any more.
    let old = first.token.unwrap();
    assert!(failed(
        accounts.confirm_validation(&first.sid, SECRET, &old).await
    ));
    for attempt in 3..=5 {
        accounts.begin_validation(&next(attempt)).await.unwrap();
    }
    let flood = accounts.begin_validation(&next(6)).await;
    assert!(matches!(flood, Err(AccountError::LimitExceeded { .. })));
    clock.advance(25 * 3_600_000);
    let token = more.token.unwrap();
    assert!(failed(
        accounts.confirm_validation(&more.sid, SECRET, &token).await
    ));
    accounts.housekeeping().await.unwrap();
    is_sound(&accounts).await;
    let fresh = begin(&accounts, Purpose::Add, "a@x.org").await.unwrap();
    assert_ne!(fresh.sid, first.sid);
}

#[tokio::test]
async fn a_forgotten_password_is_replaced_by_who_reads_the_mail() {
    let (accounts, _, alice, _) = world().await;
    let nobody = begin(&accounts, Purpose::ResetPassword, "a@x.org").await;
    assert!(matches!(nobody, Err(AccountError::ThreepidNotFound)));
    let validated = shown(&accounts, Purpose::Add, "a@x.org").await;
    accounts.add_contact(alice, validated).await.unwrap();
    let login = accounts
        .login(alice, DeviceRequest::default())
        .await
        .unwrap();
    let validated = shown(&accounts, Purpose::ResetPassword, "a@x.org").await;
    accounts
        .reset_password(validated.clone(), "new password", true)
        .await
        .unwrap();
    assert!(accounts.authenticate(&login.access_token).await.is_err());
    let device = DeviceRequest::default;
    let entered = accounts
        .login_email("A@X.org", "new password", device())
        .await;
    assert_eq!(entered.unwrap().account, alice);
    let wrong = accounts
        .login_email("b@x.org", "new password", device())
        .await;
    assert!(matches!(wrong, Err(AccountError::Forbidden(_))));
    let again = accounts
        .reset_password(validated, "third password", true)
        .await;
    assert!(again.is_err());
}

#[tokio::test]
async fn an_address_comes_with_a_new_account_and_goes_with_it() {
    let (accounts, _, _, bob) = world().await;
    let validated = shown(&accounts, Purpose::Register, "c@x.org").await;
    let new = |name: &str| NewAccount {
        email: Some(validated.clone()),
        ..NewAccount::user(name, "password")
    };
    let carol = accounts.register(new("carol")).await.unwrap().account;
    assert_eq!(accounts.owner_of("c@x.org").await.unwrap(), Some(carol));
    assert!(accounts.register(new("dave")).await.is_err());
    assert_eq!(accounts.find("dave").await.unwrap(), None);
    // Deactivated, the way back by e-mail is shut, and the address is free.
    accounts.deactivate(carol, false).await.unwrap();
    let reset = begin(&accounts, Purpose::ResetPassword, "c@x.org").await;
    assert!(matches!(reset, Err(AccountError::ThreepidNotFound)));
    let validated = shown(&accounts, Purpose::Add, "c@x.org").await;
    accounts.add_contact(bob, validated).await.unwrap();
    is_sound(&accounts).await;
    let guest = NewAccount::of_kind(AccountKind::Guest);
    assert!(guest.email.is_none());
}

#[tokio::test]
async fn a_link_to_go_on_is_a_web_address() {
    let (accounts, ..) = world().await;
    for (link, good) in [
        ("https://client.example/#/done", true),
        ("javascript:alert(1)", false),
        ("data:text/html,x", false),
        ("//elsewhere", false),
    ] {
        let request = ValidationRequest {
            next_link: Some(link),
            ..request(Purpose::Add, "a@x.org")
        };
        let begun = accounts.begin_validation(&request).await;
        assert_eq!(begun.is_ok(), good, "{link}");
    }
}
