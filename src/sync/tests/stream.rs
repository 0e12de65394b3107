//! `/events` and `/initialSync`.

use std::time::Duration;

use serde_json::Value;

use super::Home;
use crate::{StreamRequest, SyncError};

async fn stream(
    home: &Home,
    person: &super::Person,
    from: Option<&str>,
    timeout: u64,
) -> Result<Value, SyncError> {
    let request = StreamRequest {
        from: from.map(|from| from.parse().unwrap()),
        timeout: Duration::from_millis(timeout),
        ..StreamRequest::default()
    };
    let answer = home.sync.stream(person.who(), &request).await?;
    Ok(serde_json::from_str(&answer).unwrap())
}

fn bodies(answer: &Value) -> Vec<&str> {
    let events = answer["chunk"].as_array().unwrap();
    let bodies = events.iter().filter_map(|e| e["content"]["body"].as_str());
    bodies.collect()
}

#[tokio::test]
async fn a_stream_tells_each_event_once_however_many_there_are() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let rooms = [home.room(&alice).await, home.room(&alice).await];
    let other = home.room(&bob).await;
    let start = stream(&home, &alice, None, 0).await.unwrap();
    assert_eq!(start["chunk"], Value::Array(Vec::new()));
    let sent: Vec<String> = (0..230).map(|n| n.to_string()).collect();
    for (n, body) in sent.iter().enumerate() {
        home.say(&rooms[n % 2], &alice, body).await;
    }
    home.say(&other, &bob, "nothing for alice").await;
    let mut end = start["end"].as_str().unwrap().to_owned();
    let mut told = Vec::new();
    for _ in 0..3 {
        let answer = stream(&home, &alice, Some(&end), 0).await.unwrap();
        assert_eq!(answer["start"], end.as_str());
        assert!(answer["chunk"][0]["room_id"].is_string());
        told.extend(bodies(&answer).into_iter().map(str::to_owned));
        end = answer["end"].as_str().unwrap().to_owned();
    }
    assert_eq!(told, sent);
    let rest = stream(&home, &alice, Some(&end), 0).await.unwrap();
    assert_eq!(bodies(&rest), Vec::<&str>::new());
}

#[tokio::test]
async fn who_waits_is_told_when_something_comes() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let room = home.room(&alice).await;
    let start = stream(&home, &alice, None, 0).await.unwrap();
    let end = start["end"].as_str().unwrap();
    let (answer, ()) = tokio::join!(stream(&home, &alice, Some(end), 60_000), async {
        home.say(&room, &alice, "awake").await;
    });
    assert_eq!(bodies(&answer.unwrap()), ["awake"]);
}

#[tokio::test]
async fn a_room_is_streamed_to_those_only_who_may_read_it() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    let request = StreamRequest {
        room: Some(room.clone()),
        ..StreamRequest::default()
    };
    assert!(home.sync.stream(alice.who(), &request).await.is_ok());
    assert!(home.sync.stream(bob.who(), &request).await.is_err());
    let initial = home.sync.initial_of_room(bob.who(), &room, 10).await;
    assert!(initial.is_err());
}

#[tokio::test]
async fn rooms_are_told_as_they_are_and_as_they_were_left() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    home.join(&room, &bob).await;
    home.say(&room, &alice, "before").await;
    let all = |archived| {
        let (home, bob) = (&home, &bob);
        async move {
            let all = home.sync.initial(bob.who(), 5, archived).await.unwrap();
            serde_json::from_str::<Value>(&all).unwrap()
        }
    };
    let told = all(false).await;
    let info = &told["rooms"][0];
    assert_eq!(info["membership"], "join");
    let last = info["messages"]["chunk"].as_array().unwrap().last();
    assert_eq!(last.unwrap()["content"]["body"], "before");
    let names = info["state"].as_array().unwrap();
    assert!(names.iter().any(|event| event["type"] == "m.room.create"));
    home.rooms.leave(&room, &bob.id, None).await.unwrap();
    home.say(&room, &alice, "after").await;
    assert_eq!(all(false).await["rooms"], Value::Array(Vec::new()));
    let told = all(true).await;
    assert_eq!(told["rooms"][0]["membership"], "leave");
    assert!(!told.to_string().contains("after"));
    assert!(told.to_string().contains("before"));
}

#[tokio::test]
async fn who_types_and_who_has_read_what_is_streamed_too() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    let foreign = home.room(&bob).await;
    let start = stream(&home, &alice, None, 0).await.unwrap();
    home.say(&room, &alice, "hello").await;
    let answer = stream(&home, &alice, start["end"].as_str(), 0)
        .await
        .unwrap();
    let event = answer["chunk"][0]["event_id"].as_str().unwrap();
    let event: ruma::OwnedEventId = event.try_into().unwrap();
    let end = answer["end"].as_str().unwrap().to_owned();
    for room in [&room, &foreign] {
        let num = home.rooms.room_num(room).await.unwrap().unwrap();
        home.typing.set(num, &bob.id, Some(30_000));
    }
    home.rooms
        .set_receipt(
            &room,
            &alice.id,
            resuni_rooms::ReceiptKind::Read,
            None,
            &event,
        )
        .await
        .unwrap();
    let answer = stream(&home, &alice, Some(&end), 0).await.unwrap();
    let told: Vec<(&str, &str)> = answer["chunk"]
        .as_array()
        .unwrap()
        .iter()
        .map(|told| {
            (
                told["type"].as_str().unwrap(),
                told["room_id"].as_str().unwrap_or(""),
            )
        })
        .filter(|(kind, _)| *kind != "m.presence")
        .collect();
    assert_eq!(
        told,
        [("m.receipt", room.as_str()), ("m.typing", room.as_str())]
    );
    let end = answer["end"].as_str().unwrap();
    let rest = stream(&home, &alice, Some(end), 0).await.unwrap();
    assert_eq!(rest["chunk"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn who_is_there_is_told_from_the_start() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    home.room(&alice).await;
    home.rooms.presence().enable(true);
    let here = resuni_rooms::PresenceState::Online;
    for person in [&alice, &bob] {
        home.rooms.presence().set(&person.id, here, None);
    }
    let answer = home.sync.initial(alice.who(), 1, false).await.unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let present = answer["presence"].as_array().unwrap();
    // bob shares no room with her.
    assert_eq!(present.len(), 1);
    assert_eq!(present[0]["sender"], alice.id.as_str());
    assert_eq!(present[0]["content"]["presence"], "online");
}
