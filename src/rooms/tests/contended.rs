//! Writers that meet a batch of another's: lanes keep them apart, but for one that was dropped half-way.

use super::between::{join, pdu};
use super::*;
use crate::lane::Live;

/// What a writer leaves that was dropped between its batch and its leaving: a lane with a head that is not the store's.
async fn overtake(rooms: &Rooms, room: &OwnedRoomId) {
    let mut lane = rooms.lanes.enter(room).await;
    let reader = rooms.reader();
    let num = reader.room_num(room).await.unwrap().unwrap();
    lane.take();
    let mut live = Live::read(&reader, num).await.unwrap().unwrap();
    live.head.as_mut().unwrap().depth += 1;
    lane.leave(live);
}

#[tokio::test]
async fn who_was_overtaken_begins_again() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    join(&here, &there, &room, "@bob:there").await;
    let (alice, bob) = (user("@alice:here"), user("@bob:there"));

    // An event of another server is not answered as if something were wrong with it: it would never come again.
    let said = there.send(&room, &bob, message("from there"), None);
    let said = pdu(&there, &said.await.unwrap()).await;
    overtake(&here, &room).await;
    let received = here.receive(&room, said).await.unwrap();
    assert!(
        matches!(received, Received::Accepted { .. }),
        "{received:?}"
    );

    overtake(&here, &room).await;
    here.send(&room, &alice, message("from here"), None)
        .await
        .unwrap();

    overtake(&there, &room).await;
    join(&here, &there, &room, "@carol:there").await;
    assert_healthy(&here).await;
    assert_healthy(&there).await;
}

#[tokio::test]
async fn an_upgrade_that_was_overtaken_is_whole() {
    let rooms = server("here").await;
    for version in [RoomVersionId::V11, RoomVersionId::V12] {
        let old = room(&rooms, version, "@alice:here").await;
        let alice = user("@alice:here");
        overtake(&rooms, &old).await;
        let request = UpgradeRoom {
            version: "12".to_owned(),
            additional_creators: Vec::new(),
            profile: MemberProfile {
                displayname: None,
                avatar_url: None,
            },
        };
        let new = rooms.upgrade(&old, &alice, &request).await.unwrap();
        let view = rooms.view_known(&old).await.unwrap();
        let tombstone = view.state("m.room.tombstone", "").await.unwrap().unwrap();
        assert!(tombstone.content().get().contains(new.as_str()));
        let levels = view.state("m.room.power_levels", "").await.unwrap();
        let levels: serde_json::Value = levels.unwrap().content_as().unwrap();
        assert_eq!(levels["events_default"], 50);
    }
    assert_healthy(&rooms).await;
}
