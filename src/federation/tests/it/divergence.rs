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

/// b.test gives a state without the topic when a.test joins: from then on the two differ.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_differs_is_noticed_by_both() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&b).await;
    set_topic(&b, &room, "roses").await;
    // What the join follows is asked for by itself: it must not be the topic.
    b.say(&room, "a new topic").await;
    let topic = b.view(&room).await.state("m.room.topic", "").await;
    let topic = serde_json::json!(topic.unwrap().unwrap().event_id());
    b.lies.tell(move |endpoint, body| match endpoint {
        "send_join" => {
            let state = body["state"].as_array_mut().unwrap();
            state.retain(|pdu| pdu["type"] != "m.room.topic");
        }
        "state_ids" => {
            let ids = body["pdu_ids"].as_array_mut().unwrap();
            ids.retain(|id| *id != topic);
        }
        _ => {}
    });
    join(&a, &room, &b).await;
    a.rooms.whole(&room).await.unwrap();
    b.lies.stop();
    let said = b.say(&room, "do you see the topic?").await;
    a.has(&room, &said).await;
    let noticed = async {
        while a.federation.divergences.found() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, noticed).await.unwrap();
    let checked = a.federation.divergences.check(&room).await.unwrap();
    let Ok(Comparison::Differs(ours, theirs)) = &checked[0].comparison else {
        panic!("{checked:?}");
    };
    assert_eq!(ours.count + 1, theirs.count);
    let view = a.view(&room).await;
    let entered = view.state("m.room.member", a.user().as_str()).await;
    let entered = entered.unwrap().unwrap().event_id().to_owned();
    let parting = Parting {
        event: entered,
        same_before: false,
    };
    assert_eq!(checked[0].parting, Some(parting), "from our join on");
    // What the other says changes nothing here.
    assert!(view.state("m.room.topic", "").await.unwrap().is_none());
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
