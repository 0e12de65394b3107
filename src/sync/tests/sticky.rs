//! Sticky events (MSC4354) in both syncs.

use std::collections::BTreeMap;

use ruma::{OwnedEventId, RoomId, api::client::filter::FilterDefinition, device_id};

use super::*;
use crate::sliding::{RequiredState, RoomConfig, RoomFilters, Scope, SlidingList, SlidingRequest};

impl Home {
    async fn stick(&self, room: &OwnedRoomId, who: &Person, text: &str) -> OwnedEventId {
        let content = to_raw_value(&json!({ "body": text })).unwrap();
        let event = NewEvent {
            sticky_ms: Some(3_600_000),
            ..NewEvent::message("m.rtc.member", content)
        };
        self.rooms.send(room, &who.id, event, None).await.unwrap()
    }
}

/// The bodies in a section, and whether each says for how long it is sticky.
fn in_section(section: &Value) -> Vec<String> {
    let events = section["events"].as_array();
    let events = events.into_iter().flatten();
    events
        .map(|event| {
            let rest = event["unsigned"]["msc4354_sticky_duration_ttl_ms"].as_u64();
            assert!(rest.is_some_and(|rest| rest <= 3_600_000), "{event}");
            assert_eq!(event["msc4354_sticky"], json!({ "duration_ms": 3_600_000 }));
            event["content"]["body"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn stuck(answer: &Value, room: &RoomId) -> Vec<String> {
    in_section(&answer["rooms"]["join"][room.as_str()]["msc4354_sticky"])
}

fn with_limit(limit: u32) -> impl Fn(&mut SyncRequest) {
    move |request| {
        let filter = json!({ "room": { "timeline": { "limit": limit } } });
        request.filter = serde_json::from_value::<FilterDefinition>(filter).unwrap();
    }
}

#[tokio::test]
async fn a_sticky_event_is_told_once_in_the_timeline_or_beside_it() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    home.join(&room, &bob).await;
    let first = home.sync(&bob, "").await;
    home.stick(&room, &alice, "in a call").await;
    for n in 0..3 {
        home.say(&room, &alice, &n.to_string()).await;
    }
    // It is in the timeline.
    let whole = home.sync(&bob, next(&first)).await;
    assert_eq!(stuck(&whole, &room), Vec::<String>::new());
    assert_eq!(bodies(&whole, &room), ["in a call", "0", "1", "2"]);
    // It is not any more.
    let short = home.sync_with(&bob, next(&first), with_limit(2)).await;
    assert_eq!(bodies(&short, &room), ["1", "2"]);
    assert_eq!(stuck(&short, &room), ["in a call"]);
    // A filter that leaves it out of the timeline.
    let filtered = home
        .sync_with(&bob, next(&first), |request| {
            let timeline = json!({ "not_types": ["m.rtc.member"], "limit": 1 });
            let filter = json!({ "room": { "timeline": timeline } });
            request.filter = serde_json::from_value(filter).unwrap();
        })
        .await;
    assert_eq!(stuck(&filtered, &room), ["in a call"]);
    // It was told.
    home.say(&room, &alice, "later").await;
    let later = home.sync_with(&bob, next(&short), with_limit(1)).await;
    assert_eq!(stuck(&later, &room), Vec::<String>::new());
    // To a device that is new.
    let new = home.sync_with(&bob, "", with_limit(1)).await;
    assert_eq!(stuck(&new, &room), ["in a call"]);
    // What ignored people send is not told.
    let ignored = json!({ "ignored_users": { alice.id.as_str(): {} } });
    home.accounts
        .set_account_data(
            bob.account,
            None,
            "m.ignored_user_list",
            ignored.as_object().unwrap(),
        )
        .await
        .unwrap();
    let new = home.sync_with(&bob, "", with_limit(1)).await;
    assert_eq!(stuck(&new, &room), Vec::<String>::new());
}

#[tokio::test]
async fn who_joins_is_told_what_is_sticky_whatever_the_history_visibility() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    let visibility = to_raw_value(&json!({ "history_visibility": "joined" })).unwrap();
    let visibility = NewEvent::state("m.room.history_visibility", "", visibility);
    home.rooms
        .send(&room, &alice.id, visibility, None)
        .await
        .unwrap();
    home.say(&room, &alice, "secret").await;
    home.stick(&room, &alice, "in a call").await;
    let before = home.sync(&bob, "").await;
    assert_eq!(stuck(&before, &room), Vec::<String>::new());
    home.join(&room, &bob).await;
    let joined = home.sync(&bob, next(&before)).await;
    assert_eq!(bodies(&joined, &room), Vec::<String>::new());
    assert_eq!(stuck(&joined, &room), ["in a call"]);
}

#[tokio::test]
async fn more_than_one_answer_holds_come_with_the_next() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let (room, other) = (home.room(&alice).await, home.room(&alice).await);
    for n in 0..105 {
        home.stick(&room, &alice, &n.to_string()).await;
    }
    home.stick(&other, &alice, "elsewhere").await;
    let first = home.sync_with(&alice, "", with_limit(1)).await;
    let expected: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(stuck(&first, &room), expected);
    assert_eq!(bodies(&first, &other), ["elsewhere"]);
    // At once, although nothing happened: the last was in the timeline of the first answer.
    let second = home
        .sync_with(&alice, next(&first), |request| {
            request.timeout = Duration::from_secs(300);
        })
        .await;
    let expected: Vec<String> = (100..105).map(|n| n.to_string()).collect();
    assert_eq!(stuck(&second, &room), expected);
    let third = home.sync(&alice, next(&second)).await;
    assert_eq!(third["rooms"], json!(null));
}

fn slide(window: usize) -> SlidingRequest {
    let config = RoomConfig {
        timeline_limit: 1,
        required_state: RequiredState::default(),
    };
    let list = SlidingList {
        ranges: Some(vec![(0, window - 1)]),
        filters: RoomFilters::default(),
        config: Arc::new(config),
    };
    let mut request = SlidingRequest {
        lists: BTreeMap::from([("all".to_owned(), list)]),
        ..SlidingRequest::default()
    };
    request.extensions.sticky = Some(Scope::default());
    request
}

#[tokio::test]
async fn sliding_sync_tells_them_of_each_room_that_it_tells_of() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let (old, new) = (home.room(&alice).await, home.room(&alice).await);
    home.join(&old, &bob).await;
    home.stick(&old, &alice, "old").await;
    home.say(&old, &alice, "talk").await;
    home.join(&new, &bob).await;
    home.stick(&new, &alice, "new").await;
    let sync = async |pos: &str, request: SlidingRequest| -> Value {
        let request = SlidingRequest {
            pos: (!pos.is_empty()).then(|| pos.to_owned()),
            ..request
        };
        let who = Who {
            user: &bob.id,
            account: bob.account,
            device: Some(device_id!("D")),
        };
        let answer = home.sync.sliding(who, &request).await.unwrap();
        serde_json::from_str(&answer).unwrap()
    };
    let told = |answer: &Value, room: &RoomId| {
        let of = &answer["extensions"]["org.matrix.msc4354.sticky_events"];
        assert!(of["next_batch"].is_string(), "{answer}");
        in_section(&of["rooms"][room.as_str()])
    };
    let nothing = Vec::<String>::new();
    // The newer room is in the window, and what is sticky in it is its timeline.
    let first = sync("", slide(1)).await;
    assert_eq!(told(&first, &new), nothing);
    assert_eq!(told(&first, &old), nothing);
    // The older comes into the window.
    let second = sync(first["pos"].as_str().unwrap(), slide(2)).await;
    assert_eq!(told(&second, &old), ["old"]);
    assert_eq!(told(&second, &new), nothing);
    home.stick(&old, &alice, "newer").await;
    home.say(&old, &alice, "talk").await;
    let third = sync(second["pos"].as_str().unwrap(), slide(2)).await;
    assert_eq!(told(&third, &old), ["newer"]);
    let fourth = sync(third["pos"].as_str().unwrap(), slide(2)).await;
    assert_eq!(told(&fourth, &old), nothing);
}
