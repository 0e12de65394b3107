//! Small things that clients take for granted, as found beside Synapse.

use http::Method;
use serde_json::{Value, json};

use super::Server;

const REGISTER: &str = "/_matrix/client/v3/register";

#[tokio::test]
async fn what_is_not_there_is_left_out() {
    let server = Server::start().await;
    let body = json!({ "username": "quiet", "password": "correct horse", "inhibit_login": true,
                       "auth": { "type": "m.login.dummy" } });
    let got = server.ask(Method::POST, REGISTER, None, body).await.ok();
    assert_eq!(got, json!({ "user_id": "@quiet:example.org" }));
    let alice = server.user("alice").await;
    let body = json!({ "type": "m.login.password", "password": "correct horse",
                       "identifier": { "type": "m.id.user", "user": "alice" } });
    server
        .ask(Method::POST, "/_matrix/client/v3/login", None, body)
        .await
        .ok();
    let devices = server.get("/_matrix/client/v3/devices", &alice).await.ok();
    assert_eq!(devices["devices"].as_array().map(Vec::len), Some(2));
    assert!(!devices.to_string().contains("null"), "{devices}");
    let rules = server
        .get("/_matrix/client/v3/pushrules/", &alice)
        .await
        .ok();
    for kind in ["override", "content", "room", "sender", "underride"] {
        assert!(rules["global"][kind].is_array(), "{kind}");
    }
    let of_scope = server
        .get("/_matrix/client/v3/pushrules/global/", &alice)
        .await
        .ok();
    assert_eq!(of_scope, rules["global"]);
}

#[tokio::test]
async fn what_is_none_of_the_possible_is_refused() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room = server.create(&alice, json!({})).await;
    let body = json!({ "auth": { "type": "m.login.dummy" } });
    let odd = format!("{REGISTER}?kind=robot");
    server
        .ask(Method::POST, &odd, None, body)
        .await
        .fails(400, "M_INVALID_PARAM");
    let listed = format!("/_matrix/client/v3/directory/list/room/{room}");
    server
        .put(&listed, &alice, json!({ "visibility": "sometimes" }))
        .await
        .fails(400, "M_INVALID_PARAM");
    let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
    server
        .put(&send, &alice, Value::Null)
        .await
        .fails(400, "M_NOT_JSON");
    server.put(&send, &alice, json!({})).await.ok();
    let state = format!("/_matrix/client/v3/rooms/{room}/state/org.example.empty");
    server
        .put(&state, &alice, Value::Null)
        .await
        .fails(400, "M_NOT_JSON");
}

#[tokio::test]
async fn what_may_be_left_out_may_be() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room = server.create(&alice, json!({})).await;
    let typing = format!("/_matrix/client/v3/rooms/{room}/typing/@alice:example.org");
    server
        .put(&typing, &alice, json!({ "typing": true }))
        .await
        .ok();
    let said = server.say(&room, &alice, "1", "one").await;
    server.say(&room, &alice, "2", "two").await;
    let context = format!("/_matrix/client/v3/rooms/{room}/context/{said}?limit=0");
    let context = server.get(&context, &alice).await.ok();
    assert_eq!(
        (&context["events_before"], &context["events_after"]),
        (&json!([]), &json!([]))
    );
}

#[tokio::test]
async fn members_redact_only_what_is_theirs() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server
        .create(&alice, json!({ "preset": "public_chat" }))
        .await;
    server
        .in_room(Method::POST, &room, "join", &bob, json!({}))
        .await
        .ok();
    let said = server.say(&room, &alice, "1", "mine").await;
    let redact = format!("/_matrix/client/v3/rooms/{room}/redact/{said}/2");
    server
        .put(&redact, &bob, json!({}))
        .await
        .fails(403, "M_FORBIDDEN");
    let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.redaction/3");
    server
        .put(&send, &bob, json!({ "redacts": said }))
        .await
        .fails(403, "M_FORBIDDEN");
    let event = format!("/_matrix/client/v3/rooms/{room}/event/{said}");
    assert_eq!(
        server.get(&event, &bob).await.ok()["content"]["body"],
        "mine"
    );
}

#[tokio::test]
async fn who_is_ignored_is_not_read() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server
        .create(&alice, json!({ "preset": "public_chat" }))
        .await;
    server
        .in_room(Method::POST, &room, "join", &bob, json!({}))
        .await
        .ok();
    let before = server.say(&room, &bob, "1", "mine").await;
    server.say(&room, &alice, "2", "noise").await;
    let list = json!({ "ignored_users": { "@alice:example.org": {} } });
    let path = "/_matrix/client/v3/user/@bob:example.org/account_data/m.ignored_user_list";
    server.put(path, &bob, list).await.ok();
    let base = format!("/_matrix/client/v3/rooms/{room}");
    for path in [
        format!("{base}/messages?dir=b&limit=50"),
        format!("{base}/context/{before}?limit=50"),
    ] {
        let read = server.get(&path, &bob).await.ok().to_string();
        assert!(
            !read.contains("noise") && read.contains("m.room.create"),
            "{read}"
        );
        assert!(
            server
                .get(&path, &alice)
                .await
                .ok()
                .to_string()
                .contains("noise")
        );
    }
}
