//! Rooms made by the real `create` and `send`, read through views.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use resuni_dag::SigningKey;
use resuni_rooms::{
    CreateRoom, DirectoryQuery, Form, Gaps, MemberDetails, MemberProfile, Membership, NewEvent,
    Page, PageQuery, Preset, ReceiptKind, RoomError, Rooms, RoomsConfig, TimelineToken, TxnKey,
    Viewer,
};
use resuni_store::{Clock, Direction, Position, Store};
use ruma::{
    OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, UserId, owned_server_name, room_alias_id,
    user_id,
};
use serde_json::{Value, json, value::to_raw_value};

struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn now_ms(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

async fn rooms() -> Arc<Rooms> {
    let config = RoomsConfig {
        server_name: owned_server_name!("h"),
        key: Arc::new(SigningKey::generate("1", [7; 32]).unwrap()),
        default_version: RoomVersionId::V12,
    };
    Rooms::open(
        config,
        Store::memory().await,
        Arc::new(HandClock(AtomicU64::new(1_000_000))),
    )
    .await
    .unwrap()
}

fn alice() -> &'static UserId {
    user_id!("@alice:h")
}

fn bob() -> &'static UserId {
    user_id!("@bob:h")
}

fn public() -> CreateRoom {
    CreateRoom {
        preset: Some(Preset::PublicChat),
        ..CreateRoom::default()
    }
}

fn map(value: Value) -> serde_json::Map<String, Value> {
    value.as_object().unwrap().clone()
}

async fn say(rooms: &Rooms, room: &RoomId, user: &UserId, body: &str) -> OwnedEventId {
    let content = to_raw_value(&json!({"msgtype": "m.text", "body": body})).unwrap();
    rooms
        .send(
            room,
            user,
            NewEvent::message("m.room.message", content),
            None,
        )
        .await
        .unwrap()
}

async fn set(
    rooms: &Rooms,
    room: &RoomId,
    user: &UserId,
    kind: &str,
    content: Value,
) -> OwnedEventId {
    rooms
        .send(
            room,
            user,
            NewEvent::state(kind, "", to_raw_value(&content).unwrap()),
            None,
        )
        .await
        .unwrap()
}

async fn viewer(rooms: &Rooms, room: &RoomId, user: &UserId) -> Viewer {
    rooms
        .view(room)
        .await
        .unwrap()
        .unwrap()
        .viewer(user)
        .await
        .unwrap()
}

async fn history(rooms: &Rooms, room: &RoomId, user: &UserId) -> Vec<Value> {
    let mut viewer = viewer(rooms, room, user).await;
    let from = viewer.view().end();
    let query = PageQuery {
        from,
        to: None,
        dir: Direction::Backward,
        limit: 1000,
        gaps: Gaps::Stop,
    };
    let page: Page = viewer.page(query, |_| true).await.unwrap();
    assert_eq!(page.end, None);
    let mut events = Vec::new();
    for event in page.events.iter().rev() {
        events.push(
            serde_json::from_str(&viewer.json(event, &Form::default()).await.unwrap()).unwrap(),
        );
    }
    events
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| {
            event["type"]
                .as_str()
                .unwrap()
                .trim_start_matches("m.room.")
        })
        .collect()
}

fn bodies(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| event["content"]["body"].as_str())
        .collect()
}

#[tokio::test]
async fn a_room_begins_with_its_events_in_order() {
    let rooms = rooms().await;
    for version in ["10", "11", "12"] {
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
                "member"
            ]
        );
        assert!(
            stripped
                .iter()
                .all(|event| event.as_object().unwrap().len() == 4)
        );
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

/// What bob sees of a room whose visibility changes while he comes and goes.
#[tokio::test]
async fn each_event_is_judged_by_its_own_state() {
    for (visibility, before_invite, invited) in [
        ("world_readable", true, true),
        ("shared", true, true),
        ("invited", false, true),
        ("joined", false, false),
    ] {
        let rooms = rooms().await;
        let request = CreateRoom {
            initial_state: vec![resuni_rooms::InitialState {
                kind: "m.room.history_visibility".into(),
                state_key: String::new(),
                content: map(json!({"history_visibility": visibility})),
            }],
            ..public()
        };
        let room = rooms.create(alice(), request).await.unwrap();
        say(&rooms, &room, alice(), "before").await;
        rooms
            .invite(&room, alice(), bob(), &MemberDetails::default())
            .await
            .unwrap();
        say(&rooms, &room, alice(), "invited").await;
        if visibility != "world_readable" {
            let seen_by_the_invited = history(&rooms, &room, bob()).await;
            let expected: &[&str] = if visibility == "invited" {
                &["invited"]
            } else {
                &[]
            };
            assert_eq!(bodies(&seen_by_the_invited), expected, "{visibility}");
        }
        rooms
            .join(&room, bob(), &MemberDetails::default())
            .await
            .unwrap();
        say(&rooms, &room, alice(), "joined").await;
        rooms.leave(&room, bob(), None).await.unwrap();
        say(&rooms, &room, alice(), "after").await;
        let events = history(&rooms, &room, bob()).await;
        let mut expected = Vec::new();
        expected.extend(before_invite.then_some("before"));
        expected.extend(invited.then_some("invited"));
        expected.push("joined");
        expected.extend((visibility == "world_readable").then_some("after"));
        assert_eq!(bodies(&events), expected, "{visibility}");
        // His own join and leave are his to see whatever the visibility.
        let own: Vec<&str> = events
            .iter()
            .filter(|event| event["state_key"] == "@bob:h")
            .map(|event| event["content"]["membership"].as_str().unwrap())
            .collect();
        assert!(own.ends_with(&["join", "leave"]), "{visibility}: {own:?}");
    }
}

#[tokio::test]
async fn a_change_of_visibility_shows_on_both_sides() {
    let rooms = rooms().await;
    let room = rooms.create(alice(), public()).await.unwrap();
    set(
        &rooms,
        &room,
        alice(),
        "m.room.history_visibility",
        json!({"history_visibility": "world_readable"}),
    )
    .await;
    say(&rooms, &room, alice(), "open").await;
    set(
        &rooms,
        &room,
        alice(),
        "m.room.history_visibility",
        json!({"history_visibility": "joined"}),
    )
    .await;
    say(&rooms, &room, alice(), "closed").await;
    let events = history(&rooms, &room, bob()).await;
    assert_eq!(
        kinds(&events),
        ["history_visibility", "message", "history_visibility"]
    );
    assert_eq!(bodies(&events), ["open"]);
    // Other servers: the same events, and with a joined user of theirs nothing is hidden.
    let view = rooms.view(&room).await.unwrap().unwrap();
    let mut server = view
        .server_viewer(&owned_server_name!("far"))
        .await
        .unwrap();
    let query = PageQuery {
        from: TimelineToken::live(Position(0)),
        to: None,
        dir: Direction::Forward,
        limit: 100,
        gaps: Gaps::Stop,
    };
    let mut seen = Vec::new();
    for event in view.page(query).await.unwrap().events {
        if server
            .sees(event.row.snap_before, &event.row.pdu)
            .await
            .unwrap()
        {
            seen.extend(
                event
                    .fields()
                    .content
                    .contains("body")
                    .then(|| event.row.pdu.contains("\"open\"")),
            );
        }
    }
    assert_eq!(seen, [true]);
}

#[tokio::test]
async fn what_a_reader_is_told_in_unsigned() {
    let rooms = rooms().await;
    let room = rooms.create(alice(), public()).await.unwrap();
    rooms
        .join(&room, bob(), &MemberDetails::default())
        .await
        .unwrap();
    let txn = TxnKey {
        device: "DEV".into(),
        txn: "t1".into(),
    };
    let content = to_raw_value(&json!({"body": "hi"})).unwrap();
    let message = NewEvent::message("m.room.message", content);
    let sent = rooms
        .send(&room, bob(), message.clone(), Some(txn.clone()))
        .await
        .unwrap();
    assert_eq!(
        rooms.send(&room, bob(), message, Some(txn)).await.unwrap(),
        sent,
        "the same transaction again"
    );
    let old = set(
        &rooms,
        &room,
        alice(),
        "m.room.name",
        json!({"name": "old"}),
    )
    .await;
    set(
        &rooms,
        &room,
        alice(),
        "m.room.name",
        json!({"name": "new"}),
    )
    .await;

    let mut by_bob = viewer(&rooms, &room, bob()).await;
    let event = by_bob.view().timeline_event(&sent).await.unwrap().unwrap();
    for (device, expected) in [
        (Some("DEV"), json!("t1")),
        (Some("OTHER"), Value::Null),
        (None, Value::Null),
    ] {
        let form = Form {
            device,
            ..Form::default()
        };
        let json: Value = serde_json::from_str(&by_bob.json(&event, &form).await.unwrap()).unwrap();
        assert_eq!(
            (
                &json["unsigned"]["transaction_id"],
                &json["unsigned"]["membership"]
            ),
            (&expected, &json!("join"))
        );
    }
    let mut by_alice = viewer(&rooms, &room, alice()).await;
    let form = Form {
        device: Some("DEV"),
        ..Form::default()
    };
    let json: Value = serde_json::from_str(&by_alice.json(&event, &form).await.unwrap()).unwrap();
    assert_eq!(
        json["unsigned"].get("transaction_id"),
        None,
        "another user's device may have the same id"
    );

    let events = history(&rooms, &room, bob()).await;
    let renamed = events.last().unwrap();
    assert_eq!(renamed["unsigned"]["prev_content"], json!({"name": "old"}));
    assert_eq!(renamed["unsigned"]["replaces_state"], json!(old));
    assert_eq!(events[0]["unsigned"]["membership"], "leave");
}

#[tokio::test]
async fn redacted_events_are_redacted_wherever_they_are_read() {
    let rooms = rooms().await;
    let room = rooms.create(alice(), public()).await.unwrap();
    let message = say(&rooms, &room, alice(), "spam").await;
    let topic = set(
        &rooms,
        &room,
        alice(),
        "m.room.topic",
        json!({"topic": "spam"}),
    )
    .await;
    for target in [&message, &topic] {
        let content = to_raw_value(&json!({"reason": "spam", "redacts": target})).unwrap();
        rooms
            .send(
                &room,
                alice(),
                NewEvent::message("m.room.redaction", content),
                None,
            )
            .await
            .unwrap();
    }
    let events = history(&rooms, &room, alice()).await;
    for target in [&message, &topic] {
        let event = events
            .iter()
            .find(|event| event["event_id"] == target.as_str())
            .unwrap();
        assert_eq!(event["content"], json!({}));
        let because = &event["unsigned"]["redacted_because"];
        assert_eq!(
            (&because["redacts"], &because["content"]["redacts"]),
            (&json!(target), &json!(target))
        );
    }
    let view = rooms.view(&room).await.unwrap().unwrap();
    let nums = view.state_at_snap(view.snap()).nums().await.unwrap();
    let state = view.state_json(&nums, &Form::default()).await.unwrap();
    assert!(
        !state
            .iter()
            .any(|event| event.contains(r#""topic":"spam""#)),
        "{state:?}"
    );
    let topic: Value = state
        .iter()
        .map(|e| serde_json::from_str::<Value>(e).unwrap())
        .find(|e| e["type"] == "m.room.topic")
        .unwrap();
    assert_eq!(topic["content"], json!({}));
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
    forbidden(rooms.kick(&room, alice(), bob(), None).await);
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
        .kick(&room, alice(), bob(), Some("why not"))
        .await
        .unwrap();
    rooms.leave(&room, bob(), None).await.unwrap();
    rooms.forget(&room, bob()).await.unwrap();
    assert!(rooms.rooms_of(bob(), &[]).await.unwrap().is_empty());
    rooms.ban(&room, alice(), bob(), None).await.unwrap();
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
        initial_state: vec![resuni_rooms::InitialState {
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
        initial_state: vec![resuni_rooms::InitialState {
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
async fn aliases() {
    let rooms = rooms().await;
    let room = rooms.create(alice(), public()).await.unwrap();
    let other = rooms.create(alice(), public()).await.unwrap();
    let alias = room_alias_id!("#a:h");
    rooms
        .join(&room, bob(), &MemberDetails::default())
        .await
        .unwrap();
    rooms.create_alias(alias, &room, alice()).await.unwrap();
    assert!(matches!(
        rooms.create_alias(alias, &other, alice()).await,
        Err(RoomError::InUse(_))
    ));
    assert_eq!(rooms.resolve_alias(alias).await.unwrap().unwrap().0, room);
    assert_eq!(rooms.aliases_for(&room, bob()).await.unwrap(), ["#a:h"]);
    assert!(matches!(
        rooms.aliases_for(&other, bob()).await,
        Err(RoomError::Forbidden(_))
    ));

    let check = async |room: &RoomId, content: Value| {
        rooms
            .check_canonical_alias(room, &to_raw_value(&content).unwrap())
            .await
    };
    assert_eq!(
        check(&room, json!({"alias": "#a:h", "alt_aliases": ["#x:far"]}))
            .await
            .unwrap(),
        [room_alias_id!("#x:far")]
    );
    for (room, content, errcode) in [
        (&other, json!({"alias": "#a:h"}), "M_BAD_ALIAS"),
        (&room, json!({"alt_aliases": ["#none:h"]}), "M_BAD_ALIAS"),
        (&room, json!({"alias": "a:h"}), "M_INVALID_PARAM"),
    ] {
        let answer = check(room, content).await;
        assert!(
            matches!(&answer, Err(RoomError::BadRequest { errcode: code, .. }) if *code == errcode),
            "{answer:?}"
        );
    }
    set(
        &rooms,
        &room,
        alice(),
        "m.room.canonical_alias",
        json!({"alias": "#a:h"}),
    )
    .await;
    assert!(matches!(
        rooms.delete_alias(alias, bob(), false).await,
        Err(RoomError::Forbidden(_))
    ));
    rooms.delete_alias(alias, alice(), false).await.unwrap();
    assert!(matches!(
        rooms.delete_alias(alias, alice(), false).await,
        Err(RoomError::NotFound(_))
    ));
    let view = rooms.view(&room).await.unwrap().unwrap();
    assert_eq!(
        view.state("m.room.canonical_alias", "")
            .await
            .unwrap()
            .unwrap()
            .content()
            .get(),
        "{}"
    );
}

#[tokio::test]
async fn the_directory_is_paged_and_searched() {
    let rooms = rooms().await;
    let mut made: Vec<OwnedRoomId> = Vec::new();
    for n in 0..5 {
        let request = CreateRoom {
            name: Some(format!("Room {n}")),
            published: true,
            ..CreateRoom::default()
        };
        made.push(rooms.create(alice(), request).await.unwrap());
    }
    let space = CreateRoom {
        creation_content: map(json!({"type": "m.space"})),
        ..public()
    };
    let space = rooms.create(alice(), space).await.unwrap();
    assert!(matches!(
        rooms.publish(&space, bob(), false, true).await,
        Err(RoomError::Forbidden(_))
    ));
    rooms.publish(&space, alice(), false, true).await.unwrap();
    rooms
        .join(&made[3], bob(), &MemberDetails::default())
        .await
        .unwrap();
    rooms
        .publish(&made[4], alice(), false, false)
        .await
        .unwrap();

    let mut query = DirectoryQuery {
        limit: Some(2),
        ..DirectoryQuery::default()
    };
    let (mut listed, mut pages) = (Vec::new(), 0);
    loop {
        let page = rooms.public_rooms(&query).await.unwrap();
        assert_eq!(page.total_room_count_estimate, 5);
        listed.extend(page.chunk.into_iter().map(|room| room.room_id));
        pages += 1;
        query.since = page.next_batch;
        if query.since.is_none() {
            break;
        }
    }
    assert_eq!(
        (listed[0].clone(), listed.len(), pages),
        (made[3].clone(), 5, 3)
    );
    let back = DirectoryQuery {
        since: Some("p2".into()),
        limit: Some(2),
        ..DirectoryQuery::default()
    };
    assert_eq!(
        rooms.public_rooms(&back).await.unwrap().chunk[0].room_id,
        listed[0]
    );

    let find = async |search: Option<&str>, types: Option<Vec<Option<String>>>| {
        let query = DirectoryQuery {
            search: search.map(str::to_owned),
            room_types: types,
            ..DirectoryQuery::default()
        };
        rooms
            .public_rooms(&query)
            .await
            .unwrap()
            .chunk
            .into_iter()
            .map(|room| room.room_id)
            .collect::<Vec<_>>()
    };
    assert_eq!(find(Some("rOOM 1"), None).await, [made[1].clone()]);
    assert_eq!(
        find(None, Some(vec![Some("m.space".into())])).await,
        [space]
    );
    assert_eq!(find(None, Some(vec![None])).await.len(), 4);
    let bad = DirectoryQuery {
        since: Some("x".into()),
        ..DirectoryQuery::default()
    };
    assert!(rooms.public_rooms(&bad).await.is_err());
}

#[tokio::test]
async fn receipts_only_move_forward_and_private_ones_stay_private() {
    let rooms = rooms().await;
    let room = rooms.create(alice(), public()).await.unwrap();
    rooms
        .join(&room, bob(), &MemberDetails::default())
        .await
        .unwrap();
    let (one, two) = (
        say(&rooms, &room, alice(), "1").await,
        say(&rooms, &room, alice(), "2").await,
    );
    let start = rooms.store().log().watermark();
    assert!(
        rooms
            .set_receipt(&room, bob(), ReceiptKind::Read, None, &two)
            .await
            .unwrap()
    );
    assert!(
        !rooms
            .set_receipt(&room, bob(), ReceiptKind::Read, None, &one)
            .await
            .unwrap(),
        "no way back"
    );
    assert!(
        rooms
            .set_receipt(&room, bob(), ReceiptKind::Read, Some("main"), &one)
            .await
            .unwrap()
    );
    assert!(
        rooms
            .set_receipt(&room, bob(), ReceiptKind::ReadPrivate, None, &two)
            .await
            .unwrap()
    );
    assert!(
        rooms
            .set_receipt(&room, bob(), ReceiptKind::Read, Some(""), &two)
            .await
            .is_err()
    );
    assert!(
        rooms
            .set_receipt(&room, user_id!("@x:h"), ReceiptKind::Read, None, &two)
            .await
            .is_err()
    );
    let elsewhere = rooms.create(alice(), public()).await.unwrap();
    let foreign = say(&rooms, &elsewhere, alice(), "x").await;
    assert!(matches!(
        rooms
            .set_receipt(&room, bob(), ReceiptKind::Read, None, &foreign)
            .await,
        Err(RoomError::NotFound(_))
    ));

    let view = rooms.view(&room).await.unwrap().unwrap();
    assert_eq!(
        view.receipts_since(start, view.watermark(), bob())
            .await
            .unwrap()
            .len(),
        3
    );
    let for_alice = view
        .receipts_since(start, view.watermark(), alice())
        .await
        .unwrap();
    assert_eq!(
        for_alice
            .iter()
            .map(|receipt| &receipt.event_id)
            .collect::<Vec<_>>(),
        [&two, &one]
    );
    assert!(
        view.receipts_since(view.watermark(), view.watermark(), bob())
            .await
            .unwrap()
            .is_empty()
    );
    let three = say(&rooms, &room, alice(), "3").await;
    rooms
        .set_receipt(&room, bob(), ReceiptKind::Read, None, &three)
        .await
        .unwrap();
    let view = rooms.view(&room).await.unwrap().unwrap();
    let all = view
        .receipts_since(Position(0), view.watermark(), alice())
        .await
        .unwrap();
    assert_eq!(all.len(), 2, "one row for each user, type and thread");
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

/// Walks the whole timeline in pages of these sizes.
async fn walk(
    viewer: &mut Viewer,
    dir: Direction,
    sizes: &[usize],
    keep: u64,
) -> Vec<OwnedEventId> {
    let start = if dir == Direction::Backward {
        viewer.view().end()
    } else {
        TimelineToken::live(Position(0))
    };
    let mut query = PageQuery {
        from: start,
        to: None,
        dir,
        limit: 1,
        gaps: Gaps::Stop,
    };
    let mut found = Vec::new();
    for size in sizes.iter().cycle().take(10_000) {
        query.limit = *size;
        let page = viewer
            .page(query, |event| event.row.event.0 % keep != 0)
            .await
            .unwrap();
        assert!(page.events.len() <= *size);
        found.extend(page.events.iter().map(|event| event.event_id()));
        match page.end {
            // A token goes to the client and comes back as text.
            Some(end) => query.from = end.to_string().parse().unwrap(),
            None => return found,
        }
    }
    panic!("the walk never ends");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn pages_of_any_size_show_each_visible_event_once(
        steps in prop::collection::vec(0..6u8, 0..60),
        sizes in prop::collection::vec(1..12usize, 1..5),
        keep in 2..9u64,
    ) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let rooms = rooms().await;
            let room = rooms.create(alice(), public()).await.unwrap();
            for (n, step) in steps.iter().enumerate() {
                match step {
                    0 => drop(rooms.join(&room, bob(), &MemberDetails::default()).await),
                    1 => drop(rooms.leave(&room, bob(), None).await),
                    2 => {
                        let visibility = ["joined", "shared", "world_readable", "invited"][n % 4];
                        set(&rooms, &room, alice(), "m.room.history_visibility", json!({"history_visibility": visibility})).await;
                    }
                    _ => drop(say(&rooms, &room, alice(), &n.to_string()).await),
                }
            }
            for user in [alice(), bob()] {
                let mut viewer = viewer(&rooms, &room, user).await;
                // Event by event, without pages.
                let view = viewer.view().clone();
                let mut expected = Vec::new();
                let all = PageQuery { from: TimelineToken::live(Position(0)), to: None, dir: Direction::Forward, limit: 1000, gaps: Gaps::Stop };
                for event in view.page(all).await.unwrap().events {
                    if event.row.event.0 % keep != 0 && viewer.sees(&event).await.unwrap() {
                        expected.push(event.event_id());
                    }
                }
                assert_eq!(walk(&mut viewer, Direction::Forward, &sizes, keep).await, expected);
                expected.reverse();
                assert_eq!(walk(&mut viewer, Direction::Backward, &sizes, keep).await, expected);
            }
        });
    }
}
