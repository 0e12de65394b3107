//! The endpoints that operators' tools use: rooms and reports.

use http::Method;
use serde_json::{Value, json};

use super::Server;

const ROOMS: &str = "/_synapse/admin/v1/rooms";

struct World {
    server: Server,
    root: String,
    alice: String,
    bob: String,
    /// A room of alice.
    room: String,
}

async fn world() -> World {
    let server = Server::start().await;
    let (root, alice) = (server.operator().await, server.user("alice").await);
    let bob = server.user("bob").await;
    let room = server.room(&alice).await;
    World {
        server,
        root,
        alice,
        bob,
        room,
    }
}

impl World {
    async fn private_room(&self, name: &str) -> String {
        let room = json!({ "preset": "private_chat", "name": name });
        let path = "/_matrix/client/v3/createRoom";
        let got = self.server.post(path, &self.alice, room).await.ok();
        got["room_id"].as_str().unwrap().to_owned()
    }

    async fn join(&self, token: &str, room: &str) -> super::Got {
        let path = format!("/_matrix/client/v3/join/{room}");
        self.server.post(&path, token, json!({})).await
    }

    async fn say(&self, room: &str, text: &str) -> String {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{text}");
        let content = json!({ "msgtype": "m.text", "body": text });
        let got = self.server.put(&path, &self.alice, content).await.ok();
        got["event_id"].as_str().unwrap().to_owned()
    }

    async fn of(&self, path: &str) -> Value {
        self.server
            .get(&format!("{ROOMS}{path}"), &self.root)
            .await
            .ok()
    }
}

fn ids(list: &Value) -> Vec<&str> {
    let rooms = list["rooms"].as_array().unwrap().iter();
    rooms
        .map(|room| room["room_id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn rooms_are_found_and_described_to_who_is_in_none_of_them() {
    let world = world().await;
    let secret = world.private_room("Zebra").await;
    world.join(&world.bob, &world.room).await.ok();
    let list = world.of("").await;
    assert_eq!(list["total_rooms"], 2);
    // By name: "Zebra" before "a room", as bytes go.
    assert_eq!(ids(&list), [&*secret, &*world.room]);
    assert_eq!(ids(&world.of("?dir=b").await), [&*world.room, &*secret]);
    assert_eq!(
        ids(&world.of("?order_by=joined_members").await),
        [&*world.room, &*secret]
    );
    assert_eq!(ids(&world.of("?search_term=ZEB").await), [&*secret]);
    assert_eq!(ids(&world.of("?empty_rooms=true").await), [""; 0]);
    assert_eq!(ids(&world.of("?public_rooms=false").await).len(), 2);
    let page = world.of("?limit=1").await;
    assert_eq!(
        (&page["next_batch"], page.get("prev_batch")),
        (&json!(1), None)
    );
    let page = world.of("?limit=1&from=1").await;
    assert_eq!(
        (page.get("next_batch"), &page["prev_batch"]),
        (None, &json!(0))
    );
    let entry = &page["rooms"][0];
    let wanted = json!({
        "room_id": world.room, "name": "a room", "canonical_alias": null, "joined_members": 2,
        "joined_local_members": 2, "version": "12", "creator": "@alice:example.org",
        "encryption": null, "federatable": true, "public": false, "join_rules": "public",
        "guest_access": null, "history_visibility": "shared",
        "state_events": entry["state_events"], "room_type": null,
    });
    assert_eq!(*entry, wanted);
    assert!(entry["state_events"].as_u64().unwrap() >= 6);

    let one = world.of(&format!("/{}", world.room)).await;
    assert_eq!(one["joined_local_devices"], 2);
    assert_eq!(
        (&one["forgotten"], &one["tombstoned"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(one["replacement_room"], Value::Null);
    let members = world.of(&format!("/{}/members", world.room)).await;
    assert_eq!(members["total"], 2);
    let state = world.of(&format!("/{secret}/state?type=m.room.name")).await;
    assert_eq!(state["state"][0]["content"]["name"], "Zebra");
    assert_eq!(state["state"].as_array().unwrap().len(), 1);
    for (path, status) in [
        ("/!no:example.org", 404),
        ("/nonsense", 400),
        ("?order_by=x", 400),
        ("?search_term=", 400),
    ] {
        let got = world
            .server
            .get(&format!("{ROOMS}{path}"), &world.root)
            .await;
        assert_eq!(got.status.as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn what_was_said_is_read_by_operators_who_are_not_in_the_room() {
    let world = world().await;
    let secret = world.private_room("secret").await;
    let first = world.say(&secret, "one").await;
    world.say(&secret, "two").await;
    let plain = format!("/_matrix/client/v3/rooms/{secret}/messages?dir=b");
    let got = world.server.get(&plain, &world.root).await;
    got.fails(403, "M_FORBIDDEN");
    let got = world.of(&format!("/{secret}/messages?dir=b&limit=2")).await;
    let said: Vec<&str> = got["chunk"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["content"]["body"].as_str().unwrap())
        .collect();
    assert_eq!(said, ["two", "one"]);
    let end = got["end"].as_str().unwrap();
    let got = world
        .of(&format!("/{secret}/messages?dir=b&from={end}"))
        .await;
    assert!(got["chunk"].as_array().unwrap().len() >= 6);
    let filter = r#"{"types":["m.room.create"]}"#.replace('"', "%22");
    let got = world
        .of(&format!("/{secret}/messages?filter={filter}"))
        .await;
    assert_eq!(got["chunk"][0]["type"], "m.room.create");
    let got = world
        .of(&format!("/{secret}/context/{first}?limit=2"))
        .await;
    assert_eq!(got["event"]["event_id"], *first);
    assert_eq!(got["events_after"][0]["content"]["body"], "two");
    let got = world
        .of(&format!("/{secret}/timestamp_to_event?ts=0"))
        .await;
    assert!(got["event_id"].is_string());
    let got = world.of(&format!("/{secret}/forward_extremities")).await;
    assert_eq!(got["count"], 1);
}

#[tokio::test]
async fn nobody_gets_into_a_blocked_room() {
    let world = world().await;
    let path = format!("{ROOMS}/{}/block", world.room);
    let block = |on: bool| world.server.put(&path, &world.root, json!({ "block": on }));
    assert_eq!(block(true).await.ok(), json!({ "block": true }));
    let got = world.server.get(&path, &world.root).await.ok();
    assert_eq!(
        got,
        json!({ "block": true, "user_id": "@root:example.org" })
    );
    world
        .join(&world.bob, &world.room)
        .await
        .fails(403, "M_FORBIDDEN");
    let invite = format!("/_matrix/client/v3/rooms/{}/invite", world.room);
    let bob = json!({ "user_id": "@bob:example.org" });
    let got = world.server.post(&invite, &world.alice, bob).await;
    got.fails(403, "M_FORBIDDEN");
    // Who is in stays in.
    world.say(&world.room, "still").await;
    block(false).await.ok();
    assert_eq!(
        world.server.get(&path, &world.root).await.ok(),
        json!({ "block": false })
    );
    world.join(&world.bob, &world.room).await.ok();
    let unknown = format!("{ROOMS}/!unknown:elsewhere.example/block");
    let got = world
        .server
        .put(&unknown, &world.root, json!({ "block": true }));
    got.await.ok();
    let got = world.join(&world.bob, "!unknown:elsewhere.example").await;
    got.fails(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_room_is_shut_down_and_people_are_told_why() {
    let world = world().await;
    world.join(&world.bob, &world.room).await.ok();
    let secret = world.private_room("secret").await;
    let invite = format!("/_matrix/client/v3/rooms/{secret}/invite");
    let bob = json!({ "user_id": "@bob:example.org" });
    world.server.post(&invite, &world.alice, bob).await.ok();
    let alias = "/_matrix/client/v3/directory/room/%23bad:example.org";
    let room = json!({ "room_id": world.room });
    world.server.put(alias, &world.alice, room).await.ok();

    let delete = |version: &str, room: &str, how: Value| {
        let path = format!("/_synapse/admin/{version}/rooms/{room}");
        let (server, root) = (&world.server, &world.root);
        async move { server.ask(Method::DELETE, &path, Some(root), how).await }
    };
    let got = delete("v2", &world.room, json!({ "purge": true })).await;
    got.fails(400, "M_INVALID_PARAM");
    let how = json!({ "new_room_user_id": "@root:example.org", "block": true, "message": "Gone.", "purge": false });
    let got = delete("v2", &world.room, how).await.ok();
    let id = got["delete_id"].as_str().unwrap();
    let path = format!("/_synapse/admin/v2/rooms/delete_status/{id}");
    let done = loop {
        let got = world.server.get(&path, &world.root).await.ok();
        if got["status"] != "active" {
            break got;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(done["status"], "complete");
    let report = &done["shutdown_room"];
    let out = report["kicked_users"].as_array().unwrap();
    assert_eq!(out.len(), 2);
    assert_eq!(report["failed_to_kick_users"], json!([]));
    assert_eq!(report["local_aliases"], json!(["#bad:example.org"]));
    let new = report["new_room_id"].as_str().unwrap();
    let by_room = format!("/_synapse/admin/v2/rooms/{}/delete_status", world.room);
    let got = world.server.get(&by_room, &world.root).await.ok();
    assert_eq!(got["results"], json!([done]));
    let got = world.server.get(alias, &world.bob).await.ok();
    assert_eq!(got["room_id"], new);
    world
        .join(&world.bob, &world.room)
        .await
        .fails(403, "M_FORBIDDEN");
    let sync = "/_matrix/client/v3/sync?timeout=0";
    let got = world.server.get(sync, &world.bob).await.ok();
    let events = got["rooms"]["join"][new]["timeline"]["events"]
        .as_array()
        .unwrap();
    assert!(
        events
            .iter()
            .any(|event| event["content"]["body"] == "Gone.")
    );
    let say = format!("/_matrix/client/v3/rooms/{new}/send/m.room.message/x");
    let got = world
        .server
        .put(&say, &world.bob, json!({ "body": "but" }))
        .await;
    got.fails(403, "M_FORBIDDEN");
    let one = world.of(&format!("/{}", world.room)).await;
    assert_eq!(
        (&one["joined_members"], &one["forgotten"]),
        (&json!(0), &json!(true))
    );

    // At once, and of one who was only invited too.
    let got = delete("v1", &secret, json!({})).await.ok();
    let mut out: Vec<&str> = got["kicked_users"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user.as_str().unwrap())
        .collect();
    out.sort_unstable();
    assert_eq!(out, ["@alice:example.org", "@bob:example.org"]);
    assert_eq!(got["new_room_id"], Value::Null);
    delete("v1", "!no:example.org", json!({}))
        .await
        .fails(400, "M_UNKNOWN");
    delete("v2", "!no:example.org", json!({}))
        .await
        .fails(404, "M_NOT_FOUND");
    delete("v1", "!no:example.org", json!({ "block": true }))
        .await
        .ok();
    let gone = "/_synapse/admin/v2/rooms/delete_status/nothing";
    world
        .server
        .get(gone, &world.root)
        .await
        .fails(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn power_is_given_by_the_mightiest_of_ours() {
    let world = world().await;
    for version in ["10", "12"] {
        let room = json!({ "preset": "private_chat", "room_version": version });
        let path = "/_matrix/client/v3/createRoom";
        let got = world.server.post(path, &world.alice, room).await.ok();
        let room = got["room_id"].as_str().unwrap();
        let path = format!("{ROOMS}/{room}/make_room_admin");
        let bob = json!({ "user_id": "@bob:example.org" });
        world
            .server
            .post(&path, &world.root, bob.clone())
            .await
            .ok();
        let levels = format!("/_matrix/client/v3/rooms/{room}/state/m.room.power_levels");
        let got = world.server.get(&levels, &world.alice).await.ok();
        assert!(
            got["users"]["@bob:example.org"].as_i64().unwrap() >= 100,
            "{version}: {got}"
        );
        // The room is private: bob was invited, and may change the levels now.
        world.join(&world.bob, room).await.ok();
        world.server.put(&levels, &world.bob, got).await.ok();
        world.server.post(&path, &world.root, bob).await.ok();
    }
    let leave = format!("/_matrix/client/v3/rooms/{}/leave", world.room);
    world
        .server
        .post(&leave, &world.alice, json!({}))
        .await
        .ok();
    let path = format!("{ROOMS}/{}/make_room_admin", world.room);
    let got = world.server.post(&path, &world.root, json!({})).await;
    got.fails(400, "M_UNKNOWN");
}

#[tokio::test]
async fn operators_make_their_users_join() {
    let world = world().await;
    let bob = || json!({ "user_id": "@bob:example.org" });
    let join = |room: &str, whom: Value| {
        let path = format!("/_synapse/admin/v1/join/{room}");
        let (server, root) = (&world.server, &world.root);
        async move { server.post(&path, root, whom).await }
    };
    let got = join(&world.room, bob()).await.ok();
    assert_eq!(got, json!({ "room_id": world.room }));
    let secret = world.private_room("secret").await;
    join(&secret, bob()).await.fails(403, "M_FORBIDDEN");
    let path = format!("{ROOMS}/{secret}/make_room_admin");
    world.server.post(&path, &world.root, json!({})).await.ok();
    world.join(&world.root, &secret).await.ok();
    join(&secret, bob()).await.ok();
    let members = world.of(&format!("/{secret}/members")).await;
    assert_eq!(members["total"], 3);
    let far = json!({ "user_id": "@a:elsewhere.example" });
    join(&secret, far).await.fails(400, "M_INVALID_PARAM");
    join("%23no:example.org", bob())
        .await
        .fails(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn reports_are_listed_read_and_removed() {
    let world = world().await;
    world.join(&world.bob, &world.room).await.ok();
    let (one, two) = (
        world.say(&world.room, "one").await,
        world.say(&world.room, "two").await,
    );
    for event in [&one, &two] {
        let path = format!("/_matrix/client/v3/rooms/{}/report/{event}", world.room);
        let why = json!({ "reason": "rude", "score": -100 });
        world.server.post(&path, &world.bob, why).await.ok();
    }
    let path = format!("/_matrix/client/v3/rooms/{}/report", world.room);
    let why = json!({ "reason": "all of it" });
    world.server.post(&path, &world.bob, why).await.ok();
    let all = "/_synapse/admin/v1/event_reports";
    let get = |query: &str| {
        let (path, server, root) = (format!("{all}{query}"), &world.server, &world.root);
        async move { server.get(&path, root).await.ok() }
    };
    let got = get("").await;
    assert_eq!(got["total"], 2);
    let report = &got["event_reports"][0];
    assert_eq!(report["event_id"], *two);
    assert_eq!(
        (&report["sender"], &report["user_id"]),
        (&json!("@alice:example.org"), &json!("@bob:example.org"))
    );
    assert_eq!(
        (&report["reason"], &report["name"]),
        (&json!("rude"), &json!("a room"))
    );
    assert_eq!(get("?dir=f").await["event_reports"][0]["event_id"], *one);
    let page = get("?limit=1").await;
    assert_eq!(
        (&page["next_token"], &page["total"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(get("?user_id=@alice:example.org").await["total"], 0);
    assert_eq!(
        get("?event_sender_user_id=@alice:example.org").await["total"],
        2
    );
    let id = report["id"].as_u64().unwrap();
    let whole = get(&format!("/{id}")).await;
    assert_eq!(whole["event_json"]["content"]["body"], "two");
    let path = format!("{all}/{id}");
    let gone = world
        .server
        .ask(Method::DELETE, &path, Some(&world.root), Value::Null);
    gone.await.ok();
    world
        .server
        .get(&path, &world.root)
        .await
        .fails(404, "M_NOT_FOUND");
    assert_eq!(get("").await["total"], 1);
}
