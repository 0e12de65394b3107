//! Sticky events (MSC4354): how long, for whom, and what becomes of those that the state forbids.

use resuni_store::{Direction, Position, SharedClock};

use super::{between::*, *};

/// A clock that stands still until somebody moves it.
#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.load(Ordering::Relaxed)
    }
}

impl Hand {
    fn turn(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

async fn timed(name: &str, clock: &Arc<Hand>) -> Arc<Rooms> {
    let config = RoomsConfig {
        server_name: OwnedServerName::try_from(name).unwrap(),
        key: Arc::new(SigningKey::from_bytes("1", [name.len() as u8; 32]).unwrap()),
        default_version: RoomVersionId::V12,
    };
    let clock: SharedClock = clock.clone();
    Rooms::open(config, Store::memory().await, clock)
        .await
        .unwrap()
}

fn sticky(body: &str, ms: u64) -> NewEvent {
    NewEvent {
        sticky_ms: Some(ms),
        ..message(body)
    }
}

/// The bodies of what is sticky there now.
async fn told(rooms: &Rooms, room: &OwnedRoomId) -> Vec<String> {
    let view = rooms.view(room).await.unwrap().unwrap();
    let all = (Position(0), view.watermark());
    let page = view.sticky(all, rooms.now_ms(), 100).await.unwrap();
    assert_eq!(page.more, None);
    let body = |event: &TimelineEvent| fields::string_member(event.fields().content, "body");
    page.events.iter().filter_map(body).collect()
}

#[tokio::test]
async fn an_event_is_sticky_for_so_long_and_no_longer() {
    let clock = Arc::new(Hand::default());
    let rooms = timed("here", &clock).await;
    let room = room(&rooms, RoomVersionId::V12, "@alice:here").await;
    let alice = user("@alice:here");
    let send = async |event| rooms.send(&room, &alice, event, None).await.unwrap();
    send(sticky("short", 1_000)).await;
    send(message("not at all")).await;
    let redacted = send(sticky("redacted", 60_000)).await;
    // A bridge may say that it was sent at another time: that can make it end earlier, and never later.
    let at = |timestamp| NewEvent {
        timestamp: Some(timestamp),
        ..sticky(&format!("at {timestamp}"), 2_000)
    };
    let now = clock.now_ms();
    send(at(now - 1_500)).await;
    send(at(now + 900_000)).await;
    let early = format!("at {}", now - 1_500);
    let late = format!("at {}", now + 900_000);
    let all = ["short", "redacted", &early, &late];
    assert_eq!(told(&rooms, &room).await, all);
    let redaction = NewEvent {
        redacts: Some(redacted),
        ..NewEvent::message("m.room.redaction", raw(json!({})))
    };
    send(redaction).await;
    assert_eq!(told(&rooms, &room).await, ["short", &early, &late]);
    clock.turn(500);
    assert_eq!(told(&rooms, &room).await, ["short", &late]);
    clock.turn(500);
    assert_eq!(told(&rooms, &room).await, [late.as_str()]);
    clock.turn(1_000);
    assert_eq!(told(&rooms, &room).await, Vec::<String>::new());
    // What is over goes with what comes; only what was redacted would last longer.
    for _ in 0..2 {
        send(sticky("new", 1_000)).await;
    }
    let rows = rooms
        .store()
        .snapshot()
        .scan(
            &tables::STICKY,
            resuni_store::ScanRange::all(),
            Direction::Forward,
            100,
        )
        .await
        .unwrap();
    assert_eq!(rows.len(), 3);
    assert_healthy(&rooms).await;
}

#[tokio::test]
async fn clients_are_told_what_makes_it_sticky_and_for_how_long_it_still_is() {
    let clock = Arc::new(Hand::default());
    let rooms = timed("here", &clock).await;
    let room = room(&rooms, RoomVersionId::V12, "@alice:here").await;
    let alice = user("@alice:here");
    let id = rooms
        .send(&room, &alice, sticky("hello", 10_000), None)
        .await
        .unwrap();
    clock.turn(4_000);
    let seen = async || {
        let view = rooms.view(&room).await.unwrap().unwrap();
        let event = view.timeline_event(&id).await.unwrap().unwrap();
        let form = Form {
            now_ms: rooms.now_ms(),
            ..Form::default()
        };
        let mut viewer = view.viewer(&alice).await.unwrap();
        let json = viewer.json(&event, &form).await.unwrap();
        let event: serde_json::Value = serde_json::from_str(&json).unwrap();
        let rest = event["unsigned"]["msc4354_sticky_duration_ttl_ms"].as_u64();
        (event["msc4354_sticky"].clone(), rest)
    };
    let marked = json!({ "duration_ms": 10_000 });
    assert_eq!(seen().await, (marked.clone(), Some(6_000)));
    clock.turn(6_000);
    assert_eq!(seen().await, (marked, None));
    let redaction = NewEvent {
        redacts: Some(id.clone()),
        ..NewEvent::message("m.room.redaction", raw(json!({})))
    };
    rooms.send(&room, &alice, redaction, None).await.unwrap();
    assert_eq!(seen().await, (json!(null), None));
}

/// The same state once more is no news, but lasts longer if it is sticky.
#[tokio::test]
async fn a_sticky_state_event_is_sent_again() {
    let rooms = server("here").await;
    let room = room(&rooms, RoomVersionId::V12, "@alice:here").await;
    let alice = user("@alice:here");
    let topic = || NewEvent {
        sticky_ms: Some(60_000),
        ..state("m.room.topic", json!({ "topic": "on" }))
    };
    let first = rooms.send(&room, &alice, topic(), None).await.unwrap();
    let second = rooms.send(&room, &alice, topic(), None).await.unwrap();
    assert_ne!(first, second);
}

/// Bob says something while he is thrown out at the other server: he is not heard, until he is let in again.
#[tokio::test]
async fn what_the_state_forbade_is_told_when_it_allows_it() {
    for (again, expected) in [(true, vec!["I am in the call"]), (false, vec![])] {
        let clock = Arc::new(Hand::default());
        let (here, there) = (timed("here", &clock).await, timed("there", &clock).await);
        let room = room(&here, RoomVersionId::V12, "@alice:here").await;
        let (alice, bob) = (user("@alice:here"), user("@bob:there"));
        join(&here, &there, &room, "@bob:there").await;
        let say = sticky("I am in the call", 60_000);
        let said = there.send(&room, &bob, say, None).await.unwrap();
        let kick = here
            .send(&room, &alice, member("@bob:there", "leave"), None)
            .await
            .unwrap();
        let received = here.receive(&room, pdu(&there, &said).await).await.unwrap();
        assert_eq!(received, Received::SoftFailed);
        assert_eq!(told(&here, &room).await, Vec::<String>::new());
        if !again {
            clock.turn(60_000);
        }
        there.receive(&room, pdu(&here, &kick).await).await.unwrap();
        let back = there
            .send(&room, &bob, member("@bob:there", "join"), None)
            .await
            .unwrap();
        let before = here.store().log().watermark();
        here.receive(&room, pdu(&there, &back).await).await.unwrap();
        assert_eq!(told(&here, &room).await, expected);
        let shown = matches!(place(&here, &said).await, tables::Place::Timeline { position, .. } if position > before);
        assert_eq!(shown, again, "clients that wait are told of it");
        let view = here.view(&room).await.unwrap().unwrap();
        let own = view.own_sticky(here.now_ms(), 10).await.unwrap();
        assert_eq!(own, [], "it is not for this server to send it on");
        let rest = here.store().snapshot();
        let range = resuni_store::ScanRange::all();
        let rest = rest
            .scan(&tables::STICKY_REFUSED, range, Direction::Forward, 10)
            .await
            .unwrap();
        assert_eq!(rest, []);
        assert_healthy(&here).await;
    }
}

/// Whoever was thrown out may send any number: a few are remembered.
#[tokio::test]
async fn so_many_refused_events_of_one_sender_are_remembered() {
    let clock = Arc::new(Hand::default());
    let (here, there) = (timed("here", &clock).await, timed("there", &clock).await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    join(&here, &there, &room, "@bob:there").await;
    let mut said = Vec::new();
    for n in 0..20 {
        let say = sticky(&n.to_string(), 60_000);
        let id = there.send(&room, &user("@bob:there"), say, None).await;
        said.push(pdu(&there, &id.unwrap()).await);
    }
    let ban = member("@bob:there", "ban");
    here.send(&room, &user("@alice:here"), ban, None)
        .await
        .unwrap();
    for pdu in said {
        let received = here.receive(&room, pdu).await.unwrap();
        assert_eq!(received, Received::SoftFailed);
    }
    let range = resuni_store::ScanRange::all();
    let rows = here
        .store()
        .snapshot()
        .scan(&tables::STICKY_REFUSED, range, Direction::Forward, 100)
        .await
        .unwrap();
    assert_eq!(rows.len(), 16);
}

/// What fills a gap has its place before what is known, where no token looks: the sticky event among it is told all the
/// same, to those who wait too.
#[tokio::test]
async fn a_sticky_event_in_history_is_told_too() {
    let clock = Arc::new(Hand::default());
    let (here, there) = (timed("here", &clock).await, timed("there", &clock).await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    let alice = user("@alice:here");
    join(&here, &there, &room, "@bob:there").await;
    let missed = sticky("missed", 60_000);
    let missed = here.send(&room, &alice, missed, None).await.unwrap();
    let known = here
        .send(&room, &alice, message("known"), None)
        .await
        .unwrap();
    let state: Vec<OwnedEventId> = state_and_chain(&here, &room)
        .await
        .0
        .iter()
        .map(|pdu| pdu.event_id().to_owned())
        .collect();
    there
        .receive_at_gap(&room, pdu(&here, &known).await, state)
        .await
        .unwrap();
    assert_eq!(told(&there, &room).await, Vec::<String>::new());
    let before = there.store().log().watermark();
    let laid = there
        .backfill(
            &room,
            &known,
            vec![pdu(&here, &missed).await],
            Default::default(),
        )
        .await
        .unwrap();
    assert_eq!(laid.laid, 1);
    assert_eq!(told(&there, &room).await, ["missed"]);
    let log = there.store().log();
    let now = log.watermark();
    let entries = log.read(before, now, 10).await.unwrap();
    let topics: Vec<_> = entries.iter().map(|entry| entry.topic).collect();
    assert_eq!(topics, [tables::TOPIC_STICKY]);
    assert_healthy(&there).await;
}
