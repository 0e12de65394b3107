//! The body of `PUT /_matrix/federation/v1/send/{txnId}`, from its bytes on: what its signature covers, its limits, and
//! a whole server that takes it in. Events get what they lack and the signature of their server, so that what is odd
//! about them is seen by all that comes after the checks of signatures.

use http::Request;
use resuni_dag::{RoomRules, check_nesting, limits, sign_object};
use resuni_federation::{
    divergence::wire::transaction,
    ingest::{MAX_EDUS, MAX_PDUS},
    xmatrix::SignedParts,
};
use resuni_rooms::{CreateRoom, Gaps, PageQuery, Preset, RoomView, doctor};
use resuni_store::Direction;
use ruma::{CanonicalJsonObject, OwnedRoomId, RoomVersionId, api::IncomingRequestExt as _};
use serde_json::{Map, Value, json};

use crate::peer::{Server, block_on, here, key, me, peer};

/// What transactions are made of.
pub const WORDS: &[&str] = &[
    "\"origin\":\"peer.test\"",
    "\"origin_server_ts\":1",
    "\"pdus\":[{}]",
    "\"edus\":[{}]",
    "\"edu_type\":\"m.typing\"",
    "\"edu_type\":\"m.receipt\"",
    "\"edu_type\":\"m.presence\"",
    "\"edu_type\":\"m.direct_to_device\"",
    "\"edu_type\":\"m.device_list_update\"",
    "\"content\":{}",
    "\"room_id\":\"ROOM\"",
    "\"user_id\":\"@you:peer.test\"",
    "\"state_key\":\"@you:peer.test\"",
    "\"membership\":\"ban\"",
    "\"m.relates_to\":{\"rel_type\":\"m.replace\",\"event_id\":\"$x\"}",
    "\"m.relates_to\":{\"rel_type\":\"m.thread\",\"event_id\":\"$x\"}",
    "\"m.relates_to\":{\"rel_type\":\"m.annotation\",\"event_id\":\"$x\",\"key\":\"\u{1f44d}\"}",
    "\"redacts\":\"$x\"",
    "\"prev_events\":[]",
    "\"auth_events\":[]",
    "\"depth\":9007199254740991",
    "\"type\":\"m.room.power_levels\"",
    "\"type\":\"m.space.child\"",
    "\"type\":\"m.room.history_visibility\"",
    "\"type\":\"m.room.server_acl\"",
    "\"type\":\"m.room.policy\"",
    "\"tk.nutra.msc4500.state_hashes\":{}",
    "\\u0000",
];

/// Takes the bytes as such a body. `ROOM` in it stands for the room that this server and the peer are in.
pub fn run(bytes: &[u8]) {
    signature(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if read(text.as_bytes()).is_none() {
        return;
    }
    block_on(async {
        let server = Server::new().await;
        let room = shared_room(&server).await;
        let text = text.replace("ROOM", room.as_str());
        let Some(mut request) = read(text.as_bytes()) else {
            return;
        };
        let too_many = request.pdus.len() > MAX_PDUS || request.edus.len() > MAX_EDUS;
        let view = server.rooms.view(&room).await.unwrap().unwrap();
        for pdu in &mut request.pdus {
            if let Some(completed) = completed(pdu.get(), &view).await {
                *pdu = serde_json::value::RawValue::from_string(completed).unwrap();
            }
        }
        let answer = server.federation.ingest.transaction(peer(), request).await;
        assert_eq!(answer.is_err(), too_many, "{:?}", answer.err());
        let found = doctor::check(server.rooms.store(), here()).await.unwrap();
        assert_eq!(found, Vec::<String>::new());
        looked_at(&server, &room).await;
    });
}

/// What the sender signed is asked for before anybody knows who it is.
fn signature(body: &[u8]) {
    let parts = SignedParts {
        method: "PUT",
        uri: "/_matrix/federation/v1/send/1",
        origin: peer(),
        destination: here(),
        body,
    };
    let _ = parts.text();
}

fn read(body: &[u8]) -> Option<transaction::Request> {
    let request = Request::put("https://here.test/_matrix/federation/v1/send/1");
    transaction::Request::try_from_http_request(request.body(body).ok()?, &["1"]).ok()
}

/// A room of the newest version with a user of each server.
async fn shared_room(server: &Server) -> OwnedRoomId {
    let request = CreateRoom {
        preset: Some(Preset::PublicChat),
        ..CreateRoom::default()
    };
    let room = server.rooms.create(me(), request).await.unwrap();
    let view = server.rooms.view(&room).await.unwrap().unwrap();
    let join = json!({ "type": "m.room.member", "sender": "@you:peer.test", "room_id": room,
        "state_key": "@you:peer.test", "content": { "membership": "join" } });
    let join = completed(&join.to_string(), &view).await.unwrap();
    let rules = RoomRules::of(&RoomVersionId::V12).unwrap();
    let join = resuni_dag::Pdu::parse(&join, rules).unwrap();
    server.rooms.receive(&room, join).await.unwrap();
    room
}

/// The event with what it lacks to be one, signed by the peer.
async fn completed(json: &str, view: &RoomView) -> Option<String> {
    let mut event: Map<String, Value> = serde_json::from_str(json).ok()?;
    let mut auth = Vec::new();
    for (kind, key) in [
        ("m.room.power_levels", ""),
        ("m.room.join_rules", ""),
        ("m.room.member", "@you:peer.test"),
    ] {
        let wanted =
            kind != "m.room.join_rules" || event.get("type") == Some(&"m.room.member".into());
        let found = view.state(kind, key).await.unwrap();
        auth.extend(
            found
                .filter(|_| wanted)
                .map(|pdu| pdu.event_id().to_owned()),
        );
    }
    let defaults = json!({
        "type": "m.room.message",
        "sender": "@you:peer.test",
        "room_id": view.room_id(),
        "content": {},
        "depth": view.depth() + 1,
        "origin_server_ts": 1_700_000_000_000_u64,
        "prev_events": view.extremities().await.unwrap(),
        "auth_events": auth,
    });
    for (field, value) in defaults.as_object()? {
        event.entry(field).or_insert_with(|| value.clone());
    }
    let object: CanonicalJsonObject = serde_json::from_value(Value::Object(event)).ok()?;
    check_nesting(&serde_json::to_string(&object).ok()?, limits::JSON_DEPTH).ok()?;
    let signed = sign_object(object, view.rules(), peer(), &key(peer())).ok()?;
    Some(signed.json().to_owned())
}

/// What clients would ask for afterwards.
async fn looked_at(server: &Server, room: &OwnedRoomId) {
    let view = server.rooms.view(room).await.unwrap().unwrap();
    let viewer = view.clone().viewer(me()).await;
    view.state_all().await.unwrap();
    view.power_levels().await.ok();
    view.join_rule().await.ok();
    let query = PageQuery {
        from: view.end(),
        to: None,
        dir: Direction::Backward,
        limit: 100,
        gaps: Gaps::Pass,
    };
    view.page(query).await.unwrap();
    if let Ok(mut viewer) = viewer {
        viewer.page(query, |_| true).await.unwrap();
    }
}
