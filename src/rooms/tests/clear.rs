//! Kicks and bans that redact what their target has said (MSC4293).

use super::{between::*, *};

/// What is shown of an event, and the type and sender of what redacted it.
async fn shown(
    rooms: &Rooms,
    room: &OwnedRoomId,
    id: &OwnedEventId,
) -> (Option<String>, Option<(String, String)>) {
    let view = rooms.view(room).await.unwrap().unwrap();
    let event = view.timeline_event(id).await.unwrap().unwrap();
    let mut viewer = view.viewer(&user("@alice:here")).await.unwrap();
    let json = viewer.json(&event, &Form::default()).await.unwrap();
    let event: serde_json::Value = serde_json::from_str(&json).unwrap();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let because = &event["unsigned"]["redacted_because"];
    let because = text(&because["type"]).zip(text(&because["sender"]));
    (text(&event["content"]["body"]), because)
}

async fn bodies(rooms: &Rooms, room: &OwnedRoomId, ids: &[OwnedEventId]) -> Vec<Option<String>> {
    let mut found = Vec::new();
    for id in ids {
        found.push(shown(rooms, room, id).await.0);
    }
    found
}

fn clearing(who: &str, membership: &str) -> NewEvent {
    let content = json!({ "membership": membership, "org.matrix.msc4293.redact_events": true });
    NewEvent::state("m.room.member", who, raw(content))
}

struct Scene {
    rooms: Arc<Rooms>,
    room: OwnedRoomId,
}

impl Scene {
    async fn new() -> Self {
        let rooms = server("here").await;
        let room = room(&rooms, RoomVersionId::V12, "@alice:here").await;
        Self { rooms, room }
    }

    async fn send(&self, who: &str, event: NewEvent) -> OwnedEventId {
        let sent = self.rooms.send(&self.room, &user(who), event, None).await;
        sent.unwrap()
    }

    async fn say(&self, who: &str, texts: &[&str]) -> Vec<OwnedEventId> {
        let mut ids = Vec::new();
        for text in texts {
            ids.push(self.send(who, message(text)).await);
        }
        ids
    }

    async fn bodies(&self, ids: &[OwnedEventId]) -> Vec<Option<String>> {
        bodies(&self.rooms, &self.room, ids).await
    }
}

const BOB: &str = "@bob:here";

/// The example of the proposal; and a new name in between is no way to keep what one has said.
#[tokio::test]
async fn what_was_said_since_the_join_goes_and_nothing_else() {
    for membership in ["leave", "ban"] {
        let scene = Scene::new().await;
        scene.send(BOB, member(BOB, "join")).await;
        let before = scene.say(BOB, &["A", "B", "C"]).await;
        scene.send(BOB, member(BOB, "leave")).await;
        scene.send(BOB, member(BOB, "join")).await;
        let mut since = scene.say(BOB, &["D", "E"]).await;
        let renamed = json!({ "membership": "join", "displayname": "Bobby" });
        let renamed = NewEvent::state("m.room.member", BOB, raw(renamed));
        scene.send(BOB, renamed).await;
        since.extend(scene.say(BOB, &["F"]).await);
        let others = scene.say("@alice:here", &["enough"]).await;
        scene.send("@alice:here", clearing(BOB, membership)).await;
        let kept = |texts: &[&str]| -> Vec<_> {
            texts.iter().map(|text| Some((*text).to_owned())).collect()
        };
        assert_eq!(scene.bodies(&before).await, kept(&["A", "B", "C"]));
        assert_eq!(scene.bodies(&since).await, [None, None, None]);
        assert_eq!(scene.bodies(&others).await, kept(&["enough"]));
        let (_, because) = shown(&scene.rooms, &scene.room, &since[0]).await;
        let expected = ("m.room.member".to_owned(), "@alice:here".to_owned());
        assert_eq!(because, Some(expected));
        assert_healthy(&scene.rooms).await;
    }
}

#[tokio::test]
async fn it_needs_the_power_to_redact_and_somebody_else_who_goes() {
    let scene = Scene::new().await;
    let carol = "@carol:here";
    for who in [BOB, carol] {
        scene.send(who, member(who, "join")).await;
    }
    // Carol may ban, but not redact.
    let levels = json!({ "users": { carol: 50 }, "redact": 60 });
    scene
        .send("@alice:here", state("m.room.power_levels", levels))
        .await;
    let said = scene.say(BOB, &["hi"]).await;
    let own = scene.say(carol, &["bye"]).await;
    scene.send(carol, clearing(BOB, "ban")).await;
    // Who goes takes nothing along.
    scene.send(carol, clearing(carol, "leave")).await;
    assert_eq!(scene.bodies(&said).await, [Some("hi".to_owned())]);
    assert_eq!(scene.bodies(&own).await, [Some("bye".to_owned())]);
}

/// More than one batch looks at: the newest go at once, the others soon.
#[tokio::test]
async fn a_long_stay_is_cleared_page_by_page() {
    let scene = Scene::new().await;
    scene.send(BOB, member(BOB, "join")).await;
    let texts: Vec<String> = (0..700).map(|n| n.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let said = scene.say(BOB, &texts).await;
    scene.send("@alice:here", clearing(BOB, "ban")).await;
    let ends = [said[0].clone(), said[699].clone()];
    assert_eq!(scene.bodies(&ends).await, [Some("0".to_owned()), None]);
    let rooms = scene.rooms.clone();
    let clear = tokio::spawn(async move { rooms.clear().await });
    while scene.bodies(&ends).await != [None, None] {
        tokio::task::yield_now().await;
    }
    clear.abort();
    assert_eq!(scene.bodies(&said).await, vec![None; 700]);
    assert_healthy(&scene.rooms).await;
}

/// What comes as history of that time.
#[tokio::test]
async fn what_is_fetched_later_is_redacted_too() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    let alice = user("@alice:here");
    let send = async |who: &str, event| here.send(&room, &user(who), event, None).await.unwrap();
    send(BOB, member(BOB, "join")).await;
    join(&here, &there, &room, "@dora:there").await;
    let missed = send(BOB, message("buy my book")).await;
    let state: Vec<OwnedEventId> = state_and_chain(&here, &room)
        .await
        .0
        .iter()
        .map(|pdu| pdu.event_id().to_owned())
        .collect();
    let ban = send(alice.as_str(), clearing(BOB, "ban")).await;
    there
        .receive_at_gap(&room, pdu(&here, &ban).await, state)
        .await
        .unwrap();
    there
        .backfill(
            &room,
            &ban,
            vec![pdu(&here, &missed).await],
            Default::default(),
        )
        .await
        .unwrap();
    assert_eq!(bodies(&there, &room, &[missed]).await, [None]);
    assert_healthy(&there).await;
}
