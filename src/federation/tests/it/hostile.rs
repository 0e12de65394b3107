//! What another server may not do, however rightly it signs.

use http::StatusCode;
use resuni_dag::{Draft, Pdu, Reference, SigningKey, sign};
use resuni_federation::{FederationError, Handshake, RemoteError, Terms};
use resuni_rooms::{CreateRoom, NewEvent, Preset};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, RoomId, UserId,
    api::federation::{
        authorization::get_event_authorization::v1 as event_auth,
        backfill::get_backfill::v1 as backfill,
        event::{get_event::v1 as get_event, get_room_state_ids::v1 as state_ids},
        membership::create_knock_event::v1 as knock,
        membership::{create_join_event::v2 as send_join, prepare_join_event::v1 as make_join},
        transactions::send_transaction_message::v1 as transaction,
    },
    serde::Raw,
    uint,
};
use serde_json::{Map, Value, json, value::RawValue};

use crate::authority::Authority;
use crate::part::{Part, servers};

pub async fn public_room(at: &Part) -> OwnedRoomId {
    let request = CreateRoom {
        preset: Some(Preset::PublicChat),
        ..CreateRoom::default()
    };
    at.rooms.create(&at.user(), request).await.unwrap()
}

pub async fn join(who: &Part, room: &RoomId, via: &Part) {
    let via = [via.name.clone()];
    let handshake = Handshake {
        room,
        user: &who.user(),
        via: &via,
        content: Map::new(),
    };
    who.federation.handshakes.join(handshake).await.unwrap();
}

/// A message of the user of `by`, signed by its server, at the end of the room as `at` has it.
pub async fn event(by: &Part, at: &Part, room: &RoomId, content: Value) -> Pdu {
    event_of(by, at, room, &by.user(), None, "m.room.message", content).await
}

pub async fn event_of(
    by: &Part,
    at: &Part,
    room: &RoomId,
    sender: &UserId,
    state_key: Option<&str>,
    kind: &str,
    content: Value,
) -> Pdu {
    let view = at.view(room).await;
    let content = serde_json::value::to_raw_value(&content).unwrap();
    let types = resuni_dag::auth_types(kind, sender, state_key, &content, view.rules()).unwrap();
    let mut auth_events = Vec::new();
    for (kind, key) in types {
        if let Some(event) = view.state(&kind, &key).await.unwrap() {
            auth_events.push(Reference::to(&event, view.rules()).unwrap());
        }
    }
    let prev_events = view.extremities().await.unwrap();
    let draft = Draft {
        room_id: Some(room.to_owned()),
        sender: sender.to_owned(),
        kind: kind.to_owned(),
        state_key: state_key.map(str::to_owned),
        content,
        redacts: None,
        prev_events: prev_events.into_iter().map(Into::into).collect(),
        auth_events,
        depth: view.depth() + 1,
        origin_server_ts: view.watermark().0 + 1_700_000_000_000,
        sticky_ms: None,
    };
    sign(draft, view.rules(), &by.name, &key_of(by)).unwrap()
}

pub fn key_of(part: &Part) -> SigningKey {
    SigningKey::generate("k1", part.key).unwrap()
}

pub fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

pub async fn send(
    from: &Part,
    to: &Part,
    id: &str,
    pdus: Vec<Box<RawValue>>,
    edus: Vec<Value>,
) -> Result<transaction::Response, FederationError> {
    let now = MilliSecondsSinceUnixEpoch(uint!(1));
    let mut request = transaction::Request::new(id.into(), from.name.clone(), now);
    request.pdus = pdus;
    request.edus = edus
        .iter()
        .map(|edu| Raw::from_json(raw(&edu.to_string())))
        .collect();
    from.federation
        .network
        .client
        .send(&to.name, request, Terms::ASKED)
        .await
}

pub fn refusal<T: std::fmt::Debug>(outcome: Result<T, FederationError>) -> Box<RemoteError> {
    match outcome {
        Err(FederationError::Remote(remote)) => remote,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_event_fails_alone() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    join(&b, &room, &a).await;
    let good = event(&b, &a, &room, json!({ "body": "good" })).await;
    let other = event(&b, &a, &room, json!({ "body": "other" })).await;
    // Signed fields changed: another event, with a signature that is not its own.
    let forged = other.json().replace("\"depth\":", "\"depth\":1");
    let forged_id = Pdu::parse(&forged, a.view(&room).await.rules())
        .unwrap()
        .event_id()
        .to_owned();
    let unreadable = other.json().replace("\"sender\":", "\"sent\":");
    let impostor = event_of(&b, &a, &room, &a.user(), None, "m.room.message", json!({})).await;
    let answer = send(
        &b,
        &a,
        "t1",
        vec![
            raw(&forged),
            raw(&unreadable),
            raw("{}"),
            raw(impostor.json()),
            raw(good.json()),
        ],
        vec![],
    )
    .await
    .unwrap();
    assert_eq!(answer.pdus[good.event_id()], Ok(()));
    assert!(
        answer.pdus[&forged_id]
            .as_ref()
            .unwrap_err()
            .contains("does not verify")
    );
    assert!(
        answer.pdus[impostor.event_id()]
            .as_ref()
            .unwrap_err()
            .contains("required and missing")
    );
    assert_eq!(answer.pdus.len(), 3, "what has no id can't be named");
    let view = a.view(&room).await;
    assert!(view.event(good.event_id()).await.unwrap().is_some());
    assert!(
        view.event(&forged_id).await.unwrap().is_none(),
        "it was dropped, not kept"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_content_is_redacted() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    join(&b, &room, &a).await;
    let original = event(&b, &a, &room, json!({ "body": "what was said" })).await;
    let changed = original.json().replace("what was said", "what was not");
    let answer = send(&b, &a, "t1", vec![raw(&changed)], vec![])
        .await
        .unwrap();
    assert_eq!(answer.pdus[original.event_id()], Ok(()));
    let stored = a
        .view(&room)
        .await
        .event(original.event_id())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stored.pdu.content().get(), "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_bounded_and_counts_once() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    join(&b, &room, &a).await;
    let many = (0..51).map(|_| raw("{}")).collect();
    assert_eq!(
        refusal(send(&b, &a, "t1", many, vec![]).await).status,
        StatusCode::BAD_REQUEST
    );
    let many = (0..101)
        .map(|_| json!({ "edu_type": "x", "content": {} }))
        .collect();
    assert_eq!(
        refusal(send(&b, &a, "t2", vec![], many).await).status,
        StatusCode::BAD_REQUEST
    );

    let first = event(&b, &a, &room, json!({ "body": "1" })).await;
    let second = event(&b, &a, &room, json!({ "body": "2" })).await;
    let answer = send(&b, &a, "t3", vec![raw(first.json())], vec![])
        .await
        .unwrap();
    let again = send(&b, &a, "t3", vec![raw(second.json())], vec![])
        .await
        .unwrap();
    assert_eq!(
        answer.pdus, again.pdus,
        "the same transaction has the same answer"
    );
    assert!(
        a.view(&room)
            .await
            .event(second.event_id())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_server_is_shut_out_everywhere() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    join(&b, &room, &a).await;
    let before = event(&b, &a, &room, json!({ "body": "too late" })).await;
    let acl = serde_json::value::to_raw_value(&json!({ "allow": ["*"], "deny": ["B.TEST"] }));
    let acl = NewEvent::state("m.room.server_acl", "", acl.unwrap());
    a.rooms.send(&room, &a.user(), acl, None).await.unwrap();

    let typing = json!({ "edu_type": "m.typing", "content":
        { "room_id": room, "user_id": b.user(), "typing": true } });
    let answer = send(&b, &a, "t1", vec![raw(before.json())], vec![typing])
        .await
        .unwrap();
    assert!(
        answer.pdus[before.event_id()]
            .as_ref()
            .unwrap_err()
            .contains("ACL")
    );
    let view = a.view(&room).await;
    assert!(view.event(before.event_id()).await.unwrap().is_none());
    assert!(a.typing.now(view.num()).users.is_empty());

    let client = &b.federation.network.client;
    let latest = view.extremities().await.unwrap().remove(0);
    let mut make = make_join::Request::new(room.clone(), b.user());
    make.ver = vec![ruma::RoomVersionId::V12];
    let refusals = [
        refusal(client.send(&a.name, make, Terms::ASKED).await),
        refusal(
            client
                .send(
                    &a.name,
                    state_ids::Request::new(latest.clone(), room.clone()),
                    Terms::ASKED,
                )
                .await,
        ),
        refusal(
            client
                .send(
                    &a.name,
                    event_auth::Request::new(room.clone(), latest.clone()),
                    Terms::ASKED,
                )
                .await,
        ),
        refusal(
            client
                .send(
                    &a.name,
                    backfill::Request::new(room.clone(), vec![latest], uint!(5)),
                    Terms::ASKED,
                )
                .await,
        ),
    ];
    for remote in refusals {
        assert_eq!(remote.status, StatusCode::FORBIDDEN, "{remote}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_room_is_no_key_to_another() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let shared = public_room(&a).await;
    join(&b, &shared, &a).await;
    let request = CreateRoom {
        preset: Some(Preset::PrivateChat),
        ..CreateRoom::default()
    };
    let private = a.rooms.create(&a.user(), request).await.unwrap();
    let secret: OwnedEventId = a.say(&private, "secret").await;
    let client = &b.federation.network.client;
    for remote in [
        refusal(
            client
                .send(
                    &a.name,
                    state_ids::Request::new(secret.clone(), shared.clone()),
                    Terms::ASKED,
                )
                .await,
        ),
        refusal(
            client
                .send(
                    &a.name,
                    event_auth::Request::new(shared.clone(), secret.clone()),
                    Terms::ASKED,
                )
                .await,
        ),
        refusal(
            client
                .send(
                    &a.name,
                    get_event::Request::new(secret.clone()),
                    Terms::ASKED,
                )
                .await,
        ),
    ] {
        assert_eq!(remote.status, StatusCode::NOT_FOUND, "{remote}");
    }
    let request = state_ids::Request::new(secret.clone(), private.clone());
    let remote = refusal(client.send(&a.name, request, Terms::ASKED).await);
    assert_eq!(remote.status, StatusCode::FORBIDDEN);
    let request = backfill::Request::new(shared.clone(), vec![secret], uint!(5));
    let found = client.send(&a.name, request, Terms::ASKED).await.unwrap();
    assert!(
        found.pdus.is_empty(),
        "an event of another room is no place to begin"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_is_what_its_path_says() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    let other = public_room(&a).await;
    let user = b.user();
    let content = json!({ "membership": "join" });
    let good = event_of(
        &b,
        &a,
        &room,
        &user,
        Some(user.as_str()),
        "m.room.member",
        content.clone(),
    )
    .await;
    let elsewhere = event_of(
        &b,
        &a,
        &other,
        &user,
        Some(user.as_str()),
        "m.room.member",
        content.clone(),
    )
    .await;
    let leave = json!({ "membership": "leave" });
    let leave = event_of(
        &b,
        &a,
        &room,
        &user,
        Some(user.as_str()),
        "m.room.member",
        leave,
    )
    .await;
    let message = event(&b, &a, &room, json!({ "membership": "join" })).await;
    let theirs = a.user();
    let forced = event_of(
        &b,
        &a,
        &room,
        &user,
        Some(theirs.as_str()),
        "m.room.member",
        content.clone(),
    )
    .await;
    let impostor = event_of(
        &b,
        &a,
        &room,
        &theirs,
        Some(theirs.as_str()),
        "m.room.member",
        content,
    )
    .await;
    for (name, pdu, id) in [
        ("another id", &good, leave.event_id()),
        ("another room", &elsewhere, elsewhere.event_id()),
        ("a leave", &leave, leave.event_id()),
        ("a message", &message, message.event_id()),
        ("somebody else joined", &forced, forced.event_id()),
        ("somebody else's user", &impostor, impostor.event_id()),
    ] {
        let request = send_join::Request::new(room.clone(), id.to_owned(), raw(pdu.json()));
        let remote = refusal(
            b.federation
                .network
                .client
                .send(&a.name, request, Terms::ASKED)
                .await,
        );
        assert!(remote.status.is_client_error(), "{name}: {remote}");
    }
    assert!(!a.view(&room).await.has_server(&b.name).await.unwrap());
    let request =
        send_join::Request::new(room.clone(), good.event_id().to_owned(), raw(good.json()));
    b.federation
        .network
        .client
        .send(&a.name, request, Terms::ASKED)
        .await
        .unwrap();
    assert!(a.view(&room).await.has_server(&b.name).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_speaks_for_its_own_users() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    join(&b, &room, &a).await;
    let said = a.say(&room, "read me").await;
    let typing = |user: &UserId| {
        json!({ "edu_type": "m.typing", "content":
            { "room_id": room, "user_id": user, "typing": true } })
    };
    let receipt = |user: &UserId| {
        json!({ "edu_type": "m.receipt", "content": { room.as_str(): { "m.read": {
            user.as_str(): { "data": { "ts": 1 }, "event_ids": [said] } } } } })
    };
    let stranger = UserId::parse("@stranger:b.test").unwrap();
    let malformed = json!({ "edu_type": "m.typing", "content": { "room_id": 7 } });
    let edus = vec![
        typing(&a.user()),
        receipt(&a.user()),
        typing(&stranger),
        receipt(&stranger),
        malformed,
        typing(&b.user()),
        receipt(&b.user()),
    ];
    send(&b, &a, "t1", vec![], edus).await.unwrap();
    let view = a.view(&room).await;
    assert_eq!(a.typing.now(view.num()).users, [b.user()]);
    assert!(view.receipts_of(&a.user()).await.unwrap().is_empty());
    assert!(view.receipts_of(&stranger).await.unwrap().is_empty());
    assert_eq!(view.receipts_of(&b.user()).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_knock_is_a_bad_request_before_it_is_forbidden() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    // A room that takes no knocks.
    let room = public_room(&a).await;
    let user = b.user();
    let content = json!({ "membership": "knock" });
    let knock = event_of(
        &b,
        &a,
        &room,
        &user,
        Some(user.as_str()),
        "m.room.member",
        content,
    )
    .await;
    let send = async |pdu: &Pdu| {
        let id = pdu.event_id().to_owned();
        let request = knock::Request::new(room.clone(), id, raw(pdu.json()));
        a.federation
            .serve
            .send_knock(&b.name, request)
            .await
            .err()
            .unwrap()
    };
    let malformed = send(&event(&b, &a, &room, json!({})).await).await;
    assert!(
        matches!(malformed, FederationError::BadRequest { .. }),
        "{malformed:?}"
    );
    let refused = send(&knock).await;
    assert!(
        matches!(refused, FederationError::Forbidden(_)),
        "{refused:?}"
    );
}
