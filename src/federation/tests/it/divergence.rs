//! Two servers whose states differ notice it (MSC4500).

use std::time::Duration;

use resuni_dag::Lattice;
use resuni_federation::{Comparison, Parting};
use resuni_rooms::NewEvent;
use ruma::{OwnedEventId, RoomId};
use serde_json::json;

use crate::authority::Authority;
use crate::hostile::{join, public_room};
use crate::part::{PATIENCE, Part, servers};

async fn set_topic(at: &Part, room: &RoomId, topic: &str) -> OwnedEventId {
    let content = serde_json::value::to_raw_value(&json!({ "topic": topic })).unwrap();
    let event = NewEvent::state("m.room.topic", "", content);
    at.rooms.send(room, &at.user(), event, None).await.unwrap()
}

async fn compare(a: &Part, b: &Part, room: &RoomId, event: &OwnedEventId) -> Comparison {
    let view = a.view(room).await;
    let divergences = &a.federation.divergences;
    divergences.at(&b.name, &view, event).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_agree_say_so() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    join(&b, &room, &a).await;
    for n in 0..5 {
        let topic = set_topic(&a, &room, &format!("{n}")).await;
        b.has(&room, &topic).await;
        let said = b.say(&room, "hello").await;
        a.has(&room, &said).await;
        // Also of a state that is no longer the current one.
        for event in [&topic, &said] {
            assert_eq!(compare(&a, &b, &room, event).await, Comparison::Same);
            assert_eq!(compare(&b, &a, &room, event).await, Comparison::Same);
        }
    }
    for part in [&a, &b] {
        assert_eq!(part.federation.divergences.found(), 0);
    }
    let checked = a.federation.divergences.check(&room).await.unwrap();
    assert_eq!(checked.len(), 1);
    assert!(matches!(checked[0].comparison, Ok(Comparison::Same)));
}

/// Waits until the states after the event are the same.
async fn agree(a: &Part, b: &Part, room: &RoomId, event: &OwnedEventId) {
    let agreed = async {
        while compare(a, b, room, event).await != Comparison::Same {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, agreed).await;
    outcome.expect("the states stay different");
}

async fn topic(at: &Part, room: &RoomId) -> Option<OwnedEventId> {
    let view = at.view(room).await;
    let topic = view.state("m.room.topic", "").await.unwrap();
    topic.map(|topic| topic.event_id().to_owned())
}

/// b.test gives a state without the topic when a.test joins: from then on the two differ, until a.test notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_lost_an_event_is_healed() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&b).await;
    set_topic(&b, &room, "roses").await;
    // What the join follows is asked for by itself: it must not be the topic.
    b.say(&room, "a new topic").await;
    let lost = topic(&b, &room).await.unwrap();
    let lost_id = json!(lost);
    b.lies.tell(move |endpoint, body| match endpoint {
        "send_join" => {
            let state = body["state"].as_array_mut().unwrap();
            state.retain(|pdu| pdu["type"] != "m.room.topic");
        }
        "state_ids" => {
            let ids = body["pdu_ids"].as_array_mut().unwrap();
            ids.retain(|id| *id != lost_id);
        }
        _ => {}
    });
    join(&a, &room, &b).await;
    a.rooms.whole(&room).await.unwrap();
    b.lies.stop();
    let said = b.say(&room, "do you see the topic?").await;
    a.has(&room, &said).await;
    agree(&a, &b, &room, &said).await;
    assert!(a.federation.divergences.found() > 0, "it differed before");
    assert_eq!(topic(&a, &room).await, Some(lost));
    let next = b.say(&room, "so you do").await;
    a.has(&room, &next).await;
    agree(&b, &a, &room, &next).await;
}

/// b.test has a topic down as rejected that the rules allow, as if it had judged wrongly.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_wrongly_rejected_is_let_in() {
    let authority = Authority::new();
    let [a, mut b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    join(&b, &room, &a).await;
    b.rooms.whole(&room).await.unwrap();
    let first = set_topic(&a, &room, "roses").await;
    b.has(&room, &first).await;
    b.stop().await;
    let wronged = set_topic(&a, &room, "tulips").await;
    reject(&a, &b, &room, &first, &wronged).await;
    b.restart(&authority, &a.map.clone()).await;
    let said = a.say(&room, "do you see the topic?").await;
    b.has(&room, &said).await;
    agree(&a, &b, &room, &said).await;
    assert_eq!(topic(&b, &room).await, Some(wronged.clone()));
    // People see it too, if late.
    b.has(&room, &wronged).await;
    let said = b.say(&room, "now I do").await;
    a.has(&room, &said).await;
    agree(&b, &a, &room, &said).await;
}

/// Writes `event` down at `at` as rejected, like one of the same type before it.
async fn reject(from: &Part, at: &Part, room: &RoomId, like: &OwnedEventId, event: &OwnedEventId) {
    use resuni_rooms::{EventHash, EventNum, StoredId, tables};
    let pdu = from.view(room).await.event(event).await.unwrap().unwrap();
    let view = at.view(room).await;
    let (_, row) = view.event_row(like).await.unwrap().unwrap();
    let head = view.state_at(like).await.unwrap().snap();
    let num = EventNum(at.store().numbers().next(&resuni_rooms::EVENT_NUMBERS));
    let row = tables::EventRow {
        id: StoredId::of(event),
        place: tables::Place::Rejected,
        snap_before: head,
        snap_after: head,
        depth: pdu.pdu.depth(),
        ..row
    };
    let outlier = tables::OutlierRow {
        pdu: pdu.pdu.json().to_owned(),
        reason: Some("a mistake".to_owned()),
    };
    let mut batch = resuni_store::Batch::new();
    batch.put(&tables::EVENT_IDS, &EventHash::of(event), &num);
    batch.put(&tables::EVENTS, &num, &row);
    batch.put(&tables::OUTLIERS, &num, &outlier);
    at.store().commit_durable(batch).await.unwrap();
}

/// Whatever digests and states a server claims, it moves ours by events only that the rules let in.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lies_about_its_state_gains_nothing() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    join(&b, &room, &a).await;
    let old = set_topic(&a, &room, "roses").await;
    let new = set_topic(&a, &room, "tulips").await;
    let said = a.say(&room, "hello").await;
    b.has(&room, &said).await;
    let before = a.view(&room).await.state_hashes(&said).await.unwrap();
    // It claims to have the old topic still, and nobody's power levels.
    let (old_id, new_id) = (old.to_string(), new.to_string());
    b.lies.tell(move |endpoint, body| match endpoint {
        "tk.nutra.msc4500" => {
            let mut other = Lattice::empty();
            other.add("m.room.topic", "", &old_id);
            let bytes =
                ruma::serde::Base64::<ruma::serde::base64::UrlSafe>::new(other.to_bytes().to_vec());
            body["lattice"] = json!(bytes.encode());
            body["digest"] = json!(format!("{:?}", other.digest()));
        }
        "state_ids" => {
            let ids = body["pdu_ids"].as_array_mut().unwrap();
            ids.retain(|id| *id != json!(new_id));
            ids.push(json!(old_id));
            ids.truncate(3);
        }
        _ => {}
    });
    let parting = Parting {
        event: said.clone(),
        same_before: false,
    };
    for event in [&said, &new, &old] {
        let parting = Parting {
            event: event.clone(),
            ..parting.clone()
        };
        let done = a.federation.divergences.heal(&b.name, &room, parting).await;
        let changed = done.map_or(0, |done| done.changed);
        assert_eq!(changed, 0);
    }
    let after = a.view(&room).await.state_hashes(&said).await.unwrap();
    assert_eq!(before, after);
    assert_eq!(topic(&a, &room).await, Some(new));
}

/// The event that was judged differently is found among many, and not by asking for each.
#[tokio::test(flavor = "multi_thread")]
async fn the_event_at_which_two_servers_part_is_found() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    join(&b, &room, &a).await;
    let mut events = Vec::new();
    for n in 0..100 {
        events.push(set_topic(&a, &room, &format!("{n}")).await);
    }
    b.has(&room, events.last().unwrap()).await;
    for at in [0, 37, 98, 99] {
        let differing: Vec<String> = events[at..].iter().map(ToString::to_string).collect();
        b.lies.tell(move |endpoint, body| {
            let id = body["event_id"].as_str().unwrap_or_default().to_owned();
            if endpoint == "tk.nutra.msc4500" && differing.contains(&id) {
                let mut other = Lattice::empty();
                other.add("m.room.topic", "", "$another");
                let bytes = ruma::serde::Base64::<ruma::serde::base64::UrlSafe>::new(
                    other.to_bytes().to_vec(),
                );
                body["lattice"] = json!(bytes.encode());
                body["digest"] = json!(format!("{:?}", other.digest()));
            }
        });
        let divergences = &a.federation.divergences;
        let last = events.last().unwrap();
        let found = divergences.locate(&b.name, &room, last).await.unwrap();
        let parting = Parting {
            event: events[at].clone(),
            same_before: true,
        };
        assert_eq!(found, Some(parting));
        let asked = b.lies.asked("tk.nutra.msc4500");
        assert!(asked <= 20, "{asked} for a hundred events");
    }
    b.lies.tell(|endpoint, body| {
        if endpoint == "tk.nutra.msc4500" {
            body["digest"] = json!("00".repeat(32));
        }
    });
    let view = a.view(&room).await;
    let divergences = &a.federation.divergences;
    let contradiction = divergences.at(&b.name, &view, &events[0]).await;
    assert!(contradiction.is_err(), "{contradiction:?}");
}
