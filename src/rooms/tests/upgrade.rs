//! A room goes on as another one.

use resuni_dag::RoomRules;
use ruma::RoomAliasId;
use serde_json::Value;

use super::*;
use crate::create_content::InitialState;

fn to(version: &str) -> UpgradeRoom {
    UpgradeRoom {
        version: version.to_owned(),
        additional_creators: Vec::new(),
        profile: MemberProfile {
            displayname: Some("Alice".to_owned()),
            avatar_url: None,
        },
    }
}

async fn made(rooms: &Rooms, version: &str, name: &str) -> OwnedRoomId {
    let request = CreateRoom {
        room_version: Some(version.to_owned()),
        room_alias_name: Some(name.to_owned()),
        name: Some("The pub".to_owned()),
        topic: Some("Beer".to_owned()),
        published: true,
        initial_state: vec![InitialState {
            kind: "org.example.own".to_owned(),
            state_key: String::new(),
            content: serde_json::Map::new(),
        }],
        ..CreateRoom::default()
    };
    rooms.create(&user("@alice:here"), request).await.unwrap()
}

async fn content(rooms: &Rooms, room: &OwnedRoomId, kind: &str, key: &str) -> Value {
    let view = rooms.view(room).await.unwrap().unwrap();
    let event = view.state(kind, key).await.unwrap();
    event.map_or(Value::Null, |event| event.content_as().unwrap())
}

#[tokio::test]
async fn from_every_version_to_the_next_and_back() {
    let rooms = server("here").await;
    let versions: Vec<&str> = resuni_dag::SUPPORTED.to_vec();
    let next = versions.iter().skip(1).chain(["11", "6", "1"].iter());
    for (n, (from, into)) in versions
        .iter()
        .chain(["12"; 2].iter())
        .zip(next)
        .enumerate()
    {
        let name = format!("pub{n}");
        let old = made(&rooms, from, &name).await;
        let (alice, bob) = (user("@alice:here"), user("@bob:here"));
        rooms
            .send(&old, &bob, member("@bob:here", "join"), None)
            .await
            .unwrap();
        rooms
            .send(&old, &alice, member("@eve:there", "ban"), None)
            .await
            .unwrap();
        let new = rooms.upgrade(&old, &alice, &to(into)).await.unwrap();
        let what = format!("{from} to {into}");

        let rules = RoomRules::of(&RoomVersionId::try_from(*into).unwrap()).unwrap();
        let create = content(&rooms, &new, "m.room.create", "").await;
        assert_eq!(create["room_version"], *into, "{what}");
        assert_eq!(create["predecessor"]["room_id"], old.as_str(), "{what}");
        let names_event = create["predecessor"].get("event_id").is_some();
        assert_eq!(names_event, !rules.room_id_is_create_hash(), "{what}");
        let tombstone = content(&rooms, &old, "m.room.tombstone", "").await;
        assert_eq!(tombstone["replacement_room"], new.as_str(), "{what}");

        for (kind, field, value) in [
            ("m.room.name", "name", "The pub"),
            ("m.room.topic", "topic", "Beer"),
            ("m.room.join_rules", "join_rule", "public"),
            ("m.room.history_visibility", "history_visibility", "shared"),
        ] {
            assert_eq!(
                content(&rooms, &new, kind, "").await[field],
                value,
                "{what}"
            );
        }
        let alias = format!("#{name}:here");
        let canonical = content(&rooms, &new, "m.room.canonical_alias", "").await;
        assert_eq!(canonical["alias"], alias, "{what}");
        let left = content(&rooms, &old, "m.room.canonical_alias", "").await;
        assert_eq!(left, json!({}), "{what}");
        assert_eq!(
            content(&rooms, &new, "org.example.own", "").await,
            Value::Null
        );
        let eve = content(&rooms, &new, "m.room.member", "@eve:there").await;
        assert_eq!(eve["membership"], "ban", "{what}");
        let me = content(&rooms, &new, "m.room.member", "@alice:here").await;
        assert_eq!(me, json!({"membership": "join", "displayname": "Alice"}));
        assert_eq!(
            content(&rooms, &new, "m.room.member", "@bob:here").await,
            Value::Null
        );
        let levels = content(&rooms, &new, "m.room.power_levels", "").await;
        let listed = levels["users"].get("@alice:here").is_some();
        assert_eq!(listed, !rules.creators_are_privileged(), "{what}: {levels}");

        let alias = RoomAliasId::parse(alias).unwrap();
        let (points_at, _) = rooms.resolve_alias(&alias).await.unwrap().unwrap();
        assert_eq!(points_at, new, "{what}");
        assert!(
            rooms.is_published(&new).await.unwrap() && !rooms.is_published(&old).await.unwrap()
        );
        // Nobody speaks in the old room any more, and alice may do everything in the new one.
        let late = rooms.send(&old, &bob, message("hello?"), None).await;
        assert!(
            matches!(late, Err(RoomError::Forbidden(_))),
            "{what}: {late:?}"
        );
        let name = state("m.room.power_levels", levels);
        rooms.send(&new, &alice, name, None).await.unwrap();
    }
    assert_healthy(&rooms).await;
}

#[tokio::test]
async fn who_may_not_end_a_room_does_not_replace_it() {
    let rooms = server("here").await;
    let old = made(&rooms, "11", "pub").await;
    let bob = user("@bob:here");
    rooms
        .send(&old, &bob, member("@bob:here", "join"), None)
        .await
        .unwrap();
    let refused = rooms.upgrade(&old, &bob, &to("12")).await;
    assert!(
        matches!(refused, Err(RoomError::Forbidden(_))),
        "{refused:?}"
    );
    let refused = rooms.upgrade(&old, &user("@alice:here"), &to("13")).await;
    assert!(
        matches!(refused, Err(RoomError::UnsupportedVersion(_))),
        "{refused:?}"
    );
    // The room goes on, with its name.
    rooms
        .send(&old, &bob, message("still here"), None)
        .await
        .unwrap();
    let alias = RoomAliasId::parse("#pub:here").unwrap();
    assert_eq!(rooms.resolve_alias(&alias).await.unwrap().unwrap().0, old);
    assert_healthy(&rooms).await;
}

#[tokio::test]
async fn a_moderator_who_may_end_the_room_gets_no_more_power_by_it() {
    let rooms = server("here").await;
    let old = made(&rooms, "10", "pub").await;
    let (alice, bob) = (user("@alice:here"), user("@bob:here"));
    rooms
        .send(&old, &bob, member("@bob:here", "join"), None)
        .await
        .unwrap();
    let levels = json!({"users": {"@alice:here": 100, "@bob:here": 50},
                        "events": {"m.room.tombstone": 50, "m.room.power_levels": 100}});
    rooms
        .send(
            &old,
            &alice,
            state("m.room.power_levels", levels.clone()),
            None,
        )
        .await
        .unwrap();
    let new = rooms.upgrade(&old, &bob, &to("11")).await.unwrap();
    let now = content(&rooms, &new, "m.room.power_levels", "").await;
    assert_eq!(now["users"], levels["users"]);
    // He could not close the old room, and that is no reason to fail.
    assert_eq!(
        content(&rooms, &old, "m.room.power_levels", "").await,
        levels
    );
    assert_healthy(&rooms).await;
}

#[tokio::test]
async fn a_space_keeps_its_rooms() {
    let rooms = server("here").await;
    let alice = user("@alice:here");
    let request = CreateRoom {
        creation_content: [("type".to_owned(), json!("m.space"))]
            .into_iter()
            .collect(),
        ..CreateRoom::default()
    };
    let old = rooms.create(&alice, request).await.unwrap();
    for (child, content) in [("!in:x", json!({"via": ["x"]})), ("!out:x", json!({}))] {
        let event = NewEvent::state("m.space.child", child, raw(content));
        rooms.send(&old, &alice, event, None).await.unwrap();
    }
    let request = UpgradeRoom {
        additional_creators: vec![user("@bob:here")],
        ..to("12")
    };
    let new = rooms.upgrade(&old, &alice, &request).await.unwrap();
    let create = content(&rooms, &new, "m.room.create", "").await;
    assert_eq!(
        (&create["type"], &create["additional_creators"]),
        (&json!("m.space"), &json!(["@bob:here"]))
    );
    assert_eq!(
        content(&rooms, &new, "m.space.child", "!in:x").await,
        json!({"via": ["x"]})
    );
    assert_eq!(
        content(&rooms, &new, "m.space.child", "!out:x").await,
        Value::Null
    );
}

#[tokio::test]
async fn creators_who_are_listed_are_a_bad_request() {
    let rooms = server("here").await;
    let alice = user("@alice:here");
    let room = made(&rooms, "12", "pub").await;
    let levels = |user: &str| state("m.room.power_levels", json!({"users": {user: 100}}));
    let refused = rooms.send(&room, &alice, levels("@alice:here"), None).await;
    assert!(
        matches!(refused, Err(RoomError::BadRequest { .. })),
        "{refused:?}"
    );
    rooms
        .send(&room, &alice, levels("@bob:here"), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn state_of_an_owner_needs_a_name_of_one() {
    let rooms = server("here").await;
    let alice = user("@alice:here");
    let room = made(&rooms, "org.matrix.msc3757.10", "pub").await;
    let owned = |key: &str| NewEvent::state("org.example", key, raw(json!({})));
    let refused = rooms.send(&room, &alice, owned("@nobody"), None).await;
    assert!(
        matches!(refused, Err(RoomError::BadRequest { .. })),
        "{refused:?}"
    );
    rooms
        .send(&room, &alice, owned("@alice:here_phone"), None)
        .await
        .unwrap();
}
