//! Rooms that have a policy server (server-server API, "Policy Servers").

use resuni_rooms::{NewEvent, RoomError};
use ruma::{OwnedEventId, RoomId};
use serde_json::{Value, json};

use crate::authority::Authority;
use crate::hostile::{join, public_room};
use crate::part::{Part, policy_key, servers};

async fn set(at: &Part, room: &RoomId, kind: &str, content: Value) -> OwnedEventId {
    let content = serde_json::value::to_raw_value(&content).unwrap();
    let event = NewEvent::state(kind, "", content);
    at.rooms.send(room, &at.user(), event, None).await.unwrap()
}

async fn try_to_say(at: &Part, room: &RoomId, text: &str) -> Result<OwnedEventId, RoomError> {
    let content = serde_json::value::to_raw_value(&json!({ "body": text })).unwrap();
    let event = NewEvent::message("m.room.message", content);
    at.rooms.send(room, &at.user(), event, None).await
}

async fn is_signed(at: &Part, room: &RoomId, event: &OwnedEventId, by: &Part) -> bool {
    let event = at.view(room).await.event(event).await.unwrap().unwrap();
    let event: Value = serde_json::from_str(event.pdu.json()).unwrap();
    event["signatures"][by.name.as_str()]["ed25519:policy_server"].is_string()
}

/// A room of a.test and b.test, whose policy server is p.test.
async fn guarded(kind: &str, content: Value) -> ([Part; 3], ruma::OwnedRoomId) {
    let authority = Authority::new();
    let parts = servers(&authority, ["a.test", "b.test", "p.test"]).await;
    let [a, b, p] = &parts;
    let room = public_room(a).await;
    join(b, &room, a).await;
    // Before a user of it is there, it is none.
    let named = set(a, &room, kind, content).await;
    b.has(&room, &named).await;
    let unguarded = a.say(&room, "spam").await;
    b.has(&room, &unguarded).await;
    join(p, &room, a).await;
    let joined = p.view(&room).await;
    let joined = joined.state("m.room.member", p.user().as_str()).await;
    let joined = joined.unwrap().unwrap().event_id().to_owned();
    b.has(&room, &joined).await;
    (parts, room)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_signed_before_they_are_sent() {
    let key = policy_key().public_key_base64();
    let stable = json!({ "via": "p.test", "public_keys": { "ed25519": key } });
    let unstable = json!({ "via": "p.test", "public_key": key });
    for (kind, content) in [
        ("m.room.policy", stable),
        ("org.matrix.msc4284.policy", unstable),
    ] {
        let ([a, b, p], room) = guarded(kind, content).await;
        let said = try_to_say(&a, &room, "hello").await.unwrap();
        assert!(is_signed(&a, &room, &said, &p).await);
        b.has(&room, &said).await;
        assert!(is_signed(&b, &room, &said, &p).await);
        let refused = try_to_say(&a, &room, "spam").await;
        assert!(
            matches!(refused, Err(RoomError::Policy { status: 400, .. })),
            "{refused:?}"
        );
        // Its own dismissal it is not asked about.
        let dismissed = set(&a, &room, kind, json!({})).await;
        assert!(!is_signed(&a, &room, &dismissed, &p).await);
        b.has(&room, &dismissed).await;
        let free = try_to_say(&a, &room, "spam").await.unwrap();
        b.has(&room, &free).await;
    }
}

/// What another server sends without the signature is soft-failed unless the policy server gives one now.
#[tokio::test(flavor = "multi_thread")]
async fn unsigned_events_are_asked_about_when_they_come() {
    let key = policy_key().public_key_base64();
    let content = json!({ "via": "p.test", "public_keys": { "ed25519": key } });
    let ([a, b, _p], room) = guarded("m.room.policy", content).await;
    // b.test does not ask anybody.
    let event = |text: &str| {
        let content = serde_json::value::to_raw_value(&json!({ "body": text })).unwrap();
        NewEvent::message("m.room.message", content)
    };
    let mut received = Vec::new();
    for text in ["hello", "spam"] {
        let (object, _) = b
            .rooms
            .template(&room, &b.user(), event(text))
            .await
            .unwrap();
        let rules = b.view(&room).await.rules();
        let key = resuni_dag::SigningKey::generate("k1", b.key).unwrap();
        let pdu = resuni_dag::sign_object(object, rules, &b.name, &key).unwrap();
        received.push(a.rooms.receive(&room, pdu).await.unwrap());
    }
    use resuni_rooms::Received;
    assert!(
        matches!(received[0], Received::Accepted { .. }),
        "{received:?}"
    );
    assert_eq!(received[1], Received::SoftFailed);
}

/// While the policy server is out of reach nothing is sent but what dismisses it, and what others send is held back.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_while_the_policy_server_is_away() {
    let key = policy_key().public_key_base64();
    let content = json!({ "via": "p.test", "public_keys": { "ed25519": key } });
    let ([a, b, mut p], room) = guarded("m.room.policy", content).await;
    p.stop().await;
    let refused = try_to_say(&a, &room, "hello").await;
    assert!(
        matches!(refused, Err(RoomError::Policy { status: 502, .. })),
        "{refused:?}"
    );
    let theirs = crate::hostile::event(&b, &a, &room, json!({ "body": "hello" })).await;
    let received = a.rooms.receive(&room, theirs).await.unwrap();
    assert_eq!(received, resuni_rooms::Received::SoftFailed);

    let dismissed = set(&a, &room, "m.room.policy", json!({})).await;
    b.has(&room, &dismissed).await;
    let free = try_to_say(&a, &room, "free").await.unwrap();
    b.has(&room, &free).await;
}
