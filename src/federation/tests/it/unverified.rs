//! State of servers whose keys can't be had when we join.

use serde_json::Value;

use crate::authority::Authority;
use crate::hostile::{join, public_room};
use crate::part::{PATIENCE, Part, servers};

async fn membership(at: &Part, room: &ruma::RoomId, of: &Part) -> Option<Value> {
    let view = at.view(room).await;
    let member = view.state("m.room.member", of.user().as_str()).await;
    let content: Value = member.unwrap()?.content_as().unwrap();
    Some(content["membership"].clone())
}

/// The users of a server that is away when we join are members as soon as its key can be had, and what they say then is
/// not refused.
#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_server_that_was_away_come_back_with_its_key() {
    let authority = Authority::new();
    let [a, mut b, mut c] = servers(&authority, ["a.test", "b.test", "c.test"]).await;
    let room = public_room(&a).await;
    join(&c, &room, &a).await;
    c.stop().await;
    join(&b, &room, &a).await;
    b.rooms.whole(&room).await.unwrap();
    assert_eq!(
        membership(&b, &room, &c).await,
        None,
        "nobody vouched for this event"
    );
    // What is lacking is not forgotten.
    b.stop().await;
    let map = a.map.clone();
    b.restart(&authority, &map).await;

    c.restart(&authority, &map).await;
    let joined = b.view(&room).await;
    let joined = joined.state("m.room.member", b.user().as_str()).await;
    let joined = joined.unwrap().unwrap().event_id().to_owned();
    c.has(&room, &joined).await;
    let said = c.say(&room, "I am back").await;
    b.has(&room, &said).await;
    let back = async {
        while membership(&b, &room, &c).await != Some("join".into()) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, back).await;
    outcome.expect("the member does not come back");
}
