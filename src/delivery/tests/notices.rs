//! Notices of the server.

use std::sync::Arc;

use resuni_rooms::{MemberDetails, Membership};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, user_id};
use serde_json::{json, value::to_raw_value};

use super::Home;
use crate::{Notice, NoticeError, Notices, NoticesConfig};

fn config() -> NoticesConfig {
    NoticesConfig {
        localpart: "_server".to_owned(),
        display_name: "The server".to_owned(),
        room_name: "Notices".to_owned(),
    }
}

async fn open(home: &Home) -> Result<Arc<Notices>, NoticeError> {
    Notices::open(home.rooms.clone(), home.accounts.clone(), config()).await
}

fn notice(user: &OwnedUserId, transaction: Option<&str>) -> Notice {
    Notice {
        user: user.clone(),
        kind: "m.room.message".to_owned(),
        state_key: None,
        content: to_raw_value(&json!({ "msgtype": "m.text", "body": "hello" })).unwrap(),
        transaction: transaction.map(|txn| (user_id!("@admin:h").to_owned(), txn.to_owned())),
    }
}

/// The rooms in which the user has this membership, without that of the test.
async fn rooms(home: &Home, membership: Membership) -> Vec<OwnedRoomId> {
    let rooms = home.rooms.rooms_of(&home.alice, &[membership]).await;
    let rooms = rooms.unwrap().into_iter().map(|room| room.room_id);
    rooms.filter(|room| *room != home.room).collect()
}

#[tokio::test]
async fn everybody_has_one_room_and_rejects_it_never() {
    let home = Home::new().await;
    let notices = open(&home).await.unwrap();
    let first = notices.send(notice(&home.alice, None)).await.unwrap();
    let second = notices.send(notice(&home.alice, None)).await.unwrap();
    assert_ne!(first, second);
    let invited = rooms(&home, Membership::Invite).await;
    let [room] = &invited[..] else {
        panic!("one invite: {invited:?}");
    };
    assert!(notices.must_not_leave(&home.alice, room).await.unwrap());
    let elsewhere = notices.must_not_leave(&home.alice, &home.room).await;
    assert!(!elsewhere.unwrap());
    let alice = home.accounts.find_user(&home.alice).await.unwrap().unwrap();
    let tags = home.accounts.tags(alice, room.as_str()).await.unwrap();
    assert!(tags.contains_key("m.server_notice"));

    let details = MemberDetails::default();
    home.rooms.join(room, &home.alice, &details).await.unwrap();
    assert!(!notices.must_not_leave(&home.alice, room).await.unwrap());
    home.rooms.leave(room, &home.alice, None).await.unwrap();

    // After a restart they are invited to the same room again.
    drop(notices);
    let notices = open(&home).await.unwrap();
    notices.send(notice(&home.alice, None)).await.unwrap();
    assert_eq!(rooms(&home, Membership::Invite).await, invited);
}

#[tokio::test]
async fn people_listen_there_and_do_not_speak() {
    let home = Home::new().await;
    let notices = open(&home).await.unwrap();
    notices.send(notice(&home.alice, None)).await.unwrap();
    let room = rooms(&home, Membership::Invite).await.remove(0);
    let details = MemberDetails::default();
    home.rooms.join(&room, &home.alice, &details).await.unwrap();
    let content = to_raw_value(&json!({ "msgtype": "m.text", "body": "me too" })).unwrap();
    let event = resuni_rooms::NewEvent::message("m.room.message", content);
    let said = home.rooms.send(&room, &home.alice, event, None).await;
    assert!(matches!(said, Err(resuni_rooms::RoomError::Forbidden(_))));
}

#[tokio::test]
async fn a_transaction_is_one_notice() {
    let home = Home::new().await;
    let notices = open(&home).await.unwrap();
    let send = async |txn| -> OwnedEventId {
        let sent = notices.send(notice(&home.alice, txn)).await;
        sent.unwrap()
    };
    assert_eq!(send(Some("1")).await, send(Some("1")).await);
    assert_ne!(send(Some("1")).await, send(Some("2")).await);
}

#[tokio::test]
async fn only_people_of_this_server_are_told() {
    let home = Home::new().await;
    let notices = open(&home).await.unwrap();
    for user in ["@nobody:h", "@alice:elsewhere", "@_server:h"] {
        let user = ruma::UserId::parse(user).unwrap();
        let sent = notices.send(notice(&user, None)).await;
        assert!(matches!(sent, Err(NoticeError::NoSuchUser)), "{user}");
    }
}

#[tokio::test]
async fn nobody_speaks_for_the_server_by_taking_its_name() {
    let home = Home::new().await;
    home.account("_server").await;
    let opened = open(&home).await;
    assert!(matches!(opened, Err(NoticeError::NameTaken(_))));
}
