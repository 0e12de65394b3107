//! Users that an application service makes when somebody asks for them.

use std::sync::{Arc, OnceLock};

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use resuni_accounts::{AccountKind, Accounts, NewAccount};
use serde_json::json;

use super::{BRIDGE, Server};

/// A bridge: makes everybody whose name does not end in "nobody", and remembers who was asked for.
#[derive(Default)]
struct Bridge {
    accounts: OnceLock<Arc<Accounts>>,
    asked: Mutex<Vec<String>>,
}

async fn user(
    State(bridge): State<Arc<Bridge>>,
    Path(user): Path<String>,
    headers: HeaderMap,
) -> StatusCode {
    assert_eq!(headers["authorization"], "Bearer hs-secret");
    bridge.asked.lock().push(user.clone());
    let name = user[1..].split(':').next().unwrap();
    if name.ends_with("nobody") {
        return StatusCode::NOT_FOUND;
    }
    let new = NewAccount {
        localpart: Some(name.to_owned()),
        display_name: Some("Made".to_owned()),
        ..NewAccount::of_kind(AccountKind::AppService("irc".to_owned()))
    };
    bridge.accounts.get().unwrap().register(new).await.unwrap();
    StatusCode::OK
}

#[tokio::test]
async fn a_bridge_makes_users_when_they_are_asked_for() {
    let bridge = Arc::new(Bridge::default());
    let router = Router::new()
        .route("/_matrix/app/v1/users/{user}", get(user))
        .with_state(bridge.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(r#""url": "http://{}""#, listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let file = BRIDGE.replace(r#""url": null"#, &url);
    let server = Server::start_beside(&file, |_| ()).await;
    let _ = bridge.accounts.set(server.state.accounts.clone());
    let alice = server.user("alice").await;

    let profile = |user: &str| format!("/_matrix/client/v3/profile/@{user}:example.org");
    let got = server.get(&profile("irc_one"), &alice).await.ok();
    assert_eq!(got["displayname"], "Made");
    server
        .get(&profile("irc_nobody"), &alice)
        .await
        .fails(404, "M_NOT_FOUND");
    server
        .get(&profile("unknown"), &alice)
        .await
        .fails(404, "M_NOT_FOUND");

    let room = server
        .post("/_matrix/client/v3/createRoom", &alice, json!({}))
        .await
        .ok();
    let invite = format!(
        "/_matrix/client/v3/rooms/{}/invite",
        room["room_id"].as_str().unwrap()
    );
    let target = json!({ "user_id": "@irc_two:example.org" });
    server.post(&invite, &alice, target).await.ok();
    server.get(&profile("irc_two"), &alice).await.ok();
    server.get(&profile("irc_one"), &alice).await.ok();
    let asked = ["irc_one", "irc_nobody", "irc_two"].map(|user| format!("@{user}:example.org"));
    assert_eq!(*bridge.asked.lock(), asked, "each once, and nobody else");
}

#[tokio::test]
async fn a_bridge_makes_devices_without_logging_in_and_acts_as_them() {
    let server = Server::start().await;
    let new = NewAccount {
        localpart: Some("irc_one".to_owned()),
        ..NewAccount::of_kind(AccountKind::AppService("irc".to_owned()))
    };
    server.state.accounts.register(new).await.unwrap();
    let user = "user_id=@irc_one:example.org";
    let path = format!("/_matrix/client/v3/devices/D?{user}");
    // 201 and then 200 (v1.17).
    for status in [201, 200] {
        let put = server
            .put(&path, "as-secret", json!({ "display_name": "Bridge" }))
            .await;
        assert_eq!(put.status.as_u16(), status, "{}", put.body);
    }
    let keys = json!({ "one_time_keys": { "signed_curve25519:A": { "key": "a" } } });
    let old = "org.matrix.msc3202.device_id";
    for device in ["device_id", old] {
        let upload = format!("/_matrix/client/v3/keys/upload?{user}&{device}=D");
        let counts = server.post(&upload, "as-secret", keys.clone()).await.ok();
        assert_eq!(counts["one_time_key_counts"]["signed_curve25519"], 1);
        let other = format!("/_matrix/client/v3/account/whoami?{user}&{device}=E");
        server
            .get(&other, "as-secret")
            .await
            .fails(400, "M_UNKNOWN_DEVICE");
    }
    // As mautrix says it: under both names.
    let both = format!("/_matrix/client/v3/account/whoami?{user}&device_id=D&{old}=D");
    assert_eq!(server.get(&both, "as-secret").await.ok()["device_id"], "D");
    // What is nobody's session is nobody's device either.
    let dry = json!({
        "device_id": "DRY",
        "device_data": { "algorithm": "m.dehydration.v2" },
        "device_keys": {
            "user_id": "@irc_one:example.org", "device_id": "DRY", "algorithms": [], "keys": {},
        },
    });
    let put = format!("/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device?{user}");
    server.put(&put, "as-secret", dry).await.ok();
    let as_dry = format!("/_matrix/client/v3/account/whoami?{user}&device_id=DRY");
    server
        .get(&as_dry, "as-secret")
        .await
        .fails(400, "M_UNKNOWN_DEVICE");
    let gone = server
        .ask(http::Method::DELETE, &path, Some("as-secret"), json!({}))
        .await;
    gone.ok();
    server
        .get(&path, "as-secret")
        .await
        .fails(404, "M_NOT_FOUND");
}
