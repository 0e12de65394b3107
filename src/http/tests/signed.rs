//! The sweep of the endpoints for servers: each of them asked by a second server, with its real signatures.

use std::collections::BTreeSet;

use axum::body::Body;
use http::{Method, Request, header};
use parking_lot::Mutex;
use resuni_dag::{RoomRules, SigningKey, sign_object};
use resuni_federation::{
    tables::SERVER_KEYS,
    xmatrix::{SignedParts, XMatrix},
};
use resuni_store::Batch;
use ruma::{CanonicalJsonObject, OwnedServerName, RoomVersionId, owned_server_name, server_name};
use serde_json::{Value, json};

use super::{Got, Server, sweep};

/// A second server, of which only its key and what it says exists.
struct Other {
    server: Server,
    name: OwnedServerName,
    key: SigningKey,
    /// The operations that it has asked for.
    asked: Mutex<BTreeSet<String>>,
}

impl Other {
    /// Its key is known, as if it had been fetched.
    async fn new(server: Server) -> Other {
        let name = owned_server_name!("other.example");
        let key = SigningKey::from_bytes("2", [7; 32]).unwrap();
        let until = 4_000_000_000_000_u64;
        let known = json!({
            "keys": { key.key_id(): [key.public_key(), until] },
            "fetched_ms": 1, "valid_until_ts": until, "response": "{}",
        });
        let mut batch = Batch::new();
        let known = serde_json::from_value(known).unwrap();
        batch.put(&SERVER_KEYS, &name.to_string(), &known);
        let store = server.state.accounts.store();
        store.commit_durable(batch).await.unwrap();
        Other {
            server,
            name,
            key,
            asked: Mutex::default(),
        }
    }

    fn header(&self, method: &Method, uri: &str, body: &[u8], to: &str) -> String {
        let destination = to.try_into().unwrap();
        let parts = SignedParts {
            method: method.as_str(),
            uri,
            origin: &self.name,
            destination,
            body,
        };
        XMatrix::sign(parts, &self.key).unwrap()
    }

    async fn send(&self, method: &Method, uri: &str, body: &Value, header: &str) -> Got {
        let request = Request::builder()
            .method(method.clone())
            .uri(uri)
            .header(header::AUTHORIZATION, header);
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        self.server.send(request.body(body).unwrap()).await
    }

    /// Asks for an operation by its name in the inventory; `with` is what its variables and its query are.
    async fn ask(&self, operation: &str, with: &[&str], query: &str, body: Value) -> Got {
        self.asked.lock().insert(operation.to_owned());
        let (method, path) = operation.split_once(' ').unwrap();
        let mut with = with.iter();
        let mut uri = String::new();
        for part in path.split('/').skip(1) {
            uri.push('/');
            uri.push_str(match part.starts_with('{') {
                true => with.next().unwrap(),
                false => part,
            });
        }
        uri.push_str(query);
        let method: Method = method.parse().unwrap();
        let bytes = match &body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let header = self.header(&method, &uri, bytes.as_bytes(), "example.org");
        let got = self.send(&method, &uri, &body, &header).await;
        let what = format!("{method} {uri}: {} {}", got.status, got.body);
        assert!(!got.status.is_server_error(), "{what}");
        assert!(
            got.status.is_success() || !got.errcode().is_empty(),
            "{what}"
        );
        got
    }

    async fn get(&self, path: &str, with: &[&str], query: &str) -> Got {
        self.ask(&format!("GET {path}"), with, query, Value::Null)
            .await
    }

    /// Signs what the other side has prepared; answers the id and the event.
    fn signed(&self, template: &Value, version: &RoomVersionId) -> (String, Value) {
        let rules = RoomRules::of(version).unwrap();
        let event: CanonicalJsonObject = serde_json::from_value(template.clone()).unwrap();
        let pdu = sign_object(event, rules, &self.name, &self.key).unwrap();
        let json = serde_json::from_str(pdu.json()).unwrap();
        (pdu.event_id().to_string(), json)
    }

    /// Makes and sends a membership of one of its users; answers the event's id and what was said to it.
    async fn member(&self, how: &str, version: &str, room: &str, user: &str) -> (String, Value) {
        let made = self
            .get(
                &format!("/_matrix/federation/v1/make_{how}/{{roomId}}/{{userId}}"),
                &[room, user],
                "?ver=10&ver=12",
            )
            .await
            .ok();
        let of: RoomVersionId = made["room_version"]
            .as_str()
            .unwrap_or("12")
            .try_into()
            .unwrap();
        let (id, event) = self.signed(&made["event"], &of);
        let path = format!("PUT /_matrix/federation/{version}/send_{how}/{{roomId}}/{{eventId}}");
        let said = self.ask(&path, &[room, &id], "", event).await.ok();
        (id, said)
    }
}

/// Rooms and a file of alice.
struct Ground {
    open: String,
    knocked: String,
    old: String,
    file: String,
    alice: String,
}

async fn ground(server: &Server) -> Ground {
    let alice = server.user("alice").await;
    let room = |preset: Value| {
        let alice = &alice;
        async move {
            let path = "/_matrix/client/v3/createRoom";
            let got = server.post(path, alice, preset).await.ok();
            got["room_id"].as_str().unwrap().to_owned()
        }
    };
    let open =
        json!({ "preset": "public_chat", "room_alias_name": "open", "visibility": "public" });
    let old = json!({ "preset": "public_chat", "room_version": "10" });
    let knock = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
    let knocked = json!({ "preset": "private_chat", "initial_state": [knock] });
    let file = server
        .upload("", "image/png", &alice, include_bytes!("picture.png"))
        .await
        .ok();
    let file = file["content_uri"].as_str().unwrap();
    Ground {
        open: room(open).await,
        old: room(old).await,
        knocked: room(knocked).await,
        file: file.rsplit('/').next().unwrap().to_owned(),
        alice,
    }
}

const BOB: &str = "@bob:other.example";

#[tokio::test]
async fn every_endpoint_for_servers_answers_one_that_signs() {
    let server = Server::start().await;
    let ground = ground(&server).await;
    let other = Other::new(server).await;
    let v1 = |path: &str| format!("/_matrix/federation/v1/{path}");
    let (room, here) = (ground.open.as_str(), "@alice:example.org");

    // Before anybody of it is in the room it learns nothing of it.
    let create = room.replacen('!', "$", 1);
    let query = format!("?event_id={create}");
    let tries = [
        other.get(&v1("event/{eventId}"), &[&create], "").await,
        other.get(&v1("state/{roomId}"), &[room], &query).await,
        other.get(&v1("state_ids/{roomId}"), &[room], &query).await,
        other
            .get(
                &v1("backfill/{roomId}"),
                &[room],
                &format!("?v={create}&limit=1"),
            )
            .await,
    ];
    for got in tries {
        let is = (got.status.as_u16(), got.errcode());
        assert!(
            matches!(is, (403, "M_FORBIDDEN") | (404, "M_NOT_FOUND")),
            "{is:?}"
        );
    }

    // People come, knock and go.
    let (join, said) = other.member("join", "v2", room, BOB).await;
    assert!(said["state"].as_array().unwrap().len() >= 5);
    let (_, said) = other.member("join", "v1", &ground.old, BOB).await;
    assert_eq!(said[0], 200);
    let (_, said) = other.member("knock", "v1", &ground.knocked, BOB).await;
    assert!(!said["knock_room_state"].as_array().unwrap().is_empty());
    other.member("leave", "v2", &ground.knocked, BOB).await;
    let (_, said) = other.member("leave", "v1", &ground.old, BOB).await;
    assert_eq!(said[0], 200);

    // What is in the room.
    let got = other.get(&v1("event/{eventId}"), &[&create], "").await.ok();
    assert_eq!(got["pdus"][0]["type"], "m.room.create");
    let query = format!("?event_id={join}");
    let got = other.get(&v1("state/{roomId}"), &[room], &query).await.ok();
    assert!(!got["pdus"].as_array().unwrap().is_empty());
    let got = other
        .get(&v1("state_ids/{roomId}"), &[room], &query)
        .await
        .ok();
    assert!(!got["pdu_ids"].as_array().unwrap().is_empty());
    let got = other
        .get(&v1("event_auth/{roomId}/{eventId}"), &[room, &join], "")
        .await
        .ok();
    assert!(!got["auth_chain"].as_array().unwrap().is_empty());
    let query = format!("?v={join}&limit=3");
    let got = other
        .get(&v1("backfill/{roomId}"), &[room], &query)
        .await
        .ok();
    assert_eq!(got["pdus"].as_array().unwrap().len(), 3);
    let missing = json!({ "earliest_events": [create], "latest_events": [join], "limit": 3 });
    let path = "POST /_matrix/federation/v1/get_missing_events/{roomId}";
    let got = other.ask(path, &[room], "", missing).await.ok();
    assert!(!got["events"].as_array().unwrap().is_empty());
    let got = other
        .get(&v1("timestamp_to_event/{roomId}"), &[room], "?ts=0&dir=f")
        .await
        .ok();
    assert_eq!(got["event_id"], *create);
    let got = other.get(&v1("hierarchy/{roomId}"), &[room], "").await.ok();
    assert_eq!(got["room"]["room_id"], room);

    // Who and what is here.
    let got = other.get(&v1("publicRooms"), &[], "").await.ok();
    assert_eq!(got["chunk"][0]["room_id"], room);
    let path = "POST /_matrix/federation/v1/publicRooms";
    let got = other.ask(path, &[], "", json!({ "limit": 1 })).await.ok();
    assert_eq!(got["chunk"][0]["room_id"], room);
    let query = "?room_alias=%23open:example.org";
    let got = other.get(&v1("query/directory"), &[], query).await.ok();
    assert_eq!(got["room_id"], room);
    let query = "?user_id=@alice:example.org";
    let got = other.get(&v1("query/profile"), &[], query).await.ok();
    assert_eq!(got["displayname"], "alice");
    let got = other
        .get(&v1("user/devices/{userId}"), &[here], "")
        .await
        .ok();
    assert_eq!(got["user_id"], here);
    let path = "POST /_matrix/federation/v1/user/keys/query";
    let query = json!({ "device_keys": { here: [] } });
    assert!(other.ask(path, &[], "", query).await.ok()["device_keys"].is_object());
    let path = "POST /_matrix/federation/v1/user/keys/claim";
    let claim = json!({ "one_time_keys": { here: { "X": "signed_curve25519" } } });
    assert!(other.ask(path, &[], "", claim).await.ok()["one_time_keys"].is_object());
    let file = [ground.file.as_str()];
    let got = other
        .get(&v1("media/download/{mediaId}"), &file, "?timeout_ms=1")
        .await;
    assert_eq!(got.status, 200);
    let query = "?width=32&height=32&timeout_ms=1";
    let got = other
        .get(&v1("media/thumbnail/{mediaId}"), &file, query)
        .await;
    assert_eq!(got.status, 200);
    let got = other
        .get(&v1("media/download/{mediaId}"), &["none"], "?timeout_ms=1")
        .await;
    got.fails(404, "M_NOT_FOUND");

    // What it sends.
    let transaction =
        json!({ "origin": "other.example", "origin_server_ts": 1, "pdus": [], "edus": [] });
    let path = "PUT /_matrix/federation/v1/send/{txnId}";
    let got = other.ask(path, &["1"], "", transaction).await.ok();
    assert_eq!(got["pdus"], json!({}));
    let invite = json!({
        "room_id": "!theirs:other.example", "type": "m.room.member", "sender": BOB, "state_key": here,
        "content": { "membership": "invite" }, "depth": 5, "origin_server_ts": 1,
        "prev_events": ["$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"],
        "auth_events": ["$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"],
    });
    let (id, event) = other.signed(&invite, &RoomVersionId::V10);
    let create = json!({ "type": "m.room.create", "state_key": "", "sender": BOB, "content": { "room_version": "10" } });
    let body = json!({ "event": event, "room_version": "10", "invite_room_state": [create] });
    let path = "PUT /_matrix/federation/v2/invite/{roomId}/{eventId}";
    let got = other
        .ask(path, &["!theirs:other.example", &id], "", body)
        .await
        .ok();
    assert!(got["event"]["signatures"]["example.org"].is_object());
    let sync = "/_matrix/client/v3/sync?timeout=0";
    let got = other.server.get(sync, &ground.alice).await.ok();
    assert!(
        got["rooms"]["invite"]
            .get("!theirs:other.example")
            .is_some()
    );
    // The older one is for rooms whose events name themselves.
    let (id, event) = other.signed(&invite, &RoomVersionId::V10);
    let path = "PUT /_matrix/federation/v1/invite/{roomId}/{eventId}";
    let got = other
        .ask(path, &["!theirs:other.example", &id], "", event)
        .await;
    assert!(got.status.is_success() || got.status.is_client_error());
    let path = "PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}";
    let exchange = json!({ "type": "m.room.member", "room_id": room, "sender": BOB,
        "state_key": "@carol:other.example", "content": { "membership": "invite" } });
    let got = other.ask(path, &[room], "", exchange).await;
    assert!(got.status.is_client_error(), "{}", got.body);

    let asked = other.asked.lock().clone();
    let missing: Vec<String> = sweep::for_servers()
        .into_iter()
        .filter(|operation| !asked.contains(operation))
        .collect();
    assert_eq!(missing, [""; 0]);
}

#[tokio::test]
async fn a_signature_is_for_one_request_to_one_server_by_one_key() {
    let other = Other::new(Server::start().await).await;
    let uri = "/_matrix/federation/v1/publicRooms";
    let body = json!({ "limit": 1 });
    let bytes = body.to_string();
    let post = Method::POST;
    let right = other.header(&post, uri, bytes.as_bytes(), "example.org");
    other.send(&post, uri, &body, &right).await.ok();
    let elsewhere = other.header(&post, uri, bytes.as_bytes(), "third.example");
    let stranger = Other {
        key: SigningKey::from_bytes("2", [8; 32]).unwrap(),
        server: other.server.clone(),
        name: server_name!("other.example").to_owned(),
        asked: Mutex::default(),
    };
    let forged = stranger.header(&post, uri, bytes.as_bytes(), "example.org");
    let path = format!("{uri}?limit=2");
    let tries = [
        (
            "another body",
            post.clone(),
            uri,
            json!({ "limit": 2 }),
            &right,
        ),
        (
            "another path",
            post.clone(),
            path.as_str(),
            body.clone(),
            &right,
        ),
        ("another method", Method::GET, uri, Value::Null, &right),
        (
            "another server",
            post.clone(),
            uri,
            body.clone(),
            &elsewhere,
        ),
        ("another key", post.clone(), uri, body.clone(), &forged),
    ];
    for (what, method, uri, body, header) in tries {
        let got = other.send(&method, uri, &body, header).await;
        assert_eq!(
            (got.status.as_u16(), got.errcode()),
            (401, "M_UNAUTHORIZED"),
            "{what}"
        );
    }
}
