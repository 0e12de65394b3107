//! Tests of user-interactive authentication.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::{
    NewAccount, NewRegistrationToken,
    testing::{TestClock, alice, bob, with_clock},
};

struct World {
    accounts: Arc<Accounts>,
    clock: Arc<TestClock>,
    alice: AccountNum,
    bob: AccountNum,
}

async fn world() -> World {
    let (accounts, clock) = with_clock().await;
    let (alice, bob) = (alice(&accounts).await, bob(&accounts).await);
    World {
        accounts,
        clock,
        alice,
        bob,
    }
}

impl World {
    /// Alice deletes a device.
    async fn step(&self, body: Value) -> Result<UiaOutcome, AccountError> {
        self.step_as(
            Some(self.alice),
            "DELETE",
            "/devices/A",
            &[&[Stage::Password]],
            body,
        )
        .await
    }

    async fn step_as(
        &self,
        account: Option<AccountNum>,
        method: &str,
        path: &str,
        flows: &[&[Stage]],
        body: Value,
    ) -> Result<UiaOutcome, AccountError> {
        let request = UiaRequest {
            account,
            method,
            path,
            body: body.as_object().unwrap(),
        };
        let flows: Vec<_> = flows.iter().map(|stages| Flow::of(*stages)).collect();
        self.accounts.uia(request, &flows).await
    }
}

fn challenge(outcome: Result<UiaOutcome, AccountError>) -> UiaChallenge {
    match outcome.unwrap() {
        UiaOutcome::Challenge(challenge) => challenge,
        UiaOutcome::Done(_) => panic!("confirmed without reason"),
    }
}

fn done(outcome: Result<UiaOutcome, AccountError>) -> UiaDone {
    match outcome.unwrap() {
        UiaOutcome::Done(done) => done,
        UiaOutcome::Challenge(challenge) => panic!("{challenge:?}"),
    }
}

fn password(session: &str, password: &str) -> Value {
    json!({"auth": {
        "type": "m.login.password",
        "session": session,
        "identifier": {"type": "m.id.user", "user": "alice"},
        "password": password,
    }})
}

#[tokio::test]
async fn a_password_confirms_a_request_once() {
    let world = world().await;
    let first = challenge(world.step(json!({})).await);
    assert_eq!(
        serde_json::to_value(&first).unwrap(),
        json!({
            "completed": [],
            "flows": [{"stages": ["m.login.password"]}],
            "params": {},
            "session": first.session,
        })
    );
    let wrong = challenge(world.step(password(&first.session, "guess")).await);
    assert_eq!(wrong.errcode, Some("M_FORBIDDEN"));
    assert_eq!(wrong.session, first.session);
    let right = password(&first.session, "alice's password");
    done(world.step(right.clone()).await);
    let again = challenge(world.step(right).await);
    assert_ne!(again.session, first.session);
    assert!(again.completed.is_empty());
}

#[tokio::test]
async fn a_session_belongs_to_one_request() {
    let world = world().await;
    let session = challenge(world.step(json!({})).await).session;
    let flows: &[&[Stage]] = &[&[Stage::Password]];
    let body = password(&session, "alice's password");
    for (account, method, path) in [
        (Some(world.alice), "DELETE", "/devices/B"),
        (Some(world.alice), "POST", "/devices/A"),
        (Some(world.bob), "DELETE", "/devices/A"),
        (None, "DELETE", "/devices/A"),
    ] {
        let other = world
            .step_as(account, method, path, flows, body.clone())
            .await;
        assert!(matches!(other, Err(AccountError::Forbidden(_))), "{path}");
    }
    done(world.step(body).await);
}

#[tokio::test]
async fn what_was_confirmed_can_not_be_exchanged() {
    let world = world().await;
    let flows: &[&[Stage]] = &[&[Stage::Password, Stage::Dummy]];
    let step = |body| world.step_as(Some(world.alice), "POST", "/delete", flows, body);
    let with = |session: &str, kind: &str, devices: Value| {
        let mut body = password(session, "alice's password");
        body["auth"]["type"] = kind.into();
        body["devices"] = devices;
        body
    };
    // Asking with an empty body does not bind it.
    let session = challenge(step(json!({})).await).session;
    let next = challenge(step(with(&session, "m.login.password", json!(["A"]))).await);
    assert_eq!(next.completed, [Stage::Password]);
    let swapped = step(with(&session, "m.login.dummy", json!(["A", "B"]))).await;
    assert!(matches!(swapped, Err(AccountError::Forbidden(_))));
    done(step(with(&session, "m.login.dummy", json!(["A"]))).await);
}

#[tokio::test]
async fn the_password_must_be_that_of_the_user() {
    let world = world().await;
    let session = challenge(world.step(json!({})).await).session;
    let bobs = password(&session, "bob's password");
    assert!(challenge(world.step(bobs).await).completed.is_empty());
    // Naming somebody else is refused, whosever password it is.
    for secret in ["alice's password", "bob's password"] {
        for user in ["bob", "@bob:example.org"] {
            let mut bobs = password(&session, secret);
            bobs["auth"]["identifier"]["user"] = user.into();
            let refused = world.step(bobs).await;
            assert!(matches!(refused, Err(AccountError::Forbidden(_))));
        }
    }
}

#[tokio::test]
async fn no_value_of_a_password_opens_the_door() {
    let world = world().await;
    for value in [
        json!(""),
        json!("*"),
        json!(null),
        json!(true),
        json!({}),
        json!([]),
    ] {
        let mut body = password("", "");
        body["auth"]["password"] = value;
        body["auth"].as_object_mut().unwrap().remove("session");
        assert!(challenge(world.step(body).await).completed.is_empty());
    }
}

#[tokio::test]
async fn an_account_without_password_can_not_confirm_with_one() {
    let world = world().await;
    let guest = NewAccount::of_kind(crate::AccountKind::Guest);
    let guest = world.accounts.register(guest).await.unwrap().account;
    let body = json!({"auth": {"type": "m.login.password", "password": ""}});
    let flows: &[&[Stage]] = &[&[Stage::Password]];
    let outcome = world.step_as(Some(guest), "POST", "/x", flows, body).await;
    assert!(challenge(outcome).completed.is_empty());
}

#[tokio::test]
async fn stages_are_completed_in_order() {
    let world = world().await;
    let flows: &[&[Stage]] = &[&[Stage::RegistrationToken, Stage::Dummy]];
    let step = |body| world.step_as(None, "POST", "/register", flows, body);
    let token = world
        .accounts
        .create_registration_token(NewRegistrationToken {
            uses_allowed: Some(1),
            ..NewRegistrationToken::default()
        });
    let token = token.await.unwrap().token;
    let auth = |kind: &str, session: &str, token: &str| json!({"username": "carol", "auth": {"type": kind, "session": session, "token": token}});
    let session = challenge(step(json!({})).await).session;
    let early = challenge(step(auth("m.login.dummy", &session, "")).await);
    assert_eq!(early.errcode, Some("M_UNRECOGNIZED"));
    let wrong = challenge(step(auth("m.login.registration_token", &session, "no")).await);
    assert_eq!(wrong.errcode, Some("M_FORBIDDEN"));
    let right = challenge(step(auth("m.login.registration_token", &session, &token)).await);
    assert_eq!(right.completed, [Stage::RegistrationToken]);
    assert_eq!(right.errcode, None);
    let retried = challenge(step(auth("m.login.registration_token", &session, "no")).await);
    assert_eq!(retried.completed, [Stage::RegistrationToken]);
    let only_session =
        challenge(step(json!({"username": "carol", "auth": {"session": session}})).await);
    assert_eq!(only_session.completed, [Stage::RegistrationToken]);
    let end = done(step(auth("m.login.dummy", &session, "")).await);
    assert_eq!(end.registration_token, Some(token));
}

#[tokio::test]
async fn a_registration_may_begin_with_its_stage() {
    let world = world().await;
    let body = json!({"username": "carol", "auth": {"type": "m.login.dummy"}});
    let flows: &[&[Stage]] = &[&[Stage::Dummy]];
    done(world.step_as(None, "POST", "/register", flows, body).await);
}

#[tokio::test]
async fn sessions_end_by_time() {
    let world = world().await;
    let session = challenge(world.step(json!({})).await).session;
    world.clock.advance(LIFETIME_MS);
    let late = challenge(world.step(password(&session, "alice's password")).await);
    assert_ne!(late.session, session);
    assert_eq!(late.errcode, Some("M_FORBIDDEN"));
}

#[tokio::test]
async fn sessions_are_bounded() {
    let world = world().await;
    for _ in 0..SESSIONS {
        challenge(world.step(json!({})).await);
    }
    assert!(matches!(
        world.step(json!({})).await,
        Err(AccountError::LimitExceeded { .. })
    ));
    world.clock.advance(LIFETIME_MS);
    challenge(world.step(json!({})).await);
}

#[tokio::test]
async fn a_session_holds_no_password() {
    let world = world().await;
    let flows: &[&[Stage]] = &[&[Stage::Password, Stage::Dummy]];
    let mut body = password("", "alice's password");
    body["auth"].as_object_mut().unwrap().remove("session");
    body["new_password"] = "a new secret".into();
    let outcome = world
        .step_as(Some(world.alice), "POST", "/password", flows, body)
        .await;
    assert_eq!(challenge(outcome).completed, [Stage::Password]);
    let sessions = world.accounts.uia.sessions.lock();
    let kept = format!("{:?}", sessions.values().collect::<Vec<_>>());
    assert!(kept.contains("/password"));
    assert!(!kept.contains("alice's password") && !kept.contains("a new secret"));
}

#[tokio::test]
async fn no_more_show_a_registration_token_than_may_use_it() {
    let world = world().await;
    let flows: &[&[Stage]] = &[&[Stage::RegistrationToken, Stage::Dummy]];
    let step = |body| world.step_as(None, "POST", "/register", flows, body);
    let new = NewRegistrationToken {
        token: Some("once".into()),
        uses_allowed: Some(1),
        ..NewRegistrationToken::default()
    };
    world.accounts.create_registration_token(new).await.unwrap();
    let show = |session: Value| {
        step(
            json!({"username": "carol", "auth": {"type": "m.login.registration_token", "session": session, "token": "once"}}),
        )
    };
    let first = challenge(show(Value::Null).await);
    assert_eq!(first.completed, [Stage::RegistrationToken]);
    let pending = || async {
        let token = world.accounts.registration_token("once").await.unwrap();
        token.unwrap().pending
    };
    assert_eq!(pending().await, 1);
    let second = challenge(show(Value::Null).await);
    assert_eq!(second.errcode, Some("M_FORBIDDEN"));
    // Who shows it again in the same session is not in their own way.
    let again = challenge(show(first.session.into()).await);
    assert_eq!((again.errcode, pending().await), (None, 1));
    world.clock.advance(LIFETIME_MS);
    assert_eq!(pending().await, 0);
    assert_eq!(challenge(show(Value::Null).await).errcode, None);
}

#[tokio::test]
async fn only_a_registration_is_remembered() {
    let world = world().await;
    for (path, kept) in [("/v3/register", true), ("/v3/account/password", false)] {
        let Value::Object(body) = json!({ "new_password": "a secret" }) else {
            panic!("an object");
        };
        let request = UiaRequest {
            account: None,
            method: "POST",
            path,
            body: &body,
        };
        let flows = [Flow::of([Stage::EmailIdentity])];
        let begun = challenge(world.accounts.uia(request, &flows).await);
        let Value::Object(mut next) = json!({ "auth": { "session": begun.session } }) else {
            panic!("an object");
        };
        world.accounts.uia_recall(&mut next);
        assert_eq!(next.contains_key("new_password"), kept, "{path}");
    }
}
