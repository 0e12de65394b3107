//! How rooms begin, and who comes and goes.

use std::sync::Arc;

use crate::{CreateRoom, MemberDetails, MemberProfile, Membership, RoomError, Rooms, RoomsConfig};
use resuni_dag::SigningKey;
use resuni_store::{Clock, Store};
use ruma::{RoomVersionId, owned_server_name, room_alias_id, user_id};
use serde_json::{Value, json};

use super::reading::*;

#[tokio::test]
async fn a_room_begins_with_its_events_in_order() {
    let rooms = rooms().await;
    for version in resuni_dag::SUPPORTED.iter().copied() {
        let request = CreateRoom {
            room_version: Some(version.into()),
            room_alias_name: Some(format!("pub{version}")),
            name: Some("The pub".into()),
            topic: Some("Beer".into()),
            invite: vec![bob().to_owned()],
            published: true,
            creator_profile: MemberProfile {
                displayname: Some("Alice".into()),
                avatar_url: None,
            },
            ..CreateRoom::default()
        };
        let room = rooms.create(alice(), request).await.unwrap();
        let events = history(&rooms, &room, alice()).await;
        let expected = [
            "create",
            "member",
            "power_levels",
            "canonical_alias",
            "join_rules",
            "history_visibility",
            "name",
            "topic",
            "member",
        ];
        assert_eq!(kinds(&events), expected);
        assert_eq!(events[0]["content"]["room_version"], version);
        assert_eq!(events[1]["content"]["displayname"], "Alice");
        assert!(events.iter().all(|event| event["room_id"] == room.as_str()));
        if version == "12" {
            assert_eq!(
                events[0]["event_id"].as_str().unwrap()[1..],
                room.as_str()[1..]
            );
        }
        let view = rooms.view(&room).await.unwrap().unwrap();
        assert_eq!((view.joined_count(), view.invited_count()), (1, 1));
        assert_eq!(view.heroes(alice()).await.unwrap(), [bob()]);
        let stripped = rooms
            .stripped_state(bob(), view.num())
            .await
            .unwrap()
            .unwrap();
        let stripped: Vec<Value> = serde_json::from_str(&stripped).unwrap();
        assert_eq!(
            kinds(&stripped),
            [
                "create",
                "name",
                "topic",
                "join_rules",
                "canonical_alias",
                "member",
                "member"
            ]
        );
        assert!(stripped.iter().all(|event| event.as_object().unwrap().len()
            == if event["type"] == "m.room.create" {
                5
            } else {
                4
            }));
    }
}

#[tokio::test]
async fn two_rooms_of_the_same_moment_have_two_ids() {
    struct Stopped;
    impl Clock for Stopped {
        fn now_ms(&self) -> u64 {
            5
        }
    }
    let config = RoomsConfig {
        server_name: owned_server_name!("h"),
        key: Arc::new(SigningKey::generate("1", [7; 32]).unwrap()),
        default_version: RoomVersionId::V12,
    };
    let rooms = Rooms::open(config, Store::memory().await, Arc::new(Stopped))
        .await
        .unwrap();
    let one = rooms.create(alice(), public()).await.unwrap();
    let two = rooms.create(alice(), public()).await.unwrap();
    assert_ne!(one, two);
}

#[tokio::test]
async fn a_creation_that_the_rules_refuse_leaves_nothing() {
    let rooms = rooms().await;
    let request = CreateRoom {
        name: Some("x".into()),
        room_alias_name: Some("x".into()),
        room_version: Some("11".into()),
        power_level_content_override: map(json!({"users": {"@alice:h": 10}})),
        ..public()
    };
    let refused = rooms.create(alice(), request).await;
    assert!(
        matches!(
            refused,
            Err(RoomError::BadRequest {
                errcode: "M_INVALID_ROOM_STATE",
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(
        rooms.resolve_alias(room_alias_id!("#x:h")).await.unwrap(),
        None
    );
    assert!(rooms.rooms_of(alice(), &[]).await.unwrap().is_empty());
    let unknown = CreateRoom {
        room_version: Some("9999".into()),
        ..public()
    };
    assert!(matches!(
        rooms.create(alice(), unknown).await,
        Err(RoomError::UnsupportedVersion(_))
    ));
    let one = CreateRoom {
        room_alias_name: Some("x".into()),
        ..public()
    };
    rooms.create(alice(), one.clone()).await.unwrap();
    assert!(matches!(
        rooms.create(alice(), one).await,
        Err(RoomError::InUse(_))
    ));
}

#[tokio::test]
async fn memberships() {
    let rooms = rooms().await;
    let room = rooms.create(alice(), CreateRoom::default()).await.unwrap();
    let plain = MemberDetails::default();
    let forbidden = |answer: Result<(), RoomError>| {
        assert!(matches!(answer, Err(RoomError::Forbidden(_))), "{answer:?}")
    };
    forbidden(rooms.join(&room, bob(), &plain).await);
    forbidden(rooms.kick(&room, alice(), bob(), None, false).await);
    forbidden(rooms.unban(&room, alice(), bob(), None).await);
    forbidden(rooms.invite(&room, bob(), bob(), &plain).await);
    rooms.invite(&room, alice(), bob(), &plain).await.unwrap();
    rooms.invite(&room, alice(), bob(), &plain).await.unwrap();
    rooms.join(&room, bob(), &plain).await.unwrap();
    rooms.join(&room, bob(), &plain).await.unwrap();
    forbidden(rooms.invite(&room, alice(), bob(), &plain).await);
    assert!(matches!(
        rooms.forget(&room, bob()).await,
        Err(RoomError::BadRequest {
            errcode: "M_UNKNOWN",
            ..
        })
    ));
    rooms
        .kick(&room, alice(), bob(), Some("why not"), false)
        .await
        .unwrap();
    rooms.leave(&room, bob(), None).await.unwrap();
    rooms.forget(&room, bob()).await.unwrap();
    assert!(rooms.rooms_of(bob(), &[]).await.unwrap().is_empty());
    rooms.ban(&room, alice(), bob(), None, false).await.unwrap();
    forbidden(rooms.invite(&room, alice(), bob(), &plain).await);
    rooms.unban(&room, alice(), bob(), None).await.unwrap();
    let far = user_id!("@far:other");
    let remote = rooms.invite(&room, alice(), far, &plain).await;
    assert!(
        matches!(&remote, Err(RoomError::Remote { via, .. }) if via == &[owned_server_name!("other")]),
        "{remote:?}"
    );
    let elsewhere = ruma::room_id!("!r:other");
    let remote = rooms.join(elsewhere, bob(), &plain).await;
    assert!(
        matches!(&remote, Err(RoomError::Remote { via, .. }) if via == &[owned_server_name!("other")]),
        "{remote:?}"
    );
    // Servers that the client names are asked and no others: another one could let in whom they would not.
    let named = MemberDetails {
        via: vec![owned_server_name!("named")],
        ..MemberDetails::default()
    };
    let remote = rooms.join(elsewhere, bob(), &named).await;
    assert!(
        matches!(&remote, Err(RoomError::Remote { via, .. }) if via == &[owned_server_name!("named")]),
        "{remote:?}"
    );
    assert!(matches!(
        rooms.join(ruma::room_id!("!x:h"), bob(), &plain).await,
        Err(RoomError::NoWay(_))
    ));
}

#[tokio::test]
async fn restricted_joins_need_somebody_who_may_invite() {
    let rooms = rooms().await;
    let club = rooms.create(alice(), public()).await.unwrap();
    let request = CreateRoom {
        initial_state: vec![crate::InitialState {
            kind: "m.room.join_rules".into(),
            state_key: String::new(),
            content: map(
                json!({"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}),
            ),
        }],
        ..CreateRoom::default()
    };
    let room = rooms.create(alice(), request).await.unwrap();
    let plain = MemberDetails::default();
    assert!(matches!(
        rooms.join(&room, bob(), &plain).await,
        Err(RoomError::Forbidden(_))
    ));
    rooms.join(&club, bob(), &plain).await.unwrap();
    rooms.join(&room, bob(), &plain).await.unwrap();
    let profile = MemberProfile {
        displayname: Some("Bob".into()),
        avatar_url: None,
    };
    assert_eq!(rooms.propagate_profile(bob(), &profile).await.unwrap(), 2);
    assert_eq!(rooms.propagate_profile(bob(), &profile).await.unwrap(), 0);
    let view = rooms.view(&room).await.unwrap().unwrap();
    let member: Value = view
        .state("m.room.member", "@bob:h")
        .await
        .unwrap()
        .unwrap()
        .content_as()
        .unwrap();
    assert_eq!(member, json!({"membership": "join", "displayname": "Bob"}));
}

#[tokio::test]
async fn knocking() {
    let rooms = rooms().await;
    let request = CreateRoom {
        initial_state: vec![crate::InitialState {
            kind: "m.room.join_rules".into(),
            state_key: String::new(),
            content: map(json!({"join_rule": "knock"})),
        }],
        ..CreateRoom::default()
    };
    let room = rooms.create(alice(), request).await.unwrap();
    rooms
        .knock(
            &room,
            bob(),
            &MemberDetails {
                reason: Some("me".into()),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    let knocks = rooms.rooms_of(bob(), &[Membership::Knock]).await.unwrap();
    assert_eq!(knocks.len(), 1);
    assert!(
        rooms
            .stripped_state(bob(), knocks[0].num)
            .await
            .unwrap()
            .unwrap()
            .contains("m.room.create")
    );
    rooms
        .invite(&room, alice(), bob(), &MemberDetails::default())
        .await
        .unwrap();
    rooms
        .join(&room, bob(), &MemberDetails::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn who_left_reads_the_state_of_that_time() {
    let rooms = rooms().await;
    let room = rooms.create(alice(), public()).await.unwrap();
    rooms
        .join(&room, bob(), &MemberDetails::default())
        .await
        .unwrap();
    set(
        &rooms,
        &room,
        alice(),
        "m.room.name",
        json!({"name": "then"}),
    )
    .await;
    rooms.leave(&room, bob(), None).await.unwrap();
    set(
        &rooms,
        &room,
        alice(),
        "m.room.name",
        json!({"name": "now"}),
    )
    .await;
    let view = rooms.view(&room).await.unwrap().unwrap();
    let name = async |user| {
        let state = view.readable_state(user).await?;
        Ok::<_, RoomError>(
            state
                .get("m.room.name", "")
                .await?
                .unwrap()
                .content()
                .get()
                .to_owned(),
        )
    };
    assert_eq!(name(alice()).await.unwrap(), r#"{"name":"now"}"#);
    assert_eq!(name(bob()).await.unwrap(), r#"{"name":"then"}"#);
    assert!(matches!(
        name(user_id!("@never:h")).await,
        Err(RoomError::Forbidden(_))
    ));
    rooms.forget(&room, bob()).await.unwrap();
    let view = rooms.view(&room).await.unwrap().unwrap();
    assert!(view.readable_state(bob()).await.is_err());
}
