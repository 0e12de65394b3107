//! History from before this server came into a room.

use resuni_rooms::{Gaps, PageQuery, Preset};
use resuni_store::Direction;
use serde_json::json;

use crate::authority::Authority;
use crate::hostile::event;
use crate::part::servers;
use crate::two_servers::{join, room, timeline};

#[tokio::test(flavor = "multi_thread")]
async fn history_before_the_join_is_fetched_for_who_asks() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = room(&a, "12", Preset::PublicChat).await;
    let mut said = Vec::new();
    for n in 0..30 {
        said.push(a.say(&room, &format!("long ago {n}")).await);
    }
    join(&b, &room, &a).await.unwrap();
    let view = b.view(&room).await;
    let query = PageQuery {
        from: view.end(),
        to: None,
        dir: Direction::Backward,
        limit: 100,
        gaps: Gaps::Stop,
    };
    let page = view.page(query).await.unwrap();
    let gap = page.gap.expect("the history before the join is missing");
    let laid = b.federation.fetcher.backfill(&room, &gap).await.unwrap();
    assert!(laid >= 30, "{laid}");
    let at_b = timeline(&b, &room).await;
    assert_eq!(
        at_b,
        timeline(&a, &room).await,
        "the whole history, in the same order"
    );
}

/// Where many write at once, a piece of history is cut off in the middle of many branches. It is laid whole all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_wide_history_is_fetched_in_few_pieces() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = room(&a, "12", Preset::PublicChat).await;
    for round in 0..16 {
        let mut beside = Vec::new();
        for n in 0..12 {
            let content = json!({ "body": format!("{round} {n}") });
            beside.push(event(&a, &a, &room, content).await);
        }
        for event in beside {
            a.rooms.receive(&room, event).await.unwrap();
        }
    }
    join(&b, &room, &a).await.unwrap();
    let mut pieces = 0;
    loop {
        let view = b.view(&room).await;
        let query = PageQuery {
            from: view.end(),
            to: None,
            dir: Direction::Backward,
            limit: 1_000,
            gaps: Gaps::Stop,
        };
        let Some(gap) = view.page(query).await.unwrap().gap else {
            break;
        };
        let laid = b.federation.fetcher.backfill(&room, &gap).await.unwrap();
        assert!(laid > 0, "nothing comes before {}", gap.event_id);
        pieces += 1;
    }
    let sorted = |mut events: Vec<String>| {
        events.sort();
        events
    };
    assert_eq!(
        sorted(timeline(&b, &room).await),
        sorted(timeline(&a, &room).await)
    );
    assert!(pieces <= 5, "it took {pieces} requests");
}
