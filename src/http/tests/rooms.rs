//! Rooms, over the router.

use http::Method;
use serde_json::{Value, json};

use super::Server;

impl Server {
    pub async fn create(&self, token: &str, body: Value) -> String {
        let got = self
            .post("/_matrix/client/v3/createRoom", token, body)
            .await
            .ok();
        got["room_id"].as_str().unwrap().to_owned()
    }

    pub async fn in_room(
        &self,
        method: Method,
        room: &str,
        path: &str,
        token: &str,
        body: Value,
    ) -> super::Got {
        let path = format!("/_matrix/client/v3/rooms/{room}/{path}");
        self.ask(method, &path, Some(token), body).await
    }

    pub async fn say(&self, room: &str, token: &str, txn: &str, text: &str) -> String {
        let body = json!({ "msgtype": "m.text", "body": text });
        let path = format!("send/m.room.message/{txn}");
        let got = self
            .in_room(Method::PUT, room, &path, token, body)
            .await
            .ok();
        got["event_id"].as_str().unwrap().to_owned()
    }
}

/// A place in the middle of the room's creation.
async fn page_end(server: &Server, room: &str, token: &str) -> String {
    let page = server
        .in_room(
            Method::GET,
            room,
            "messages?dir=f&limit=4",
            token,
            Value::Null,
        )
        .await;
    page.ok()["end"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_room_from_its_creation_to_its_end() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server
        .create(
            &alice,
            json!({ "preset": "public_chat", "name": "Tea", "room_alias_name": "tea" }),
        )
        .await;

    let bobs = server
        .in_room(Method::GET, &room, "state", &bob, Value::Null)
        .await;
    bobs.fails(403, "M_FORBIDDEN");
    let joined = server
        .post(
            "/_matrix/client/v3/join/%23tea:example.org",
            &bob,
            json!({}),
        )
        .await
        .ok();
    assert_eq!(joined["room_id"], json!(room));
    let rooms = server
        .get("/_matrix/client/v3/joined_rooms", &bob)
        .await
        .ok();
    assert_eq!(rooms["joined_rooms"], json!([room]));

    let first = server.say(&room, &alice, "1", "hello").await;
    assert_eq!(
        server.say(&room, &alice, "1", "hello").await,
        first,
        "a transaction is done once"
    );
    let name = server
        .in_room(Method::GET, &room, "state/m.room.name", &bob, Value::Null)
        .await
        .ok();
    assert_eq!(name, json!({ "name": "Tea" }));
    let name = server
        .in_room(
            Method::GET,
            &room,
            "state/m.room.name/?format=event",
            &bob,
            Value::Null,
        )
        .await
        .ok();
    assert_eq!(
        (&name["type"], &name["state_key"]),
        (&json!("m.room.name"), &json!(""))
    );
    let none = server
        .in_room(Method::GET, &room, "state/m.room.topic", &bob, Value::Null)
        .await;
    none.fails(404, "M_NOT_FOUND");

    let members = server
        .in_room(
            Method::GET,
            &room,
            "members?membership=join",
            &bob,
            Value::Null,
        )
        .await
        .ok();
    assert_eq!(members["chunk"].as_array().unwrap().len(), 2);
    let members = server
        .in_room(Method::GET, &room, "joined_members", &bob, Value::Null)
        .await
        .ok();
    assert!(members["joined"]["@alice:example.org"].is_object());

    let path = format!("redact/{first}/2");
    server
        .in_room(
            Method::PUT,
            &room,
            &path,
            &alice,
            json!({ "reason": "typo" }),
        )
        .await
        .ok();
    let event = server
        .in_room(
            Method::GET,
            &room,
            &format!("event/{first}"),
            &bob,
            Value::Null,
        )
        .await
        .ok();
    assert_eq!(event["content"], json!({}));
    assert_eq!(
        event["unsigned"]["redacted_because"]["content"]["reason"],
        "typo"
    );

    server
        .in_room(Method::POST, &room, "leave", &bob, json!({}))
        .await
        .ok();
    server
        .in_room(Method::POST, &room, "forget", &alice, json!({}))
        .await
        .fails(400, "M_UNKNOWN");
    server
        .in_room(Method::POST, &room, "forget", &bob, json!({}))
        .await
        .ok();
    let then = format!("members?at={}", page_end(&server, &room, &alice).await);
    let then = server
        .in_room(Method::GET, &room, &then, &alice, Value::Null)
        .await
        .ok();
    assert_eq!(
        then["chunk"].as_array().unwrap().len(),
        1,
        "before bob came"
    );
    let gone = server
        .in_room(Method::GET, &room, "members", &bob, Value::Null)
        .await;
    assert_ne!(gone.status.as_u16(), 200);
}

#[tokio::test]
async fn what_is_no_event_or_too_large_is_refused() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room = server.create(&alice, json!({})).await;
    let send = |body: Value| server.in_room(Method::PUT, &room, "send/m.x/1", &alice, body);
    send(json!({ "body": 1.5 })).await.fails(400, "M_BAD_JSON");
    send(json!([])).await.fails(400, "M_BAD_JSON");
    send(json!({ "body": "x".repeat(70_000) }))
        .await
        .fails(413, "M_TOO_LARGE");
    let state = server
        .in_room(
            Method::PUT,
            &room,
            "state/m.x",
            &alice,
            json!({ "body": "x".repeat(70_000) }),
        )
        .await;
    state.fails(413, "M_TOO_LARGE");
    let again = server.in_room(
        Method::PUT,
        &room,
        "state/m.room.create",
        &alice,
        json!({ "a": 1 }),
    );
    again.await.fails(400, "M_BAD_JSON");
    let elsewhere = server
        .in_room(
            Method::PUT,
            "!none:example.org",
            "send/m.x/1",
            &alice,
            json!({}),
        )
        .await;
    elsewhere.fails(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn creations_that_are_refused() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let create = |body: Value| server.post("/_matrix/client/v3/createRoom", &alice, body);
    create(json!({ "name": ["a"] }))
        .await
        .fails(400, "M_BAD_JSON");
    create(json!({ "room_version": 1 }))
        .await
        .fails(400, "M_BAD_JSON");
    create(json!({ "room_version": "ahfgwjyerhgiuveisbruvybseyrugvi" }))
        .await
        .fails(400, "M_UNSUPPORTED_ROOM_VERSION");
    create(json!({ "room_alias_name": "a" })).await.ok();
    create(json!({ "room_alias_name": "a" }))
        .await
        .fails(400, "M_ROOM_IN_USE");
}

#[tokio::test]
async fn history_both_ways_and_around_an_event() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room = server.create(&alice, json!({})).await;
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.push(
            server
                .say(&room, &alice, &n.to_string(), &n.to_string())
                .await,
        );
    }
    let page = |query: String| {
        let (server, room, alice) = (&server, &room, &alice);
        async move {
            server
                .in_room(
                    Method::GET,
                    room,
                    &format!("messages?{query}"),
                    alice,
                    Value::Null,
                )
                .await
                .ok()
        }
    };
    let said = |page: &Value| -> Vec<String> {
        let chunk = page["chunk"].as_array().unwrap();
        chunk
            .iter()
            .map(|event| event["event_id"].as_str().unwrap().to_owned())
            .collect()
    };
    let newest = page("dir=b&limit=3".into()).await;
    assert_eq!(
        said(&newest),
        [ids[6].clone(), ids[5].clone(), ids[4].clone()]
    );
    let end = newest["end"].as_str().unwrap();
    let older = page(format!("dir=b&limit=2&from={end}")).await;
    assert_eq!(said(&older), [ids[3].clone(), ids[2].clone()]);
    let back = page(format!("dir=f&limit=2&from={end}")).await;
    assert_eq!(said(&back), [ids[4].clone(), ids[5].clone()]);
    let filter = "%7B%22types%22%3A%5B%22m.room.create%22%5D%7D";
    let created = page(format!("dir=f&filter={filter}")).await;
    assert_eq!(created["chunk"][0]["type"], "m.room.create");
    let lazy = "%7B%22lazy_load_members%22%3Atrue%7D";
    let lazy = page(format!("dir=b&limit=1&filter={lazy}")).await;
    assert_eq!(lazy["state"][0]["state_key"], "@alice:example.org");

    let around = format!("context/{}?limit=2", ids[3]);
    let around = server
        .in_room(Method::GET, &room, &around, &alice, Value::Null)
        .await
        .ok();
    assert_eq!(around["event"]["event_id"], json!(ids[3]));
    assert_eq!(around["events_before"][0]["event_id"], json!(ids[2]));
    assert_eq!(around["events_after"][0]["event_id"], json!(ids[4]));
    let on = format!("dir=f&limit=1&from={}", around["end"].as_str().unwrap());
    assert_eq!(said(&page(on).await), [ids[5].clone()]);
    let on = format!("dir=b&limit=1&from={}", around["start"].as_str().unwrap());
    assert_eq!(said(&page(on).await), [ids[1].clone()]);
}

#[tokio::test]
async fn a_stranger_learns_nothing_of_a_private_room() {
    let server = Server::start().await;
    let (alice, eve) = (server.user("alice").await, server.user("eve").await);
    let room = server
        .create(&alice, json!({ "preset": "private_chat" }))
        .await;
    let event = server.say(&room, &alice, "1", "secret").await;
    let reads = [
        "state",
        "state/m.room.create",
        "members",
        "joined_members",
        "messages?dir=b",
        "aliases",
    ];
    for path in reads {
        let there = server
            .in_room(Method::GET, &room, path, &eve, Value::Null)
            .await;
        there.fails(403, "M_FORBIDDEN");
    }
    for path in [format!("event/{event}"), format!("context/{event}")] {
        let there = server
            .in_room(Method::GET, &room, &path, &eve, Value::Null)
            .await;
        there.fails(404, "M_NOT_FOUND");
        let nowhere = server
            .in_room(Method::GET, "!none:example.org", &path, &eve, Value::Null)
            .await;
        assert_eq!((nowhere.status, nowhere.body), (there.status, there.body));
    }
}

#[tokio::test]
async fn clients_of_old_leave_out_bodies_and_directions() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server
        .create(&alice, json!({ "preset": "public_chat" }))
        .await;
    let join = format!("/_matrix/client/v3/join/{room}");
    server.post(&join, &bob, Value::Null).await.ok();
    let page = server
        .in_room(Method::GET, &room, "messages?limit=1", &bob, Value::Null)
        .await
        .ok();
    assert_eq!(page["chunk"][0]["type"], "m.room.create");
    let capabilities = server
        .get("/_matrix/client/v3/capabilities", &alice)
        .await
        .ok();
    assert_eq!(
        capabilities["capabilities"]["m.room_versions"]["available"]["12"],
        "stable"
    );
    assert_eq!(
        capabilities["capabilities"]["m.change_password"]["enabled"],
        true
    );
}

#[tokio::test]
async fn guests_enter_only_where_the_room_lets_them() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let guest = server
        .ask(
            Method::POST,
            "/_matrix/client/v3/register?kind=guest",
            None,
            json!({}),
        )
        .await
        .ok();
    let guest = guest["access_token"].as_str().unwrap();
    let open = json!({ "preset": "public_chat", "initial_state": [
        { "type": "m.room.guest_access", "content": { "guest_access": "can_join" } }
    ] });
    let open = server.create(&alice, open).await;
    let closed = server
        .create(&alice, json!({ "preset": "public_chat" }))
        .await;
    server
        .in_room(Method::POST, &open, "join", guest, json!({}))
        .await
        .ok();
    let refused = server
        .in_room(Method::POST, &closed, "join", guest, json!({}))
        .await;
    refused.fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    server.say(&open, guest, "1", "hi").await;
}

#[tokio::test]
async fn aliases_and_the_directory() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server
        .create(&alice, json!({ "visibility": "public", "name": "Tea" }))
        .await;
    let alias = "/_matrix/client/v3/directory/room/%23caf%C3%A9:example.org";
    server.get(alias, "").await.fails(404, "M_NOT_FOUND");
    server
        .put(alias, &bob, json!({ "room_id": room }))
        .await
        .fails(403, "M_FORBIDDEN");
    let bobs = server
        .in_room(
            Method::POST,
            &room,
            "invite",
            &alice,
            json!({ "user_id": "@bob:example.org" }),
        )
        .await;
    bobs.ok();
    server
        .in_room(Method::POST, &room, "join", &bob, json!({}))
        .await
        .ok();
    server
        .put(alias, &bob, json!({ "room_id": room }))
        .await
        .ok();
    server
        .put(alias, &bob, json!({ "room_id": room }))
        .await
        .fails(409, "M_UNKNOWN");
    assert_eq!(server.get(alias, "").await.ok()["room_id"], json!(room));
    let listed = server
        .in_room(Method::GET, &room, "aliases", &alice, Value::Null)
        .await
        .ok();
    assert_eq!(listed["aliases"], json!(["#café:example.org"]));
    server
        .ask(Method::DELETE, alias, Some(&bob), Value::Null)
        .await
        .ok();

    let public = "/_matrix/client/v3/publicRooms";
    let all = server.get(public, "").await.ok();
    assert_eq!(all["chunk"][0]["room_id"], json!(room));
    let search = |term: &str| {
        let body = json!({ "filter": { "generic_search_term": term } });
        server.post(public, &bob, body)
    };
    assert_eq!(
        search("tea").await.ok()["chunk"].as_array().unwrap().len(),
        1
    );
    assert_eq!(
        search("coffee").await.ok()["chunk"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    let listing = format!("/_matrix/client/v3/directory/list/room/{room}");
    server
        .put(&listing, &bob, json!({ "visibility": "private" }))
        .await
        .fails(403, "M_FORBIDDEN");
    server
        .put(&listing, &alice, json!({ "visibility": "private" }))
        .await
        .ok();
    assert_eq!(server.get(&listing, "").await.ok()["visibility"], "private");
}

#[tokio::test]
async fn sync_tells_what_is_new_and_where_to_go_on() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server
        .create(&alice, json!({ "preset": "public_chat" }))
        .await;
    let sync = |query: String| {
        let (server, bob) = (&server, &bob);
        async move {
            server
                .get(&format!("/_matrix/client/v3/sync?{query}"), bob)
                .await
        }
    };
    let start = sync("timeout=0".into()).await.ok();
    let since = start["next_batch"].as_str().unwrap();
    server
        .in_room(Method::POST, &room, "join", &bob, json!({}))
        .await
        .ok();
    let event = server.say(&room, &alice, "1", "hello").await;
    let news = sync(format!("since={since}&timeout=0")).await.ok();
    let timeline = news["rooms"]["join"][&room]["timeline"]["events"]
        .as_array()
        .unwrap();
    assert_eq!(timeline.last().unwrap()["event_id"], json!(event));
    sync("since=nonsense".into())
        .await
        .fails(400, "M_INVALID_PARAM");
    sync("filter=99".into()).await.fails(400, "M_INVALID_PARAM");

    server
        .in_room(
            Method::PUT,
            &room,
            "typing/@alice:example.org",
            &alice,
            json!({ "typing": true, "timeout": 30000 }),
        )
        .await
        .ok();
    let read = format!("receipt/m.read/{event}");
    server
        .in_room(Method::POST, &room, &read, &alice, json!({}))
        .await
        .ok();
    let since = news["next_batch"].as_str().unwrap();
    let news = sync(format!("since={since}&timeout=0")).await.ok();
    let ephemeral = news["rooms"]["join"][&room]["ephemeral"]["events"].to_string();
    assert!(
        ephemeral.contains("m.typing") && ephemeral.contains("m.receipt"),
        "{ephemeral}"
    );
    let marker = json!({ "m.fully_read": event });
    server
        .in_room(Method::POST, &room, "read_markers", &bob, marker)
        .await
        .ok();
    let path =
        format!("/_matrix/client/v3/user/@bob:example.org/rooms/{room}/account_data/m.fully_read");
    assert_eq!(server.get(&path, &bob).await.ok()["event_id"], json!(event));
}

#[tokio::test]
async fn what_was_redacted_is_for_members_who_may_redact() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = server
        .create(&alice, json!({ "preset": "public_chat" }))
        .await;
    let join = format!("/_matrix/client/v3/join/{room}");
    server.post(&join, &bob, json!({})).await.ok();
    let said = server.say(&room, &bob, "1", "a secret").await;
    let redact = format!("redact/{said}/r");
    server
        .in_room(Method::PUT, &room, &redact, &bob, json!({}))
        .await
        .ok();
    let plain = format!("event/{said}");
    let whole = format!("{plain}?fi.mau.msc2815.include_unredacted_content=true");
    let get = |path: &str, who: &str| {
        let (path, who) = (path.to_owned(), who.to_owned());
        let (server, room) = (&server, &room);
        async move {
            let got = server.in_room(Method::GET, room, &path, &who, Value::Null);
            got.await
        }
    };
    let shown = get(&plain, &alice).await.ok();
    assert_eq!(shown["content"], json!({}));
    let shown = get(&whole, &alice).await.ok();
    assert_eq!(shown["content"]["body"], "a secret");
    // Not even who said it.
    get(&whole, &bob).await.fails(403, "M_FORBIDDEN");
    // Nor who was put out, whatever power they had.
    let levels = json!({ "users": { "@bob:example.org": 60 }, "redact": 50 });
    let path = "state/m.room.power_levels";
    server
        .in_room(Method::PUT, &room, path, &alice, levels)
        .await
        .ok();
    assert_eq!(get(&whole, &bob).await.ok()["content"]["body"], "a secret");
    server
        .in_room(Method::POST, &room, "leave", &bob, json!({}))
        .await
        .ok();
    get(&plain, &bob).await.ok();
    get(&whole, &bob).await.fails(403, "M_FORBIDDEN");
    // Of what was not redacted there is nothing to show.
    let said = server.say(&room, &alice, "2", "in the open").await;
    let whole = format!("event/{said}?fi.mau.msc2815.include_unredacted_content=true");
    assert_eq!(
        get(&whole, &alice).await.ok()["content"]["body"],
        "in the open"
    );
}

#[tokio::test]
async fn invites_to_a_new_room_have_the_reason_that_was_given() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    server.user("bob").await;
    let reason = "uk.timedout.msc4491.invite_reason";
    for (given, expected) in [
        (json!("we met"), json!("we met")),
        (json!(""), Value::Null),
        (Value::Null, Value::Null),
    ] {
        let body = json!({ "invite": ["@bob:example.org"], "is_direct": true, (reason): given });
        let room = server.create(&alice, body).await;
        let path = "state/m.room.member/@bob:example.org";
        let member = server
            .in_room(Method::GET, &room, path, &alice, Value::Null)
            .await
            .ok();
        assert_eq!(member["reason"], expected);
        assert_eq!(member["is_direct"], true);
    }
    let body = json!({ (reason): 1 });
    server
        .post("/_matrix/client/v3/createRoom", &alice, body)
        .await
        .fails(400, "M_BAD_JSON");
}

/// Sticky events (MSC4354): both ways to send, the longest duration, and where clients look for them.
#[tokio::test]
async fn an_event_is_sent_as_a_sticky_one() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let made = server
        .post("/_matrix/client/v3/createRoom", &alice, json!({}))
        .await
        .ok();
    let room = made["room_id"].as_str().unwrap().to_owned();
    let at = |kind: &str, ms: &str| {
        format!("/_matrix/client/v3/rooms/{room}/{kind}?org.matrix.msc4354.sticky_duration_ms={ms}")
    };
    for bad in ["3600001", "-1", "soon"] {
        server
            .put(&at("send/m.rtc.member/bad", bad), &alice, json!({}))
            .await
            .fails(400, "M_INVALID_PARAM");
    }
    let sent = at("send/m.rtc.member/txn", "3600000");
    let first = server.put(&sent, &alice, json!({})).await.ok();
    assert_eq!(server.put(&sent, &alice, json!({})).await.ok(), first);
    let state = at("state/org.example.state/key", "600000");
    server.put(&state, &alice, json!({})).await.ok();
    let filter = "filter={\"room\":{\"timeline\":{\"limit\":1,\"not_types\":[\"*\"]}}}";
    let filter = filter
        .replace('"', "%22")
        .replace('{', "%7B")
        .replace('}', "%7D");
    let sync = format!("/_matrix/client/v3/sync?{filter}");
    let sync = server.get(&sync, &alice).await.ok();
    let told = &sync["rooms"]["join"][&room]["msc4354_sticky"]["events"];
    let kinds: Vec<_> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["type"])
        .collect();
    assert_eq!(kinds, ["m.rtc.member", "org.example.state"], "{sync}");
    assert_eq!(
        told[0]["msc4354_sticky"],
        json!({ "duration_ms": 3_600_000 })
    );
    assert!(told[0]["unsigned"]["msc4354_sticky_duration_ttl_ms"].is_u64());
    let versions = server.get("/_matrix/client/versions", &alice).await.ok();
    assert_eq!(versions["unstable_features"]["org.matrix.msc4354"], true);
}
