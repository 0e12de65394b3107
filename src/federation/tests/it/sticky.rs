//! Sticky events (MSC4354) reach servers that join while they last.

use std::time::Duration;

use resuni_rooms::{NewEvent, Preset};
use resuni_store::Position;
use ruma::{OwnedEventId, RoomId};
use serde_json::{json, value::to_raw_value};

use crate::authority::Authority;
use crate::part::{PATIENCE, Part, servers};
use crate::two_servers::{join, room};

async fn stick(at: &Part, room: &RoomId) -> OwnedEventId {
    let content = to_raw_value(&json!({ "membership": "in the call" })).unwrap();
    let event = NewEvent {
        sticky_ms: Some(3_600_000),
        ..NewEvent::message("m.rtc.member", content)
    };
    at.rooms.send(room, &at.user(), event, None).await.unwrap()
}

/// Waits until the clients of a server are told of all these.
async fn is_told(at: &Part, room: &RoomId, expected: &[&OwnedEventId]) {
    let told = async {
        loop {
            let view = at.view(room).await;
            let all = (Position(0), view.watermark());
            let page = view.sticky(all, at.rooms.now_ms(), 100).await.unwrap();
            let told: Vec<_> = page.events.iter().map(|event| event.event_id()).collect();
            if expected.iter().all(|id| told.contains(id)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, told).await;
    outcome.unwrap_or_else(|_| panic!("{} is not told of what is sticky", at.name));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_gets_what_each_server_sent_that_is_still_sticky() {
    let authority = Authority::new();
    let [a, b, c] = servers(&authority, ["a.test", "b.test", "c.test"]).await;
    let room = room(&a, "12", Preset::PublicChat).await;
    join(&b, &room, &a).await.unwrap();
    let of_a = stick(&a, &room).await;
    b.has(&room, &of_a).await;
    let of_b = stick(&b, &room).await;
    a.has(&room, &of_b).await;
    for n in 0..30 {
        a.say(&room, &n.to_string()).await;
    }
    is_told(&b, &room, &[&of_a, &of_b]).await;
    join(&c, &room, &a).await.unwrap();
    is_told(&c, &room, &[&of_a, &of_b]).await;
}

/// The one that is to send them is not there when somebody joins: it does so when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_away_sends_them_when_it_hears_of_the_join() {
    let authority = Authority::new();
    let [a, mut b, mut c] = servers(&authority, ["a.test", "b.test", "c.test"]).await;
    let room = room(&a, "12", Preset::PublicChat).await;
    join(&b, &room, &a).await.unwrap();
    let of_b = stick(&b, &room).await;
    a.has(&room, &of_b).await;
    b.stop().await;
    join(&c, &room, &a).await.unwrap();
    // Now the other one is away: what is sent to it has to wait until it is back.
    c.stop().await;
    let map = b.map.clone();
    b.restart(&authority, &map).await;
    let last = a.say(&room, "are you back?").await;
    // Who says something is there: what waited is sent.
    b.say(&room, "yes").await;
    b.has(&room, &last).await;
    c.restart(&authority, &map).await;
    c.say(&room, "so am I").await;
    is_told(&c, &room, &[&of_b]).await;
}
