//! Receipts of other servers (server-server API, "Receipts").

use ruma::{OwnedEventId, RoomId, UserId};
use serde_json::{Value, json};

use crate::authority::Authority;
use crate::hostile::{join, public_room, send};
use crate::part::{Part, servers};

fn receipt(room: &RoomId, of: &UserId, event: &OwnedEventId) -> Value {
    let read = json!({ of: { "data": { "ts": 1 }, "event_ids": [event] } });
    json!({ "edu_type": "m.receipt", "content": { room: { "m.read": read } } })
}

async fn has_read(at: &Part, room: &RoomId, who: &UserId) -> bool {
    let receipts = at.view(room).await.receipts_of(who).await;
    !receipts.unwrap().is_empty()
}

/// Only of users of the server that sends them, and only of those who are in the room.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_of_a_member_and_from_their_server() {
    let authority = Authority::new();
    let [a, b, c] = servers(&authority, ["a.test", "b.test", "c.test"]).await;
    let room = public_room(&a).await;
    join(&b, &room, &a).await;
    let said = a.say(&room, "read this").await;
    let outsider = UserId::parse("@other:b.test").unwrap();
    for (n, (from, of)) in [
        (&c, c.user()),
        (&b, outsider),
        (&b, a.user()),
        (&c, b.user()),
    ]
    .into_iter()
    .enumerate()
    {
        let edu = receipt(&room, &of, &said);
        send(from, &a, &n.to_string(), Vec::new(), vec![edu])
            .await
            .unwrap();
        assert!(!has_read(&a, &room, &of).await, "{of} by {}", from.name);
    }
    let edu = receipt(&room, &b.user(), &said);
    send(&b, &a, "right", Vec::new(), vec![edu]).await.unwrap();
    assert!(has_read(&a, &room, &b.user()).await);
}
