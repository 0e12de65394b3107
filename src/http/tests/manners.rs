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
    let body = json!({ "type": "m.login.password", "password": "correct horse", "device_id": "",
                       "identifier": { "type": "m.id.user", "user": "alice" } });
    let got = server
        .ask(Method::POST, "/_matrix/client/v3/login", None, body)
        .await
        .ok();
    assert_ne!(got["device_id"], "");
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
    let threads = format!("/_matrix/client/v1/rooms/{room}/threads?include=some");
    server
        .get(&threads, &alice)
        .await
        .fails(400, "M_INVALID_PARAM");
    for odd in [
        json!({ "order_by": "chance" }),
        json!({ "groupings": { "group_by": [{ "key": "weekday" }] } }),
    ] {
        let mut search = odd;
        search["search_term"] = "word".into();
        let body = json!({ "search_categories": { "room_events": search } });
        server
            .post("/_matrix/client/v3/search", &alice, body)
            .await
            .fails(400, "M_INVALID_PARAM");
    }
    let keys = "/_matrix/client/v3/keys/upload";
    for key in [json!(5), json!(null), json!(["key"])] {
        let body = json!({ "one_time_keys": { "signed_curve25519:A": key } });
        server
            .post(keys, &alice, body)
            .await
            .fails(400, "M_INVALID_PARAM");
    }
    let to_device = "/_matrix/client/v3/sendToDevice/m.test/1";
    for server_name in ["example.org", "elsewhere"] {
        let user = format!("@alice:{server_name}");
        let body = json!({ "messages": { user: { "*": "no object" } } });
        server
            .put(to_device, &alice, body)
            .await
            .fails(400, "M_BAD_JSON");
    }
}

#[tokio::test]
async fn a_redaction_of_something_else_is_another_transaction() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    for version in ["10", "11"] {
        let room = server
            .create(&alice, json!({ "room_version": version }))
            .await;
        let one = server.say(&room, &alice, "1", "one").await;
        let two = server.say(&room, &alice, "2", "two").await;
        let redact = async |event: &str| {
            let path = format!("/_matrix/client/v3/rooms/{room}/redact/{event}/same");
            server.put(&path, &alice, json!({})).await.ok()
        };
        let first = redact(&one).await;
        assert_eq!(redact(&one).await, first);
        assert_ne!(redact(&two).await, first);
        let path = format!("/_matrix/client/v3/rooms/{room}/event/{two}");
        let got = server.get(&path, &alice).await.ok();
        assert_eq!(got["content"], json!({}));
    }
}

#[tokio::test]
async fn who_was_never_there_has_nothing_to_forget() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server.create(&alice, json!({})).await;
    let path = format!("/_matrix/client/v3/rooms/{room}/forget");
    server.post(&path, &bob, json!({})).await.ok();
    server
        .post(&path, &alice, json!({}))
        .await
        .fails(400, "M_UNKNOWN");
}

#[tokio::test]
async fn a_sync_has_the_fields_that_the_filter_names() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room = server.create(&alice, json!({ "name": "Room" })).await;
    server.say(&room, &alice, "1", "hello").await;
    let filters = "/_matrix/client/v3/user/@alice:example.org/filter";
    let filter = json!({
        "event_fields": ["type", "content.body", r"content.m\.federate"],
        "room": { "timeline": { "limit": 1 } },
    });
    let filter = server.post(filters, &alice, filter).await.ok();
    let id = filter["filter_id"].as_str().unwrap();
    let sync = format!("/_matrix/client/v3/sync?filter={id}");
    let sync = server.get(&sync, &alice).await.ok();
    let room = &sync["rooms"]["join"][&room];
    assert_eq!(
        room["timeline"]["events"],
        json!([{ "type": "m.room.message", "content": { "body": "hello" } }])
    );
    let state = room["state"]["events"].as_array().unwrap();
    assert!(
        state.contains(&json!({ "type": "m.room.name" })),
        "{state:?}"
    );
}

#[tokio::test]
async fn push_rules_do_nothing_unheard_of() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let rule = "/_matrix/client/v3/pushrules/global/sender/@bob:example.org";
    for action in [json!("shout"), json!({ "tweak": "sound" })] {
        let body = json!({ "actions": [action] });
        for path in [
            rule,
            "/_matrix/client/v3/pushrules/global/override/.m.rule.master/actions",
        ] {
            let refused = server.put(path, &alice, body.clone()).await;
            refused.fails(400, "M_INVALID_PARAM");
        }
    }
    let actions = json!({ "actions": ["notify", "dont_notify", { "set_tweak": "org.example" }] });
    server.put(rule, &alice, actions).await.ok();
}

#[tokio::test]
async fn power_levels_are_integers() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let me = "@alice:example.org";
    for version in ["9", "10"] {
        let room = server
            .create(&alice, json!({ "room_version": version }))
            .await;
        let path = format!("/_matrix/client/v3/rooms/{room}/state/m.room.power_levels");
        for levels in [
            json!({ "users": { (me): "100" } }),
            json!({ "users": { (me): 100 }, "ban": null }),
            json!({ "users": { (me): 100 }, "kick": true }),
            json!({ "users": { (me): 100 }, "notifications": { "room": "20" } }),
            json!({ "users": { (me): 100, "nobody": 5 } }),
            json!({ "users": { (me): 100 }, "events": [] }),
        ] {
            let refused = server.put(&path, &alice, levels).await;
            refused.fails(400, "M_BAD_JSON");
        }
        let levels = json!({ "users": { (me): 100 }, "org.example.more": "as you like" });
        server.put(&path, &alice, levels).await.ok();
    }
}

#[tokio::test]
async fn a_receipt_is_for_a_thread_that_the_event_has_to_do_with() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room = server.create(&alice, json!({})).await;
    let root = server.say(&room, &alice, "1", "root").await;
    let other = server.say(&room, &alice, "2", "other").await;
    let related = async |rel_type: &str, to: &str, txn: &str| {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/org.example/{txn}");
        let content = json!({ "m.relates_to": { "rel_type": rel_type, "event_id": to } });
        let sent = server.put(&path, &alice, content).await.ok();
        sent["event_id"].as_str().unwrap().to_owned()
    };
    let reply = related("m.thread", &root, "3").await;
    let edit = related("m.replace", &reply, "4").await;
    let read = async |event: &str, thread: &str| {
        let path = format!("/_matrix/client/v3/rooms/{room}/receipt/m.read/{event}");
        let body = json!({ "thread_id": thread });
        server.post(&path, &alice, body).await
    };
    for event in [&root, &reply, &edit] {
        read(event, &root).await.ok();
        read(event, "main").await.ok();
    }
    for thread in [&root, "$nowhere"] {
        read(&other, thread).await.fails(400, "M_INVALID_PARAM");
    }
    // What two of them have in common is one event.
    let sync = server.get("/_matrix/client/v3/sync", &alice).await.ok();
    let told = &sync["rooms"]["join"][&room]["ephemeral"]["events"];
    assert_eq!(told.as_array().map(Vec::len), Some(2), "{told}");
}

#[tokio::test]
async fn who_is_banned_after_leaving_sees_that_in_a_first_sync() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server
        .create(&alice, json!({ "preset": "public_chat" }))
        .await;
    let path = |what: &str| format!("/_matrix/client/v3/rooms/{room}/{what}");
    server.post(&path("join"), &bob, json!({})).await.ok();
    server.post(&path("leave"), &bob, json!({})).await.ok();
    server.say(&room, &alice, "1", "not for bob").await;
    let ban = json!({ "user_id": "@bob:example.org" });
    server.post(&path("ban"), &alice, ban).await.ok();
    for (limit, expected) in [(10, &["leave", "ban"][..]), (1, &["ban"]), (0, &[])] {
        let filter = format!(
            "%7B%22room%22:%7B%22include_leave%22:true,%22timeline%22:%7B%22limit%22:{limit}%7D%7D%7D"
        );
        let sync = format!("/_matrix/client/v3/sync?filter={filter}");
        let sync = server.get(&sync, &bob).await.ok();
        let timeline = &sync["rooms"]["leave"][&room]["timeline"];
        let seen = timeline["events"].as_array().unwrap().iter();
        let seen: Vec<_> = seen
            .filter_map(|event| event["content"]["membership"].as_str())
            .filter(|membership| *membership != "join")
            .collect();
        assert_eq!(seen, expected, "{timeline}");
        assert!(timeline["events"].as_array().unwrap().len() <= limit);
    }
    // What they could read before the ban they can still read, and nothing else.
    let seen = server.get(&path("messages?dir=b"), &bob).await.ok();
    assert!(!seen.to_string().contains("not for bob"), "{seen}");
    let me = path("state/m.room.member/@bob:example.org");
    assert_eq!(server.get(&me, &bob).await.ok()["membership"], "leave");
    let carol = server.user("carol").await;
    let ban = json!({ "user_id": "@carol:example.org" });
    server.post(&path("ban"), &alice, ban).await.ok();
    server
        .get(&path("messages?dir=b"), &carol)
        .await
        .fails(403, "M_FORBIDDEN");
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
