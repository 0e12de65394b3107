//! Accounts, over the router.

use http::Method;
use serde_json::{Value, json};

use super::Server;

const REGISTER: &str = "/_matrix/client/v3/register";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

fn password(user: &str, password: &str) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password,
    })
}

#[tokio::test]
async fn registering_asks_for_confirmation_and_goes_on_with_the_session() {
    let server = Server::start().await;
    let body = json!({ "username": "alice", "password": "correct horse" });
    let got = server.ask(Method::POST, REGISTER, None, body.clone()).await;
    assert_eq!(got.status.as_u16(), 401);
    assert_eq!(got.body["flows"], json!([{ "stages": ["m.login.dummy"] }]));
    let mut body = body;
    body["auth"] = json!({ "type": "m.login.dummy", "session": got.body["session"] });
    let got = server.ask(Method::POST, REGISTER, None, body).await.ok();
    assert_eq!(got["user_id"], "@alice:example.org");
    let token = got["access_token"].as_str().unwrap();
    let me = server.get(WHOAMI, token).await.ok();
    assert_eq!(me["device_id"], got["device_id"]);
    assert_eq!(me["user_id"], "@alice:example.org");
}

/// Element Android says who it wants to be once, and then sends no more than `auth`.
#[tokio::test]
async fn what_was_said_first_need_not_be_said_again() {
    let server = Server::start().await;
    let body = json!({ "username": "alice", "password": "correct horse", "device_id": "PHONE",
        "initial_device_display_name": "a phone" });
    let got = server.ask(Method::POST, REGISTER, None, body).await;
    assert_eq!(got.status.as_u16(), 401);
    let auth = json!({ "type": "m.login.dummy", "session": got.body["session"] });
    let only = json!({ "auth": auth });
    let got = server.ask(Method::POST, REGISTER, None, only.clone()).await;
    let got = got.ok();
    assert_eq!(
        (&got["user_id"], &got["device_id"]),
        (&json!("@alice:example.org"), &json!("PHONE"))
    );
    let token = got["access_token"].as_str().unwrap();
    let device = server
        .get("/_matrix/client/v3/devices/PHONE", token)
        .await
        .ok();
    assert_eq!(device["display_name"], "a phone");
    // The session is over, and what it was told with it.
    let got = server.ask(Method::POST, REGISTER, None, only).await;
    assert_eq!(got.status.as_u16(), 401);
}

/// The name was written as `user` before there were identifiers.
#[tokio::test]
async fn a_password_is_confirmed_in_the_old_form_too() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let me = server.get(WHOAMI, &alice).await.ok();
    let device = me["device_id"].as_str().unwrap();
    let path = format!("/_matrix/client/v3/devices/{device}");
    let wrong =
        json!({ "auth": { "type": "m.login.password", "user": "alice", "password": "no" } });
    let got = server.ask(Method::DELETE, &path, Some(&alice), wrong).await;
    assert_eq!(
        (got.status.as_u16(), &got.body["completed"]),
        (401, &json!([]))
    );
    let right = json!({ "auth": { "type": "m.login.password", "user": "alice",
        "password": "correct horse" } });
    let got = server.ask(Method::DELETE, &path, Some(&alice), right).await;
    got.ok();
}

#[tokio::test]
async fn names_that_can_not_be_had() {
    let server = Server::start().await;
    server.user("alice").await;
    let register = |name: &'static str| {
        let body = json!({ "username": name, "password": "correct horse", "auth": { "type": "m.login.dummy" } });
        server.ask(Method::POST, REGISTER, None, body)
    };
    register("alice").await.fails(400, "M_USER_IN_USE");
    register("a!b").await.fails(400, "M_INVALID_USERNAME");
    register("irc_bob").await.fails(400, "M_EXCLUSIVE");
    let available = "/_matrix/client/v3/register/available?username=";
    let ask = |name: &'static str| server.get(Box::leak(format!("{available}{name}").into()), "");
    ask("alice").await.fails(400, "M_USER_IN_USE");
    assert_eq!(ask("bob").await.ok()["available"], true);
}

#[tokio::test]
async fn a_closed_server_registers_nobody() {
    let server = Server::start_with(|settings| settings.registration = Default::default()).await;
    let body = json!({ "username": "alice", "password": "correct horse" });
    server
        .ask(Method::POST, REGISTER, None, body)
        .await
        .fails(403, "M_FORBIDDEN");
    let guest = format!("{REGISTER}?kind=guest");
    let got = server.ask(Method::POST, &guest, None, json!({})).await;
    got.fails(403, "M_GUEST_ACCESS_FORBIDDEN");
}

#[tokio::test]
async fn logging_in_and_out() {
    let server = Server::start().await;
    server.user("alice").await;
    let log_in = |body: Value| server.ask(Method::POST, "/_matrix/client/v3/login", None, body);
    log_in(password("alice", "wrong"))
        .await
        .fails(403, "M_FORBIDDEN");
    log_in(password("nobody", "wrong"))
        .await
        .fails(403, "M_FORBIDDEN");
    log_in(json!({ "type": "m.login.nonsense" }))
        .await
        .fails(400, "M_UNKNOWN");
    let mut body = password("@Alice:example.org", "correct horse");
    body["device_id"] = json!("PHONE");
    let got = log_in(body).await.ok();
    assert_eq!(got["device_id"], "PHONE");
    let token = got["access_token"].as_str().unwrap();
    server
        .post("/_matrix/client/r0/logout", token, Value::Null)
        .await
        .ok();
    server
        .get(WHOAMI, token)
        .await
        .fails(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn deleting_a_device_needs_the_password() {
    let server = Server::start().await;
    let token = server.user("alice").await;
    let mut body = password("alice", "correct horse");
    body["device_id"] = json!("PHONE");
    server
        .ask(Method::POST, "/_matrix/client/v3/login", None, body)
        .await
        .ok();
    let path = "/_matrix/client/v3/devices/PHONE";
    let delete = |body| server.ask(Method::DELETE, path, Some(&token), body);
    let got = delete(Value::Null).await;
    assert_eq!(got.status.as_u16(), 401);
    assert_eq!(
        got.body["flows"],
        json!([{ "stages": ["m.login.password"] }])
    );
    let session = got.body["session"].clone();
    let auth = |secret: &str| {
        let mut auth = password("alice", secret);
        auth["session"] = session.clone();
        json!({ "auth": auth })
    };
    let wrong = delete(auth("wrong")).await;
    assert_eq!(
        (wrong.status.as_u16(), wrong.errcode()),
        (401, "M_FORBIDDEN")
    );
    server.get(path, &token).await.ok();
    delete(auth("correct horse")).await.ok();
    server.get(path, &token).await.fails(404, "M_NOT_FOUND");
    // Clients of old say who they are without an identifier, or not at all.
    for user in [json!("alice"), json!("@alice:example.org"), Value::Null] {
        let mut auth =
            json!({ "type": "m.login.password", "user": user, "password": "correct horse" });
        if user.is_null() {
            auth.as_object_mut().unwrap().remove("user");
        }
        delete(json!({ "auth": auth })).await.ok();
    }
    delete(json!({ "auth": "alice" }))
        .await
        .fails(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn guests_may_do_little() {
    let server = Server::start().await;
    let guest = format!("{REGISTER}?kind=guest");
    let got = server.ask(Method::POST, &guest, None, json!({})).await.ok();
    let token = got["access_token"].as_str().unwrap();
    assert_eq!(server.get(WHOAMI, token).await.ok()["is_guest"], true);
    let capabilities = server.get("/_matrix/client/v3/capabilities", token).await;
    capabilities.fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    let user = got["user_id"].as_str().unwrap();
    let field = |name: &str| format!("/_matrix/client/v3/profile/{user}/{name}");
    server
        .put(&field("displayname"), token, json!({ "displayname": "G" }))
        .await
        .ok();
    let avatar = json!({ "avatar_url": "mxc://example.org/a" });
    let got = server.put(&field("avatar_url"), token, avatar).await;
    got.fails(403, "M_GUEST_ACCESS_FORBIDDEN");
}

#[tokio::test]
async fn a_locked_account_can_only_log_out() {
    let server = Server::start().await;
    let token = server.user("alice").await;
    let account = server.state.accounts.find("alice").await.unwrap().unwrap();
    server
        .state
        .accounts
        .set_locked(account, true)
        .await
        .unwrap();
    let got = server.get(WHOAMI, &token).await;
    got.fails(401, "M_USER_LOCKED");
    assert_eq!(got.body["soft_logout"], true);
    server
        .post("/_matrix/client/v3/logout", &token, Value::Null)
        .await
        .ok();
}

#[tokio::test]
async fn a_suspended_account_can_not_change_what_others_see() {
    let server = Server::start().await;
    let token = server.user("alice").await;
    let account = server.state.accounts.find("alice").await.unwrap().unwrap();
    server
        .state
        .accounts
        .set_suspended(account, true)
        .await
        .unwrap();
    server.get(WHOAMI, &token).await.ok();
    let name = "/_matrix/client/v3/profile/@alice:example.org/displayname";
    let got = server
        .put(name, &token, json!({ "displayname": "A" }))
        .await;
    got.fails(403, "M_USER_SUSPENDED");
}

#[tokio::test]
async fn an_application_service_acts_as_its_users_only() {
    let server = Server::start().await;
    server.user("alice").await;
    let body = json!({ "type": "m.login.application_service", "username": "irc_bob", "inhibit_login": true });
    server
        .ask(Method::POST, REGISTER, None, body.clone())
        .await
        .fails(401, "M_UNKNOWN_TOKEN");
    server.post(REGISTER, "as-secret", body).await.ok();
    let who = |user: &str| format!("{WHOAMI}?user_id={user}");
    assert_eq!(
        server.get(WHOAMI, "as-secret").await.ok()["user_id"],
        "@irc:example.org"
    );
    let bob = server
        .get(&who("@irc_bob:example.org"), "as-secret")
        .await
        .ok();
    assert_eq!(bob["user_id"], "@irc_bob:example.org");
    server
        .get(&who("@alice:example.org"), "as-secret")
        .await
        .fails(403, "M_FORBIDDEN");
    server
        .get(&who("@irc_carl:example.org"), "as-secret")
        .await
        .fails(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn profiles_have_fields_of_any_name() {
    let server = Server::start().await;
    let token = server.user("alice").await;
    let bob = server.user("bob").await;
    let field = |name: &str| format!("/_matrix/client/v3/profile/@alice:example.org/{name}");
    server
        .put(
            &field("m.example.mood"),
            &token,
            json!({ "m.example.mood": [1] }),
        )
        .await
        .ok();
    let profile = server
        .get("/_matrix/client/v3/profile/@alice:example.org", "")
        .await
        .ok();
    assert_eq!(profile["m.example.mood"], json!([1]));
    let other = server
        .put(&field("displayname"), &bob, json!({ "displayname": "A" }))
        .await;
    other.fails(403, "M_FORBIDDEN");
    server
        .ask(
            Method::DELETE,
            &field("m.example.mood"),
            Some(&token),
            Value::Null,
        )
        .await
        .ok();
    server
        .get(&field("m.example.mood"), "")
        .await
        .fails(404, "M_NOT_FOUND");
    let nobody = server
        .get("/_matrix/client/v3/profile/@nobody:example.org", "")
        .await;
    nobody.fails(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn account_data_tags_filters_and_push_rules_are_kept() {
    let server = Server::start().await;
    let token = server.user("alice").await;
    let me = "/_matrix/client/v3/user/@alice:example.org";
    let data = format!("{me}/account_data/org.example.data");
    server.get(&data, &token).await.fails(404, "M_NOT_FOUND");
    server
        .put(&data, &token, json!({ "a": { "b": 1 } }))
        .await
        .ok();
    assert_eq!(
        server.get(&data, &token).await.ok(),
        json!({ "a": { "b": 1 } })
    );
    server
        .put(&data, &token, json!([]))
        .await
        .fails(400, "M_BAD_JSON");
    let own = server
        .put(
            &format!("{me}/account_data/m.push_rules"),
            &token,
            json!({}),
        )
        .await;
    own.fails(405, "M_BAD_JSON");
    let tags = format!("{me}/rooms/!r:example.org/tags");
    server
        .put(
            &format!("{tags}/u.work"),
            &token,
            json!({ "order": 0.5, "x": 1 }),
        )
        .await
        .ok();
    let got = server.get(&tags, &token).await.ok();
    assert_eq!(
        got,
        json!({ "tags": { "u.work": { "order": 0.5, "x": 1 } } })
    );
    let filter = json!({ "room": { "timeline": { "limit": 7 } } });
    let id = server
        .post(&format!("{me}/filter"), &token, filter.clone())
        .await
        .ok();
    let id = id["filter_id"].as_str().unwrap();
    assert_eq!(
        server.get(&format!("{me}/filter/{id}"), &token).await.ok(),
        filter
    );
    let wrong = json!({ "room": { "timeline": "not_an_object" } });
    server
        .post(&format!("{me}/filter"), &token, wrong)
        .await
        .fails(400, "M_BAD_JSON");
    let master = "/_matrix/client/v3/pushrules/global/override/.m.rule.master/enabled";
    assert_eq!(server.get(master, &token).await.ok()["enabled"], false);
    server
        .put(master, &token, json!({ "enabled": true }))
        .await
        .ok();
    assert_eq!(server.get(master, &token).await.ok()["enabled"], true);
}

#[tokio::test]
async fn the_shared_secret_opens_the_tools_door() {
    let server = Server::start().await;
    let path = "/_synapse/admin/v1/register";
    let nonce = server.get(path, "").await.ok()["nonce"]
        .as_str()
        .unwrap()
        .to_owned();
    let body = json!({
        "nonce": nonce, "username": "root", "password": "p", "admin": true, "mac": "00",
    });
    server
        .ask(Method::POST, path, None, body)
        .await
        .fails(403, "M_FORBIDDEN");
    server
        .ask(Method::POST, path, None, json!({}))
        .await
        .fails(400, "M_MISSING_PARAM");
}
