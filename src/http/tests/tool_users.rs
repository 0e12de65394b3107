//! The endpoints that operators' tools use: what somebody has said, and their keys.

use serde_json::{Value, json};

use super::Server;

const REDACT: &str = "/_synapse/admin/v1/user/@alice:example.org/redact";

struct World {
    server: Server,
    root: String,
    alice: String,
}

async fn world() -> World {
    let server = Server::start().await;
    let (root, alice) = (server.operator().await, server.user("alice").await);
    World {
        server,
        root,
        alice,
    }
}

impl World {
    async fn say(&self, room: &str, text: &str) -> String {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{text}");
        let content = json!({ "msgtype": "m.text", "body": text });
        let got = self.server.put(&path, &self.alice, content).await.ok();
        got["event_id"].as_str().unwrap().to_owned()
    }

    /// Begins, and waits until it is done.
    async fn redact(&self, wanted: Value) -> Value {
        let begun = self.server.post(REDACT, &self.root, wanted).await.ok();
        let id = begun["redact_id"].as_str().unwrap();
        let path = format!("/_synapse/admin/v1/user/redact_status/{id}");
        loop {
            let got = self.server.get(&path, &self.root).await.ok();
            if got["status"] != "active" {
                return got;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn body(&self, event: &str) -> Value {
        let path = format!("/_synapse/admin/v1/fetch_event/{event}");
        let got = self.server.get(&path, &self.root).await.ok();
        assert_eq!(got["event"]["event_id"], event);
        got["event"]["content"]["body"].clone()
    }
}

#[tokio::test]
async fn what_somebody_has_said_is_redacted_by_an_operator() {
    let world = world().await;
    let (one, two) = (
        world.server.room(&world.alice).await,
        world.server.room(&world.alice).await,
    );
    let mut said = Vec::new();
    for text in ["a", "b", "c"] {
        said.push(world.say(&one, text).await);
    }
    let other = world.say(&two, "other").await;
    // The newest of one room.
    let got = world.redact(json!({ "rooms": [one], "limit": 2 })).await;
    let done = json!({ "status": "complete", "successful_redactions": 2, "failed_redactions": {} });
    assert_eq!(got, done);
    assert_eq!(world.body(&said[0]).await, "a");
    assert_eq!(world.body(&said[1]).await, Value::Null);
    assert_eq!(world.body(&said[2]).await, Value::Null);
    // The operator may not do it in a room that is not theirs: of each event it is said why.
    let got = world
        .redact(json!({ "rooms": [one], "use_admin": true }))
        .await;
    assert_eq!(got["successful_redactions"], 0);
    assert!(got["failed_redactions"][&said[0]].is_string(), "{got}");
    // In all rooms, with the reason, and nothing twice.
    let got = world.redact(json!({ "rooms": [], "reason": "spam" })).await;
    assert_eq!(got["successful_redactions"], 2);
    assert_eq!(world.body(&other).await, Value::Null);
    let path = format!("/_synapse/admin/v1/fetch_event/{other}");
    let got = world.server.get(&path, &world.root).await.ok();
    let because = &got["event"]["unsigned"]["redacted_because"];
    assert_eq!(because["content"]["reason"], "spam");
    assert_eq!(because["sender"], "@alice:example.org");
    let nothing = json!({ "rooms": [], "limit": 0 });
    let got = world.server.post(REDACT, &world.root, nothing).await;
    got.fails(400, "M_INVALID_PARAM");
    for path in ["user/redact_status/none", "fetch_event/$none"] {
        let path = format!("/_synapse/admin/v1/{path}");
        let got = world.server.get(&path, &world.root).await;
        got.fails(404, "M_NOT_FOUND");
        let got = world.server.get(&path, &world.alice).await;
        got.fails(403, "M_FORBIDDEN");
    }
}

/// Who has forgotten the password of their keys resets them once an operator lets them, one time.
#[tokio::test]
async fn an_operator_lets_somebody_replace_their_keys() {
    let world = world().await;
    let path =
        "/_synapse/admin/v1/users/@alice:example.org/_allow_cross_signing_replacement_without_uia";
    let allow = || world.server.post(path, &world.root, json!({}));
    allow().await.fails(404, "M_NOT_FOUND");
    let upload = async |key: &str| {
        let master = json!({ "master_key": {
            "user_id": "@alice:example.org", "usage": ["master"],
            "keys": { (format!("ed25519:{key}")): key },
        } });
        let path = "/_matrix/client/v3/keys/device_signing/upload";
        let got = world.server.post(path, &world.alice, master).await;
        got.status.as_u16()
    };
    assert_eq!(upload("one").await, 200);
    assert_eq!(upload("two").await, 401);
    let until = allow().await.ok()["updatable_without_uia_before_ms"].clone();
    let now = world.server.state.rooms.now_ms();
    assert!((now..=now + 600_000).contains(&until.as_u64().unwrap()));
    assert_eq!(upload("two").await, 200);
    assert_eq!(upload("three").await, 401);
}
