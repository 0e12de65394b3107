//! What another server sends to make a room slow, endless or leaky. The number of a test is its line in
//! docs/security.md.

use resuni_dag::{Draft, Pdu, RoomRules, sign};
use resuni_store::Direction;

use super::{between::*, *};
use crate::{line::MAX_EXTREMITIES, tables::Place};

/// An event of `@mallory:evil` that follows these.
fn event_of_mallory(
    room: &OwnedRoomId,
    rules: &RoomRules,
    prev: &[&Pdu],
    auth: &[&Pdu],
    (kind, state_key): (&str, Option<&str>),
    content: serde_json::Value,
) -> Pdu {
    let to = |pdu: &&Pdu| resuni_dag::Reference::to(pdu, rules).unwrap();
    let draft = Draft {
        room_id: Some(room.clone()),
        sender: user("@mallory:evil"),
        kind: kind.to_owned(),
        state_key: state_key.map(str::to_owned),
        content: raw(content),
        redacts: None,
        prev_events: prev.iter().map(to).collect(),
        auth_events: auth.iter().map(to).collect(),
        depth: prev.iter().map(|pdu| pdu.depth()).max().unwrap_or(0) + 1,
        origin_server_ts: 1_700_000_000_000,
        sticky_ms: None,
    };
    let key = SigningKey::from_bytes("1", [9; 32]).unwrap();
    sign(draft, rules, ruma::server_name!("evil"), &key).unwrap()
}

/// A room of alice's in which mallory of another server may do anything, and the events that say so.
async fn shared(rooms: &Rooms, version: RoomVersionId) -> (OwnedRoomId, Vec<Pdu>) {
    let room = room(rooms, version.clone(), "@alice:here").await;
    let rules = RoomRules::of(&version).unwrap();
    let (state_events, _) = state_and_chain(rooms, &room).await;
    let find = |kind: &str| state_events.iter().find(|pdu| pdu.kind() == kind).unwrap();
    let hash = rules.room_id_is_create_hash();
    let mut auth = vec![find("m.room.power_levels"), find("m.room.join_rules")];
    auth.extend((!hash).then(|| find("m.room.create")));
    let tip = rooms.view(&room).await.unwrap().unwrap();
    let tip = pdu(rooms, &tip.extremities().await.unwrap()[0]).await;
    let who = ("m.room.member", Some("@mallory:evil"));
    let content = json!({"membership": "join"});
    let join = event_of_mallory(&room, rules, &[&tip], &auth, who, content);
    let received = rooms.receive(&room, join.clone()).await.unwrap();
    assert!(
        matches!(received, Received::Accepted { .. }),
        "{received:?}"
    );
    let mut users = json!({"@mallory:evil": 100});
    if !hash {
        users["@alice:here"] = json!(100);
    }
    // Nobody but mallory, and before version 12 alice, may say anything.
    let levels = json!({"users": users, "events_default": 100});
    let levels = super::state("m.room.power_levels", levels);
    let levels = rooms
        .send(&room, &user("@alice:here"), levels, None)
        .await
        .unwrap();
    let mut auth = vec![pdu(rooms, &levels).await, join];
    auth.extend((!hash).then(|| find("m.room.create").clone()));
    (room, auth)
}

/// Two events of version 1 may redact each other, as their ids are chosen. Both are shown redacted, and reading ends.
#[tokio::test]
async fn s020_two_events_that_redact_each_other_are_both_redacted() {
    let rooms = server("here").await;
    let (room, auth) = shared(&rooms, RoomVersionId::V1).await;
    let rules = RoomRules::of(&RoomVersionId::V1).unwrap();
    let auth: Vec<&Pdu> = auth.iter().collect();
    let named = |own: &str, other: &str| {
        let plain = event_of_mallory(
            &room,
            rules,
            &auth[..1],
            &auth,
            ("m.room.redaction", None),
            json!({"reason": "round"}),
        );
        let mut json: serde_json::Value = serde_json::from_str(plain.json()).unwrap();
        json["event_id"] = json!(own);
        json["redacts"] = json!(other);
        Pdu::parse(&json.to_string(), rules).unwrap()
    };
    let ids = ["$one:evil", "$two:evil"];
    for pdu in [named(ids[0], ids[1]), named(ids[1], ids[0])] {
        let received = rooms.receive(&room, pdu).await.unwrap();
        assert!(
            matches!(received, Received::Accepted { .. }),
            "{received:?}"
        );
    }
    let view = rooms.view_known(&room).await.unwrap();
    let end = view.end();
    let mut viewer = view.viewer(&user("@alice:here")).await.unwrap();
    let query = PageQuery {
        from: end,
        to: None,
        dir: Direction::Backward,
        limit: 2,
        gaps: Gaps::Pass,
    };
    let page = viewer.page(query, |_| true).await.unwrap();
    assert_eq!(page.events.len(), 2);
    for event in &page.events {
        let json = viewer.json(event, &Form::default()).await.unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["content"], json!({}), "{json}");
    }
    assert_healthy(&rooms).await;
}

/// An event that is known as part of a state alone is shown to nobody; from the moment it has its place it is there once.
#[tokio::test]
async fn s026_an_outlier_is_seen_by_nobody_before_it_has_its_place() {
    let rooms = server("here").await;
    let (room, auth) = shared(&rooms, RoomVersionId::V11).await;
    let rules = RoomRules::of(&RoomVersionId::V11).unwrap();
    let auth: Vec<&Pdu> = auth.iter().collect();
    let topic = ("m.room.topic", Some(""));
    let content = json!({"topic": "secret"});
    let hidden = event_of_mallory(&room, rules, &auth[..1], &auth, topic, content);
    let id = hidden.event_id().to_owned();
    let shown = async || {
        let view = rooms.view_known(&room).await.unwrap();
        let end = view.end();
        let state = view.state("m.room.topic", "").await.unwrap().is_some();
        let mut viewer = view.viewer(&user("@alice:here")).await.unwrap();
        let query = PageQuery {
            from: end,
            to: None,
            dir: Direction::Backward,
            limit: MAX_PAGE,
            gaps: Gaps::Pass,
        };
        let page = viewer.page(query, |_| true).await.unwrap().events;
        let times = page.iter().filter(|event| event.event_id() == id).count();
        (times, viewer.event(&id).await.unwrap().is_some(), state)
    };
    let kept = rooms.receive_outliers(&room, vec![hidden.clone()]).await;
    assert_eq!(kept.unwrap().stored, 1);
    assert_eq!(place(&rooms, &id).await, Place::Outlier);
    assert_eq!(shown().await, (0, false, false));
    // Both at once, many times over: a reader finds it nowhere or everywhere.
    let receive = async {
        let received = rooms.receive(&room, hidden.clone()).await.unwrap();
        assert!(
            matches!(received, Received::Accepted { .. }),
            "{received:?}"
        );
    };
    let read = async {
        for _ in 0..50 {
            let seen = shown().await;
            assert!(
                seen == (0, false, false) || seen == (1, true, true),
                "{seen:?}"
            );
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(receive, read);
    assert_eq!(shown().await, (1, true, true));
    assert_healthy(&rooms).await;
}

/// A fork that nobody of ours may tie has a bounded number of ends, and no flood of them pushes out what was decided. What
/// did not count counts when an event follows it.
#[tokio::test]
async fn s113_a_fork_that_nobody_may_tie_has_a_bounded_number_of_ends() {
    let rooms = server("here").await;
    let (room, auth) = shared(&rooms, RoomVersionId::V12).await;
    let bob = super::member("@bob:here", "join");
    let alice = user("@alice:here");
    rooms
        .send(&room, &user("@bob:here"), bob, None)
        .await
        .unwrap();
    let old = rooms.view_known(&room).await.unwrap();
    let old = pdu(&rooms, &old.extremities().await.unwrap()[0]).await;
    let name = super::state("m.room.name", json!({"name": "decided"}));
    rooms.send(&room, &alice, name, None).await.unwrap();
    let leave = super::member("@alice:here", "leave");
    rooms.send(&room, &alice, leave, None).await.unwrap();

    let rules = RoomRules::of(&RoomVersionId::V12).unwrap();
    let auth: Vec<&Pdu> = auth.iter().collect();
    let topic = ("m.room.topic", Some(""));
    let branches: Vec<Pdu> = (0..MAX_EXTREMITIES + 20)
        .map(|n| event_of_mallory(&room, rules, &[&old], &auth, topic, json!({"topic": n})))
        .collect();
    for branch in &branches {
        let received = rooms.receive(&room, branch.clone()).await.unwrap();
        assert!(
            matches!(received, Received::Accepted { .. }),
            "{received:?}"
        );
    }
    let head_now = head(&rooms, &room).await;
    assert_eq!(head_now.extremities.len(), MAX_EXTREMITIES);
    let view = rooms.view_known(&room).await.unwrap();
    assert!(view.state("m.room.name", "").await.unwrap().is_some());
    assert!(!view.joined(&alice).await.unwrap());
    assert_healthy(&rooms).await;

    for some in branches.chunks(resuni_dag::limits::PREV_EVENTS) {
        let prev: Vec<&Pdu> = some.iter().collect();
        let text = ("m.room.message", None);
        let tie = event_of_mallory(&room, rules, &prev, &auth, text, json!({"body": ""}));
        rooms.receive(&room, tie).await.unwrap();
    }
    let ties = branches.len().div_ceil(resuni_dag::limits::PREV_EVENTS);
    // And the end at which alice left.
    assert_eq!(head(&rooms, &room).await.extremities.len(), ties + 1);
    assert_healthy(&rooms).await;
}
