//! Policy rooms that the operator follows.

use ruma::{RoomId, RoomVersionId, server_name};
use serde_json::{Value, json};

use super::*;

const ADMIN: &str = "@admin:h";

async fn rule(rooms: &Rooms, room: &RoomId, kind: &str, key: &str, content: Value) -> OwnedEventId {
    let event = NewEvent::state(format!("m.policy.rule.{kind}"), key, raw(content));
    rooms.send(room, &user(ADMIN), event, None).await.unwrap()
}

fn ban(entity: &str) -> Value {
    json!({ "entity": entity, "recommendation": "m.ban", "reason": "spam" })
}

/// What follows the log, one step.
async fn follow(rooms: &Rooms, seen: &mut resuni_store::Position) {
    let up_to = rooms.store().log().watermark();
    rooms.follow_bans(*seen, up_to).await.unwrap();
    *seen = up_to;
}

#[tokio::test]
async fn rules_come_change_and_go() {
    let rooms = server("h").await;
    let list = room(&rooms, RoomVersionId::V11, ADMIN).await;
    rule(&rooms, &list, "user", "1", ban("@eve:*")).await;
    rule(&rooms, &list, "server", "1", ban("*.evil.org")).await;
    let mut seen = rooms
        .read_policy_rooms(std::slice::from_ref(&list))
        .await
        .unwrap();
    let bans = rooms.bans();
    assert_eq!(bans.rooms(), [(list.clone(), Some(2))]);
    let found = bans.user(&user("@eve:anywhere")).unwrap();
    assert_eq!(found.reason.as_deref(), Some("spam"));
    assert!(bans.user(&user("@evelyn:anywhere")).is_none());
    // No rule bans this server from itself.
    rule(&rooms, &list, "server", "all", ban("*")).await;
    follow(&rooms, &mut seen).await;
    assert!(bans.server(server_name!("anybody.org")).is_some());
    assert!(bans.user(&user("@bob:h")).is_none());
    rule(&rooms, &list, "server", "all", json!({})).await;
    follow(&rooms, &mut seen).await;
    // Servers whatever their case and port, and with them their users.
    assert!(bans.server(server_name!("WWW.Evil.org:8448")).is_some());
    assert!(bans.user(&user("@bob:www.evil.org")).is_some());
    assert!(bans.server(server_name!("evil.org")).is_none());

    // Changed, new, of no meaning, taken back by empty content.
    rule(&rooms, &list, "user", "1", ban("@mallory:h")).await;
    rule(&rooms, &list, "room", "1", ban("!bad:h")).await;
    let warn = json!({ "entity": "@carol:h", "recommendation": "org.example.warn" });
    rule(&rooms, &list, "user", "2", warn).await;
    rule(&rooms, &list, "server", "1", json!({})).await;
    follow(&rooms, &mut seen).await;
    assert!(bans.user(&user("@eve:anywhere")).is_none());
    assert!(bans.user(&user("@mallory:h")).is_some());
    assert!(bans.room("!bad:h").is_some());
    assert!(bans.user(&user("@carol:h")).is_none());
    assert!(bans.server(server_name!("www.evil.org")).is_none());

    // Taken back by a redaction.
    let id = rule(&rooms, &list, "user", "3", ban("@trent:h")).await;
    follow(&rooms, &mut seen).await;
    assert!(bans.user(&user("@trent:h")).is_some());
    let redaction = NewEvent {
        redacts: Some(id),
        ..NewEvent::message("m.room.redaction", raw(json!({})))
    };
    let admin = user(ADMIN);
    let redacted = rooms.send(&list, &admin, redaction, None);
    redacted.await.unwrap();
    follow(&rooms, &mut seen).await;
    assert!(bans.user(&user("@trent:h")).is_none());
}

#[tokio::test]
async fn a_room_that_comes_later_counts_from_then_on() {
    let rooms = server("h").await;
    let late = OwnedRoomId::try_from("!room:h").unwrap();
    let mut seen = rooms
        .read_policy_rooms(std::slice::from_ref(&late))
        .await
        .unwrap();
    assert_eq!(rooms.bans().rooms(), [(late.clone(), None)]);
    assert_eq!(room(&rooms, RoomVersionId::V11, ADMIN).await, late);
    rule(&rooms, &late, "user", "1", ban("@eve:h")).await;
    follow(&rooms, &mut seen).await;
    assert_eq!(rooms.bans().rooms(), [(late, Some(1))]);
    assert!(rooms.bans().user(&user("@eve:h")).is_some());
}

fn is_refused<T: std::fmt::Debug>(done: Result<T, RoomError>) {
    match done {
        Err(RoomError::Forbidden(message)) => assert!(message.contains("policy"), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn invites_and_joins_that_rules_stand_against_are_refused() {
    let rooms = server("h").await;
    let list = room(&rooms, RoomVersionId::V11, ADMIN).await;
    let (alice, bob, eve) = (user("@alice:h"), user("@bob:h"), user("@eve:h"));
    let create = async |who: &OwnedUserId, invite: Vec<OwnedUserId>| {
        let request = CreateRoom {
            preset: Some(Preset::PublicChat),
            invite,
            ..CreateRoom::default()
        };
        rooms.create(who, request).await
    };
    let good = create(&alice, Vec::new()).await.unwrap();
    let bad = create(&alice, Vec::new()).await.unwrap();
    let of_eve = create(&eve, Vec::new()).await.unwrap();
    rule(&rooms, &list, "user", "1", ban("@eve:h")).await;
    rule(&rooms, &list, "room", "1", ban(bad.as_str())).await;
    rule(&rooms, &list, "server", "1", ban("evil.org")).await;
    rooms.read_policy_rooms(&[list]).await.unwrap();
    let details = MemberDetails::default();

    is_refused(rooms.invite(&of_eve, &eve, &bob, &details).await);
    is_refused(
        rooms
            .send(&of_eve, &eve, member("@bob:h", "invite"), None)
            .await,
    );
    is_refused(create(&eve, vec![bob.clone()]).await);
    is_refused(rooms.invite(&bad, &alice, &bob, &details).await);
    let stranger = user("@x:evil.org");
    is_refused(rooms.invite(&good, &alice, &stranger, &details).await);
    is_refused(rooms.join(&bad, &bob, &details).await);
    is_refused(rooms.send(&bad, &bob, member("@bob:h", "join"), None).await);
    // A room that is not here, before anybody is asked for it.
    let far = OwnedRoomId::try_from("!far:elsewhere").unwrap();
    let mut content = ban("!far:*");
    content["recommendation"] = json!("org.matrix.mjolnir.ban");
    let seen = rooms.store().log().watermark();
    let list = rooms.bans().rooms()[0].0.clone();
    rule(&rooms, &list, "room", "2", content).await;
    rooms
        .follow_bans(seen, rooms.store().log().watermark())
        .await
        .unwrap();
    is_refused(rooms.join(&far, &bob, &details).await);
    is_refused(rooms.knock(&far, &bob, &details).await);

    // Who is in stays in, and all else goes on.
    rooms
        .send(&bad, &alice, member("@alice:h", "join"), None)
        .await
        .unwrap();
    rooms.join(&good, &bob, &details).await.unwrap();
    rooms.join(&good, &eve, &details).await.unwrap();
    rooms
        .invite(&good, &alice, &user("@carol:h"), &details)
        .await
        .unwrap();
    assert_healthy(&rooms).await;
}
