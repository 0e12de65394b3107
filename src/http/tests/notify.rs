//! Pushers, notifications, presence, key backups, delayed events and unwanted invites, over the router.

use http::Method;
use serde_json::json;

use super::Server;

const VERSION: &str = "/_matrix/client/v3/room_keys/version";

async fn room(server: &Server, token: &str) -> String {
    let body = json!({ "preset": "public_chat" });
    let room = server.post("/_matrix/client/v3/createRoom", token, body);
    room.await.ok()["room_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn pushers_are_set_listed_and_removed() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let set = "/_matrix/client/v3/pushers/set";
    let pusher = json!({
        "kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "App",
        "device_display_name": "Phone", "lang": "en",
        "data": { "url": "https://push.example/_matrix/push/v1/notify", "custom": 1 },
    });
    server.post(set, &alice, pusher.clone()).await.ok();
    let listed = server.get("/_matrix/client/v3/pushers", &alice).await.ok();
    assert_eq!(listed["pushers"], json!([pusher]));
    let mut plain = pusher;
    plain["data"]["url"] = json!("http://push.example/_matrix/push/v1/notify");
    let refused = server.post(set, &alice, plain).await;
    refused.fails(400, "M_INVALID_PARAM");
    let none = json!({ "kind": null, "app_id": "app", "pushkey": "key" });
    server.post(set, &alice, none).await.ok();
    let listed = server.get("/_matrix/client/v3/pushers", &alice).await.ok();
    assert_eq!(listed["pushers"], json!([]));
}

#[tokio::test]
async fn what_one_is_notified_of_is_counted_and_listed() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = room(&server, &alice).await;
    let join = format!("/_matrix/client/v3/join/{room}");
    server.post(&join, &bob, json!({})).await.ok();
    let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
    let content = json!({ "msgtype": "m.text", "body": "hey" });
    server.put(&send, &alice, content).await.ok();
    let sync = server.get("/_matrix/client/v3/sync", &bob).await.ok();
    assert_eq!(
        sync["rooms"]["join"][&room]["unread_notifications"],
        json!({ "notification_count": 1, "highlight_count": 0 })
    );
    let list = server.get("/_matrix/client/v3/notifications", &bob).await;
    let list = list.ok()["notifications"].clone();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["event"]["content"]["body"], "hey");
    assert_eq!(list[0]["read"], false);
    let bad = "/_matrix/client/v3/notifications?from=nonsense";
    server.get(bad, &bob).await.fails(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn presence_is_for_those_who_share_a_room() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let of_alice = "/_matrix/client/v3/presence/@alice:example.org/status";
    let body = json!({ "presence": "unavailable", "status_msg": "tea" });
    server
        .put(of_alice, &bob, body.clone())
        .await
        .fails(403, "M_FORBIDDEN");
    server.put(of_alice, &alice, body).await.ok();
    server.get(of_alice, &bob).await.fails(403, "M_FORBIDDEN");
    let room = room(&server, &bob).await;
    let join = format!("/_matrix/client/v3/join/{room}");
    server.post(&join, &alice, json!({})).await.ok();
    let seen = server.get(of_alice, &bob).await.ok();
    assert_eq!(seen["presence"], "unavailable");
    assert_eq!(seen["status_msg"], "tea");
    let bad = json!({ "presence": "elsewhere" });
    server
        .put(of_alice, &alice, bad)
        .await
        .fails(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn keys_are_backed_up() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    server.get(VERSION, &alice).await.fails(404, "M_NOT_FOUND");
    let described = json!({ "algorithm": "m.megolm_backup.v1", "auth_data": { "a": 1 } });
    let made = server.post(VERSION, &alice, described.clone()).await.ok();
    let version = made["version"].as_str().unwrap().to_owned();
    let keys =
        |version: &str| format!("/_matrix/client/v3/room_keys/keys/!r:h/s?version={version}");
    let key = json!({
        "first_message_index": 1, "forwarded_count": 0, "is_verified": false,
        "session_data": { "ciphertext": "x" },
    });
    let put = server.put(&keys(&version), &alice, key.clone()).await.ok();
    assert_eq!(put["count"], 1);
    assert_eq!(server.get(&keys(&version), &alice).await.ok(), key);
    let info = server.get(VERSION, &alice).await.ok();
    assert_eq!(
        (&info["auth_data"], &info["etag"]),
        (&json!({ "a": 1 }), &put["etag"])
    );

    let newer = server.post(VERSION, &alice, described.clone()).await.ok();
    let old = server.put(&keys(&version), &alice, key.clone()).await;
    old.fails(403, "M_WRONG_ROOM_KEYS_VERSION");
    assert_eq!(old.body["current_version"], newer["version"]);
    server
        .put(&keys("99"), &alice, key)
        .await
        .fails(404, "M_NOT_FOUND");

    let path = format!("{VERSION}/{version}");
    let other = json!({ "algorithm": "another", "auth_data": {} });
    server
        .put(&path, &alice, other)
        .await
        .fails(400, "M_INVALID_PARAM");
    let mut wrong = described;
    wrong["version"] = json!("99");
    server
        .put(&path, &alice, wrong)
        .await
        .fails(400, "M_INVALID_PARAM");
    let gone = server
        .ask(Method::DELETE, &path, Some(&alice), json!({}))
        .await;
    gone.ok();
    server
        .get(&keys(&version), &alice)
        .await
        .fails(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn an_event_is_sent_later_or_not_at_all() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room = room(&server, &alice).await;
    let state = format!("/_matrix/client/v3/rooms/{room}/state/org.example/");
    let later = format!("{state}?org.matrix.msc4140.delay=60000");
    let kept = server.put(&later, &alice, json!({ "n": 1 })).await.ok();
    let id = kept["delay_id"].as_str().unwrap();
    server.get(&state, &alice).await.fails(404, "M_NOT_FOUND");
    let all = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
    let listed = server.get(all, &alice).await.ok();
    assert_eq!(listed["delayed_events"][0]["content"], json!({ "n": 1 }));
    let now = format!("{all}/{id}/send");
    server.ask(Method::POST, &now, None, json!({})).await.ok();
    assert_eq!(server.get(&state, &alice).await.ok(), json!({ "n": 1 }));
    let again = server.ask(Method::POST, &now, None, json!({})).await;
    again.fails(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn who_wants_no_invites_gets_none() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let config = "/_matrix/client/v3/user/@bob:example.org/account_data/m.invite_permission_config";
    let block = json!({ "default_action": "block" });
    server.put(config, &bob, block).await.ok();
    let room = room(&server, &alice).await;
    let target = json!({ "user_id": "@bob:example.org" });
    let invite = format!("/_matrix/client/v3/rooms/{room}/invite");
    let refused = server.post(&invite, &alice, target).await;
    refused.fails(403, "M_INVITE_BLOCKED");
    let state = format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/@bob:example.org");
    let member = json!({ "membership": "invite" });
    let refused = server.put(&state, &alice, member).await;
    refused.fails(403, "M_INVITE_BLOCKED");
    server.put(config, &bob, json!({})).await.ok();
    let target = json!({ "user_id": "@bob:example.org" });
    server.post(&invite, &alice, target).await.ok();
}
