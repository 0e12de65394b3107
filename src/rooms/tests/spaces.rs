//! Walks through spaces: who is shown what, here and by way of other servers.

use super::*;
use crate::spaces::{Hierarchy, Step, Walk};

const ALICE: &str = "@alice:here";
const BOB: &str = "@bob:here";

async fn create(rooms: &Rooms, space: bool, rule: serde_json::Value) -> OwnedRoomId {
    let me = user(ALICE);
    let create = match space {
        true => json!({"room_version": "12", "type": "m.space"}),
        false => json!({"room_version": "12"}),
    };
    let rest = vec![
        (me.clone(), member(ALICE, "join")),
        (me.clone(), state("m.room.power_levels", json!({}))),
        (me.clone(), state("m.room.join_rules", rule)),
    ];
    let create = state("m.room.create", create);
    rooms
        .found(&RoomVersionId::V12, None, &me, create, rest)
        .await
        .unwrap()
}

async fn link(rooms: &Rooms, space: &OwnedRoomId, child: &str, content: serde_json::Value) {
    let event = NewEvent::state("m.space.child", child, raw(content));
    rooms.send(space, &user(ALICE), event, None).await.unwrap();
}

fn via() -> serde_json::Value {
    json!({"via": ["here"]})
}

fn public() -> serde_json::Value {
    json!({"join_rule": "public"})
}

/// The rooms of a walk; those that are asked for elsewhere are nowhere.
async fn walk(rooms: &Rooms, walk: &mut Walk) -> Vec<OwnedRoomId> {
    let mut found = Vec::new();
    loop {
        match walk.step(rooms).await.unwrap() {
            Step::Room(room) => found.push(room.details.summary.room_id.clone()),
            Step::Ask { .. } => {
                assert!(walk.answer(rooms, None).await.unwrap().is_none());
            }
            Step::End => return found,
        }
    }
}

async fn seen(rooms: &Rooms, root: &OwnedRoomId, who: &str) -> Vec<OwnedRoomId> {
    walk(rooms, &mut Walk::new(root.clone(), user(who), false, None)).await
}

#[tokio::test]
async fn a_space_shows_what_its_reader_may_join() {
    let rooms = server("here").await;
    let root = create(&rooms, true, public()).await;
    let sub = create(&rooms, true, json!({"join_rule": "invite"})).await;
    let leaf = create(&rooms, false, public()).await;
    let allow = json!([{"type": "m.room_membership", "room_id": root}]);
    let restricted = create(
        &rooms,
        false,
        json!({"join_rule": "restricted", "allow": allow}),
    )
    .await;
    link(
        &rooms,
        &root,
        sub.as_str(),
        json!({"via": ["here"], "order": "a"}),
    )
    .await;
    link(
        &rooms,
        &root,
        restricted.as_str(),
        json!({"via": ["here"], "order": "b", "suggested": true}),
    )
    .await;
    link(&rooms, &sub, leaf.as_str(), via()).await;
    // A loop, a link that is none, and one to a place that nobody knows.
    link(&rooms, &sub, root.as_str(), via()).await;
    link(&rooms, &root, "!gone:here", json!({})).await;
    link(&rooms, &root, "!elsewhere:there", json!({"via": ["there"]})).await;

    let all = vec![root.clone(), sub.clone(), leaf.clone(), restricted.clone()];
    assert_eq!(seen(&rooms, &root, ALICE).await, all);
    assert_eq!(seen(&rooms, &root, BOB).await, vec![root.clone()]);
    rooms
        .send(&root, &user(BOB), member(BOB, "join"), None)
        .await
        .unwrap();
    assert_eq!(
        seen(&rooms, &root, BOB).await,
        vec![root.clone(), restricted.clone()]
    );
    rooms
        .send(&sub, &user(ALICE), member(BOB, "invite"), None)
        .await
        .unwrap();
    assert_eq!(seen(&rooms, &root, BOB).await, all);

    let mut suggested = Walk::new(root.clone(), user(ALICE), true, None);
    assert_eq!(
        walk(&rooms, &mut suggested).await,
        vec![root.clone(), restricted.clone()]
    );
    let mut flat = Walk::new(root.clone(), user(ALICE), false, Some(1));
    assert_eq!(
        walk(&rooms, &mut flat).await,
        vec![root.clone(), sub.clone(), restricted]
    );

    rooms
        .send(&root, &user(ALICE), member(BOB, "ban"), None)
        .await
        .unwrap();
    assert!(seen(&rooms, &root, BOB).await.is_empty());
    link(&rooms, &root, sub.as_str(), json!({})).await;
    assert!(!seen(&rooms, &root, ALICE).await.contains(&sub));
    assert_healthy(&rooms).await;
}

#[tokio::test]
async fn a_walk_is_gone_on_with_by_its_own_user_only() {
    let rooms = server("here").await;
    let root = create(&rooms, true, public()).await;
    let leaf = create(&rooms, false, public()).await;
    link(&rooms, &root, leaf.as_str(), via()).await;
    let new = |who: &str, depth| Walk::new(root.clone(), user(who), false, depth);
    let mut first = new(ALICE, Some(3));
    assert!(matches!(first.step(&rooms).await.unwrap(), Step::Room(_)));
    let token = rooms.walks.keep(first);
    for (who, depth) in [(BOB, Some(3)), (ALICE, Some(2))] {
        let again = rooms.walks.resume(&token, &new(who, depth), true);
        assert!(matches!(again, Err(RoomError::BadRequest { .. })));
    }
    assert!(rooms.walks.resume("w1", &new(ALICE, None), false).is_err());
    // A client may ask for the same page twice.
    for _ in 0..2 {
        let mut again = rooms
            .walks
            .resume(&token, &new(ALICE, None), false)
            .unwrap();
        assert_eq!(walk(&rooms, &mut again).await, vec![leaf.clone()]);
    }
}

#[tokio::test]
async fn what_another_server_tells_is_filtered_for_the_reader() {
    let rooms = server("here").await;
    let root = create(&rooms, true, public()).await;
    link(&rooms, &root, "!sub:there", json!({"via": ["there"]})).await;
    let summary = |room: &str, rule: &str| {
        json!({
            "room_id": room, "num_joined_members": 1, "world_readable": false, "guest_can_join": false,
            "join_rule": rule, "allowed_room_ids": [root],
        })
    };
    let mut room = summary("!sub:there", "restricted");
    room["room_type"] = json!("m.space");
    let child = |room: &str| {
        json!({
            "type": "m.space.child", "state_key": room, "sender": "@x:there", "origin_server_ts": 1,
            "content": {"via": ["there"]},
        })
    };
    room["children_state"] = json!([
        child("!open:there"),
        child("!closed:there"),
        child("!no:there")
    ]);
    let mut closed = summary("!closed:there", "invite");
    closed["allowed_room_ids"] = json!([]);
    let answer = json!({
        "room": room, "children": [summary("!open:there", "public"), closed],
        "inaccessible_children": ["!no:there"],
    });
    let answer: Hierarchy = serde_json::from_value(answer).unwrap();

    for (who, expected) in [(ALICE, vec!["!sub:there", "!open:there"]), (BOB, vec![])] {
        let mut walking = Walk::new(root.clone(), user(who), false, None);
        assert!(matches!(walking.step(&rooms).await.unwrap(), Step::Room(_)));
        let Step::Ask { room, via } = walking.step(&rooms).await.unwrap() else {
            panic!("the room is not here");
        };
        assert_eq!((room.as_str(), via.len()), ("!sub:there", 1));
        let told = walking.answer(&rooms, Some(answer.clone())).await.unwrap();
        let mut found: Vec<_> = told
            .into_iter()
            .map(|room| room.details.summary.room_id)
            .collect();
        found.extend(walk(&rooms, &mut walking).await);
        assert_eq!(found, expected);
    }
    // An answer about another room is none.
    let mut walking = Walk::new(root.clone(), user(ALICE), false, None);
    link(&rooms, &root, "!sub:there", json!({})).await;
    link(&rooms, &root, "!other:there", json!({"via": ["there"]})).await;
    walking.step(&rooms).await.unwrap();
    walking.step(&rooms).await.unwrap();
    assert!(
        walking
            .answer(&rooms, Some(answer))
            .await
            .unwrap()
            .is_none()
    );
}
