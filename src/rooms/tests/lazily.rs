//! States without the members that a lazily loading client can do without.

use std::collections::BTreeSet;

use resuni_store::Position;
use ruma::UserId;
use serde_json::json;

use super::reading::{alice, public, rooms, set};
use crate::{EventNum, MemberDetails, RoomView, SnapNum};

/// The events of a difference after it, by number, without the members but for `users`.
async fn by_hand(
    view: &RoomView,
    before: SnapNum,
    after: SnapNum,
    users: &BTreeSet<&str>,
) -> BTreeSet<EventNum> {
    let mut found = BTreeSet::new();
    for change in view.state_diff(before, after).await.unwrap() {
        let Some(event) = change.after else { continue };
        let pdu = &view.pdus(&[event]).await.unwrap()[0];
        let key = pdu.state_key().unwrap();
        if pdu.kind() != "m.room.member" || users.contains(key) {
            found.insert(event);
        }
    }
    found
}

/// Whatever was asked for before, which is where the answer is computed from.
#[tokio::test]
async fn the_lazy_difference_is_the_difference_without_members() {
    let rooms = rooms().await;
    let room = rooms.create(alice(), public()).await.unwrap();
    let mut ends: Vec<Position> = Vec::new();
    for n in 0..6 {
        let user = UserId::parse(format!("@u{n}:h")).unwrap();
        let details = MemberDetails::default();
        rooms.join(&room, &user, &details).await.unwrap();
        let topic = json!({ "topic": n });
        set(&rooms, &room, alice(), "m.room.topic", topic).await;
        if n % 2 == 0 {
            rooms.leave(&room, &user, None).await.unwrap();
        }
        ends.push(rooms.store().log().watermark());
    }
    let view = rooms.view(&room).await.unwrap().unwrap();
    let mut snaps = vec![SnapNum::EMPTY];
    for end in ends {
        snaps.push(view.snapshot_at(end).await.unwrap());
    }
    for users in [vec![], vec![alice().as_str(), "@u3:h", "@nobody:h"]] {
        let users: BTreeSet<&str> = users.into_iter().collect();
        for before in &snaps {
            // Forwards and backwards: the state that is remembered is an older and a newer one.
            for after in snaps.iter().chain(snaps.iter().rev()) {
                let lazily = view.state_diff_lazily(*before, *after, &users).await;
                let lazily: BTreeSet<EventNum> = lazily
                    .unwrap()
                    .into_iter()
                    .filter_map(|change| change.after)
                    .collect();
                assert_eq!(lazily, by_hand(&view, *before, *after, &users).await);
            }
        }
    }
}
