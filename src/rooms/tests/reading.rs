//! Rooms made by the real `create` and `send`, read through views.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{
    CreateRoom, Form, Gaps, MemberDetails, NewEvent, Page, PageQuery, Preset, RoomError, Rooms,
    RoomsConfig, TimelineEvent, TimelineToken, TxnKey, Viewer,
};
use proptest::prelude::*;
use resuni_dag::SigningKey;
use resuni_store::{Clock, Direction, Position, Store};
use ruma::{OwnedEventId, RoomId, RoomVersionId, UserId, owned_server_name, user_id};
use serde_json::{Value, json, value::to_raw_value};

pub(super) struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn now_ms(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

pub(super) async fn rooms() -> Arc<Rooms> {
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

pub(super) fn alice() -> &'static UserId {
    user_id!("@alice:h")
}

pub(super) fn bob() -> &'static UserId {
    user_id!("@bob:h")
}

pub(super) fn public() -> CreateRoom {
    CreateRoom {
        preset: Some(Preset::PublicChat),
        ..CreateRoom::default()
    }
}

pub(super) fn map(value: Value) -> serde_json::Map<String, Value> {
    value.as_object().unwrap().clone()
}

pub(super) async fn say(rooms: &Rooms, room: &RoomId, user: &UserId, body: &str) -> OwnedEventId {
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

pub(super) async fn set(
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

pub(super) async fn viewer(rooms: &Rooms, room: &RoomId, user: &UserId) -> Viewer {
    rooms
        .view(room)
        .await
        .unwrap()
        .unwrap()
        .viewer(user)
        .await
        .unwrap()
}

pub(super) async fn history(rooms: &Rooms, room: &RoomId, user: &UserId) -> Vec<Value> {
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

pub(super) fn kinds(events: &[Value]) -> Vec<&str> {
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

pub(super) fn bodies(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| event["content"]["body"].as_str())
        .collect()
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
            initial_state: vec![crate::InitialState {
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

#[tokio::test]
async fn an_event_and_what_was_said_around_it() {
    let rooms = rooms().await;
    let room = rooms.create(alice(), public()).await.unwrap();
    let mut said = Vec::new();
    for n in 0..10 {
        said.push(say(&rooms, &room, alice(), &n.to_string()).await);
    }
    let mut viewer = viewer(&rooms, &room, alice()).await;
    let messages = |event: &TimelineEvent| event.fields().kind_str() == "m.room.message";
    let context = viewer.context(&said[5], 4, messages).await.unwrap();
    let ids = |events: &[TimelineEvent]| {
        events
            .iter()
            .map(TimelineEvent::event_id)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&context.before), [said[4].clone(), said[3].clone()]);
    assert_eq!(ids(&context.after), [said[6].clone(), said[7].clone()]);
    let on = |from, dir| PageQuery {
        from,
        to: None,
        dir,
        limit: 1,
        gaps: Gaps::Stop,
    };
    let page = viewer
        .page(on(context.start, Direction::Backward), messages)
        .await
        .unwrap();
    assert_eq!(ids(&page.events), [said[2].clone()]);
    let page = viewer
        .page(on(context.end, Direction::Forward), messages)
        .await
        .unwrap();
    assert_eq!(ids(&page.events), [said[8].clone()]);
    let alone = viewer.context(&said[5], 0, messages).await.unwrap();
    assert!(alone.before.is_empty() && alone.after.is_empty());

    let strangers = rooms.create(alice(), CreateRoom::default()).await.unwrap();
    let hidden = say(&rooms, &strangers, alice(), "x").await;
    let view = rooms.view(&strangers).await.unwrap().unwrap();
    let answer = view
        .viewer(bob())
        .await
        .unwrap()
        .context(&hidden, 4, messages)
        .await;
    assert!(matches!(answer, Err(RoomError::NotFound(_))));
    assert!(
        viewer.event(&hidden).await.unwrap().is_none(),
        "the event of another room"
    );
}

#[tokio::test]
async fn the_event_nearest_to_a_time() {
    let rooms = rooms().await;
    let room = rooms.create(alice(), public()).await.unwrap();
    let mut said = Vec::new();
    for n in 0..40u64 {
        // Every fourth is late by its sender's clock.
        let ts = 2_000_000 + 10 * n - if n % 4 == 3 { 25 } else { 0 };
        let content = to_raw_value(&json!({"body": n})).unwrap();
        let event = NewEvent {
            timestamp: Some(ts),
            ..NewEvent::message("m.room.message", content)
        };
        said.push((ts, rooms.send(&room, alice(), event, None).await.unwrap()));
    }
    let mut viewer = viewer(&rooms, &room, alice()).await;
    for ts in [
        1_999_000, 2_000_000, 2_000_004, 2_000_101, 2_000_240, 2_000_380, 2_000_391,
    ] {
        let after = said
            .iter()
            .filter(|(time, _)| *time >= ts)
            .min_by_key(|(time, _)| *time)
            .map(|(time, _)| *time);
        let found = viewer.event_at_time(ts, Direction::Forward).await.unwrap();
        assert_eq!(found.map(|event| event.fields().timestamp()), after, "{ts}");
        let before = said
            .iter()
            .map(|(time, _)| *time)
            .filter(|time| *time <= ts)
            .max();
        let found = viewer.event_at_time(ts, Direction::Backward).await.unwrap();
        let found = found.map(|event| event.fields().timestamp());
        assert!(
            before.is_none() || found == before,
            "{ts}: {found:?} {before:?}"
        );
    }
}
