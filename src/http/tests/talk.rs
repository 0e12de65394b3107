//! Relations, threads, spaces, search and reports, over the router.

use http::Method;
use serde_json::{Value, json};

use super::Server;

async fn create(server: &Server, token: &str, body: Value) -> String {
    let got = server
        .post("/_matrix/client/v3/createRoom", token, body)
        .await
        .ok();
    got["room_id"].as_str().unwrap().to_owned()
}

async fn send(server: &Server, token: &str, room: &str, txn: &str, content: Value) -> String {
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{txn}");
    let got = server.put(&path, token, content).await.ok();
    got["event_id"].as_str().unwrap().to_owned()
}

fn ids(events: &Value) -> Vec<&str> {
    let events = events.as_array().unwrap();
    events
        .iter()
        .map(|event| event["event_id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_thread_and_its_edit() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room = create(&server, &alice, json!({})).await;
    let text = |body: &str| json!({ "msgtype": "m.text", "body": body });
    let root = send(&server, &alice, &room, "1", text("root")).await;
    let related = |rel_type: &str| {
        let mut content = text("child");
        content["m.new_content"] = text("new");
        content["m.relates_to"] = json!({ "rel_type": rel_type, "event_id": root });
        content
    };
    let reply = send(&server, &alice, &room, "2", related("m.thread")).await;
    let edit = send(&server, &alice, &room, "3", related("m.replace")).await;

    let path = format!("/_matrix/client/v1/rooms/{room}/relations/{root}");
    let got = server.get(&path, &alice).await.ok();
    assert_eq!(ids(&got["chunk"]), [&edit, &reply]);
    let got = server
        .get(
            &format!("{path}/m.thread?limit=1&dir=f&recurse=true"),
            &alice,
        )
        .await
        .ok();
    assert_eq!(ids(&got["chunk"]), [&reply]);
    assert_eq!(got["recursion_depth"], 3);
    server
        .get(&format!("{path}?from=nonsense"), &alice)
        .await
        .fails(400, "M_INVALID_PARAM");
    let bob = server.user("bob").await;
    server.get(&path, &bob).await.fails(404, "M_NOT_FOUND");

    let threads = format!("/_matrix/client/v1/rooms/{room}/threads?include=participated");
    let got = server.get(&threads, &alice).await.ok();
    let bundle = &got["chunk"][0]["unsigned"]["m.relations"];
    assert_eq!(bundle["m.thread"]["latest_event"]["event_id"], json!(reply));
    assert_eq!(bundle["m.replace"]["event_id"], json!(edit));
    server.get(&threads, &bob).await.fails(403, "M_FORBIDDEN");

    // A client that has the whole timeline counts for itself.
    let sync = server
        .get(
            "/_matrix/client/v3/sync?filter={\"room\":{\"timeline\":{\"limit\":50}}}"
                .replace('{', "%7B")
                .replace('}', "%7D")
                .replace('"', "%22")
                .as_str(),
            &alice,
        )
        .await
        .ok();
    let events = &sync["rooms"]["join"][&room]["timeline"]["events"];
    let events = events.as_array().unwrap();
    assert!(
        events
            .iter()
            .all(|event| event["unsigned"]["m.relations"].is_null())
    );
}

#[tokio::test]
async fn a_space_and_its_rooms_in_brief() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let space = json!({ "preset": "public_chat", "name": "Space", "creation_content": { "type": "m.space" } });
    let space = create(&server, &alice, space).await;
    let room = create(
        &server,
        &alice,
        json!({ "preset": "private_chat", "name": "Room" }),
    )
    .await;
    let link = format!("/_matrix/client/v3/rooms/{space}/state/m.space.child/{room}");
    let via = json!({ "via": ["example.org"] });
    server.put(&link, &alice, via).await.ok();

    let path = format!("/_matrix/client/v1/rooms/{space}/hierarchy");
    let got = server.get(&format!("{path}?limit=1"), &alice).await.ok();
    assert_eq!(
        got["rooms"][0]["children_state"][0]["state_key"],
        json!(room)
    );
    let next = got["next_batch"].as_str().unwrap();
    let got = server
        .get(&format!("{path}?from={next}"), &alice)
        .await
        .ok();
    assert_eq!(got["rooms"][0]["name"], "Room");
    server
        .get(&format!("{path}?from={next}&max_depth=1"), &alice)
        .await
        .fails(400, "M_INVALID_PARAM");
    let got = server.get(&path, &bob).await.ok();
    assert_eq!(got["rooms"].as_array().unwrap().len(), 1);
    let closed = format!("/_matrix/client/v1/rooms/{room}/hierarchy");
    server.get(&closed, &bob).await.fails(403, "M_FORBIDDEN");

    let summary = |room: &str| format!("/_matrix/client/v1/room_summary/{room}");
    let got = server.get(&summary(&space), &bob).await.ok();
    assert_eq!(
        (&got["room_type"], &got["membership"], &got["join_rule"]),
        (&json!("m.space"), &json!("leave"), &json!("public"))
    );
    let anybody = server
        .ask(Method::GET, &summary(&space), None, Value::Null)
        .await
        .ok();
    assert_eq!(
        (&anybody["name"], anybody.get("membership")),
        (&json!("Space"), None)
    );
    server
        .get(&summary(&room), &bob)
        .await
        .fails(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn what_is_found_and_what_is_reported() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = create(
        &server,
        &alice,
        json!({ "preset": "public_chat", "topic": "birds" }),
    )
    .await;
    let mut said = Vec::new();
    for (n, body) in ["one bird", "no fish", "two birds", "a bird"]
        .iter()
        .enumerate()
    {
        let content = json!({ "msgtype": "m.text", "body": body });
        said.push(send(&server, &alice, &room, &n.to_string(), content).await);
    }
    server.state.search.catch_up().await.unwrap();
    let ask = json!({ "search_categories": { "room_events": {
        "search_term": "BIRD", "keys": ["content.body"], "order_by": "recent", "include_state": true,
        "filter": { "limit": 1 }, "groupings": { "group_by": [{ "key": "sender" }] },
        "event_context": { "before_limit": 1, "after_limit": 1, "include_profile": true },
    } } });
    let got = server
        .post("/_matrix/client/v3/search", &alice, ask.clone())
        .await
        .ok();
    let found = &got["search_categories"]["room_events"];
    assert_eq!(
        (&found["count"], &found["highlights"]),
        (&json!(2), &json!(["bird"]))
    );
    let result = &found["results"][0];
    assert_eq!(result["result"]["event_id"], json!(said[3]));
    assert_eq!(ids(&result["context"]["events_before"]), [&said[2]]);
    assert!(result["context"]["profile_info"]["@alice:example.org"].is_object());
    assert_eq!(
        found["groups"]["sender"]["@alice:example.org"]["results"],
        json!([said[3]])
    );
    assert!(found["state"][&room].as_array().unwrap().len() > 4);
    let next = found["next_batch"].as_str().unwrap();
    let path = format!("/_matrix/client/v3/search?next_batch={next}");
    let got = server.post(&path, &alice, ask.clone()).await.ok();
    let result = &got["search_categories"]["room_events"]["results"][0]["result"];
    assert_eq!(result["event_id"], json!(said[0]));
    server
        .post(
            "/_matrix/client/v3/search?next_batch=x",
            &alice,
            ask.clone(),
        )
        .await
        .fails(400, "M_INVALID_PARAM");
    let got = server
        .post("/_matrix/client/v3/search", &bob, ask)
        .await
        .ok();
    assert_eq!(got["search_categories"]["room_events"]["count"], 0);

    let got = server
        .post(
            "/_matrix/client/v3/user_directory/search",
            &bob,
            json!({ "search_term": "ali" }),
        )
        .await
        .ok();
    assert_eq!(got["results"][0]["user_id"], "@alice:example.org");
    assert_eq!(got["limited"], json!(false));

    let report = format!("/_matrix/client/v3/rooms/{room}/report/{}", said[0]);
    let reason = json!({ "reason": "no bird" });
    server
        .post(&report, &bob, reason.clone())
        .await
        .fails(404, "M_NOT_FOUND");
    server.post(&report, &alice, reason.clone()).await.ok();
    let report = format!("/_matrix/client/v3/rooms/{room}/report");
    server.post(&report, &bob, reason.clone()).await.ok();
    let report = "/_matrix/client/v3/users/@alice:example.org/report";
    server.post(report, &bob, reason).await.ok();
    let kept = server.state.rooms.reports(10).await.unwrap();
    assert!(kept.iter().all(|(_, report)| report.reason == "no bird"));
    assert_eq!(kept.len(), 3);
}
