//! Whole rooms on the memory engine.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use resuni_dag::SigningKey;
use resuni_store::{Clock, Store};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, UserId};
use serde_json::{json, value::RawValue};

use crate::*;

mod again;
mod bans;
mod between;
mod clear;
mod contended;
mod converge;
mod gaps;
mod hostile;
mod lazily;
mod outside;
mod partial;
mod people;
mod places;
mod reading;
mod relations;
mod relationships;
mod spaces;
mod sticky;
mod upgrade;

pub(crate) struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now_ms(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

pub(crate) async fn server(name: &str) -> Arc<Rooms> {
    server_on(name, Store::memory().await).await
}

pub(crate) async fn server_on(name: &str, store: Store) -> Arc<Rooms> {
    let config = RoomsConfig {
        server_name: OwnedServerName::try_from(name).unwrap(),
        key: Arc::new(SigningKey::from_bytes("1", [name.len() as u8; 32]).unwrap()),
        default_version: RoomVersionId::V12,
    };
    let clock = Arc::new(Ticks(AtomicU64::new(1_700_000_000_000)));
    Rooms::open(config, store, clock).await.unwrap()
}

pub(crate) fn user(id: &str) -> OwnedUserId {
    UserId::parse(id).unwrap()
}

pub(crate) fn raw(value: serde_json::Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(&value).unwrap()
}

pub(crate) fn message(body: &str) -> NewEvent {
    NewEvent::message(
        "m.room.message",
        raw(json!({"msgtype": "m.text", "body": body})),
    )
}

pub(crate) fn member(user: &str, membership: &str) -> NewEvent {
    NewEvent::state(
        "m.room.member",
        user,
        raw(json!({"membership": membership})),
    )
}

pub(crate) fn state(kind: &str, content: serde_json::Value) -> NewEvent {
    NewEvent::state(kind, "", raw(content))
}

/// A public room of `creator`.
pub(crate) async fn room(rooms: &Rooms, version: RoomVersionId, creator: &str) -> OwnedRoomId {
    let me = user(creator);
    let rules = resuni_dag::RoomRules::of(&version).unwrap();
    let hash = rules.room_id_is_create_hash();
    let id =
        (!hash).then(|| OwnedRoomId::try_from(format!("!room:{}", rooms.server_name())).unwrap());
    let mut create = json!({"room_version": version.as_str()});
    if !rules.creator_is_sender() {
        create["creator"] = json!(creator);
    }
    let levels = if hash {
        json!({"users": {}})
    } else {
        json!({"users": {creator: 100}})
    };
    let rest = vec![
        (me.clone(), member(creator, "join")),
        (me.clone(), state("m.room.power_levels", levels)),
        (
            me.clone(),
            state("m.room.join_rules", json!({"join_rule": "public"})),
        ),
    ];
    rooms
        .found(&version, id, &me, state("m.room.create", create), rest)
        .await
        .unwrap()
}

async fn head(rooms: &Rooms, room: &OwnedRoomId) -> tables::Head {
    let reader = rooms.reader();
    let num = reader.room_num(room).await.unwrap().unwrap();
    reader.head(num).await.unwrap().unwrap()
}

/// Every row agrees with every other.
pub(crate) async fn assert_healthy(rooms: &Rooms) {
    let found = doctor::check(rooms.store(), rooms.server_name())
        .await
        .unwrap();
    assert_eq!(found, Vec::<String>::new());
}

async fn place(rooms: &Rooms, id: &OwnedEventId) -> tables::Place {
    let reader = rooms.reader();
    reader
        .event_row(reader.event_num(id).await.unwrap().unwrap())
        .await
        .unwrap()
        .place
}

#[tokio::test]
async fn a_room_begins_and_people_talk() {
    for rules in resuni_dag::RoomRules::all() {
        let version = rules.version.clone();
        let rooms = server("here").await;
        let room = room(&rooms, version, "@alice:here").await;
        let (alice, bob) = (user("@alice:here"), user("@bob:here"));
        let refused = rooms.send(&room, &bob, message("let me in"), None).await;
        assert!(
            matches!(refused, Err(RoomError::Forbidden(_))),
            "{refused:?}"
        );
        rooms
            .send(&room, &bob, member("@bob:here", "join"), None)
            .await
            .unwrap();
        let before = head(&rooms, &room).await;
        assert_eq!(
            (before.joined, before.invited, before.extremities.len()),
            (2, 0, 1)
        );
        let hello = rooms
            .send(&room, &bob, message("hello"), None)
            .await
            .unwrap();
        let after = head(&rooms, &room).await;
        assert_eq!(before.snap, after.snap);
        assert!(matches!(
            place(&rooms, &hello).await,
            tables::Place::Timeline { .. }
        ));
        rooms
            .send(&room, &alice, member("@bob:here", "ban"), None)
            .await
            .unwrap();
        assert_eq!(head(&rooms, &room).await.joined, 1);
        rooms
            .send(&room, &bob, message("hello?"), None)
            .await
            .unwrap_err();
        assert_healthy(&rooms).await;
    }
}

#[tokio::test]
async fn a_transaction_is_carried_out_once() {
    let rooms = server("here").await;
    let room = room(&rooms, RoomVersionId::V12, "@alice:here").await;
    let alice = user("@alice:here");
    let txn = |device: &str, txn: &str| {
        Some(TxnKey {
            device: device.into(),
            txn: txn.into(),
        })
    };
    let first = rooms
        .send(&room, &alice, message("one"), txn("D", "1"))
        .await
        .unwrap();
    let again = rooms
        .send(&room, &alice, message("two"), txn("D", "1"))
        .await
        .unwrap();
    assert_eq!(first, again);
    for other in [txn("D", "2"), txn("E", "1"), None] {
        assert_ne!(
            first,
            rooms
                .send(&room, &alice, message("one"), other)
                .await
                .unwrap()
        );
    }
    // State that is so already is not sent again, by the same sender.
    let topic = || {
        state(
            "m.room.topic",
            json!({"topic": "x", "more": [1, {"b": 2, "a": 1}]}),
        )
    };
    let first = rooms.send(&room, &alice, topic(), None).await.unwrap();
    assert_eq!(
        first,
        rooms.send(&room, &alice, topic(), None).await.unwrap()
    );
}

#[tokio::test]
async fn sixteen_writers_of_one_room_extend_one_line() {
    let rooms = server("here").await;
    let room = room(&rooms, RoomVersionId::V12, "@alice:here").await;
    let senders: Vec<_> = (0..16)
        .map(|i| {
            let (rooms, room) = (rooms.clone(), room.clone());
            tokio::spawn(async move {
                for n in 0..10 {
                    rooms
                        .send(
                            &room,
                            &user("@alice:here"),
                            message(&format!("{i} {n}")),
                            None,
                        )
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let head = head(&rooms, &room).await;
    assert_eq!((head.extremities.len(), head.depth), (1, 164));
    assert_healthy(&rooms).await;
}
