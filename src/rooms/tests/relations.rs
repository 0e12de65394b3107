//! What relates to an event: what a reader is told, page by page and in a bundle, and what nobody may send.

use std::collections::HashSet;

use resuni_store::Direction;
use serde_json::Value;

use super::*;

const ALICE: &str = "@alice:here";
const BOB: &str = "@bob:here";

struct Talk {
    rooms: Arc<Rooms>,
    room: OwnedRoomId,
}

impl Talk {
    async fn new() -> Self {
        let rooms = server("here").await;
        let room = room(&rooms, RoomVersionId::V12, ALICE).await;
        rooms
            .send(&room, &user(BOB), member(BOB, "join"), None)
            .await
            .unwrap();
        Self { rooms, room }
    }

    async fn say(&self, who: &str, kind: &str, content: Value) -> Result<OwnedEventId, RoomError> {
        self.rooms
            .send(
                &self.room,
                &user(who),
                NewEvent::message(kind, raw(content)),
                None,
            )
            .await
    }

    async fn text(&self, who: &str, body: &str) -> OwnedEventId {
        let content = json!({"msgtype": "m.text", "body": body});
        self.say(who, "m.room.message", content).await.unwrap()
    }

    async fn relate(&self, who: &str, target: &OwnedEventId, rel_type: &str) -> OwnedEventId {
        let content = json!({
            "msgtype": "m.text", "body": rel_type, "m.new_content": {"msgtype": "m.text", "body": "new"},
            "m.relates_to": {"rel_type": rel_type, "event_id": target},
        });
        self.say(who, "m.room.message", content).await.unwrap()
    }

    async fn react(
        &self,
        who: &str,
        target: &OwnedEventId,
        key: &str,
    ) -> Result<OwnedEventId, RoomError> {
        let relates_to = json!({"rel_type": "m.annotation", "event_id": target, "key": key});
        self.say(who, "m.reaction", json!({"m.relates_to": relates_to}))
            .await
    }

    async fn redact(&self, who: &str, target: &OwnedEventId) {
        let content = json!({"redacts": target});
        self.say(who, "m.room.redaction", content).await.unwrap();
    }

    async fn viewer(&self, who: &str) -> Viewer {
        let view = self.rooms.view_known(&self.room).await.unwrap();
        view.viewer(&user(who)).await.unwrap()
    }

    /// `m.relations` of an event.
    async fn bundle(&self, viewer: &mut Viewer, event: &OwnedEventId) -> Value {
        let event = viewer.event(event).await.unwrap().unwrap();
        let json = viewer.json(&event, &Form::default()).await.unwrap();
        serde_json::from_str::<Value>(&json).unwrap()["unsigned"]["m.relations"].take()
    }

    async fn bundle_for(&self, who: &str, event: &OwnedEventId) -> Value {
        self.bundle(&mut self.viewer(who).await, event).await
    }
}

fn query(parent: &OwnedEventId) -> RelationsQuery {
    RelationsQuery {
        parent: parent.clone(),
        rel_type: None,
        kind: None,
        from: None,
        to: None,
        dir: Direction::Backward,
        limit: 2,
        recurse: false,
    }
}

fn ids(page: &RelationsPage) -> Vec<OwnedEventId> {
    page.events.iter().map(TimelineEvent::event_id).collect()
}

#[tokio::test]
async fn the_newest_edit_of_the_sender_is_bundled_and_goes_with_its_redaction() {
    let talk = Talk::new().await;
    let root = talk.text(ALICE, "a").await;
    let first = talk.relate(ALICE, &root, "m.replace").await;
    let second = talk.relate(ALICE, &root, "m.replace").await;
    // Another's edit, one of another type, and one without new content are none.
    talk.relate(BOB, &root, "m.replace").await;
    let relates_to = json!({"rel_type": "m.replace", "event_id": root});
    talk.say(
        ALICE,
        "m.other",
        json!({"m.new_content": {}, "m.relates_to": relates_to}),
    )
    .await
    .unwrap();
    talk.say(ALICE, "m.room.message", json!({"m.relates_to": relates_to}))
        .await
        .unwrap();

    let bundle = talk.bundle_for(BOB, &root).await;
    assert_eq!(bundle["m.replace"]["event_id"], json!(second));
    talk.redact(ALICE, &second).await;
    let bundle = talk.bundle_for(BOB, &root).await;
    assert_eq!(bundle["m.replace"]["event_id"], json!(first));
    talk.redact(ALICE, &root).await;
    assert_eq!(talk.bundle_for(BOB, &root).await, Value::Null);
    assert_healthy(&talk.rooms).await;
}

#[tokio::test]
async fn a_thread_is_counted_without_those_who_are_ignored_and_without_what_was_redacted() {
    let talk = Talk::new().await;
    let root = talk.text(ALICE, "root").await;
    let first = talk.relate(BOB, &root, "m.thread").await;
    let second = talk.relate(BOB, &root, "m.thread").await;
    let third = talk.relate(ALICE, &root, "m.thread").await;
    let edit = talk.relate(ALICE, &third, "m.replace").await;

    let thread = talk.bundle_for(BOB, &root).await["m.thread"].take();
    assert_eq!(
        (&thread["count"], &thread["current_user_participated"]),
        (&json!(3), &json!(true))
    );
    assert_eq!(thread["latest_event"]["event_id"], json!(third));
    let of_latest = &thread["latest_event"]["unsigned"]["m.relations"];
    assert_eq!(of_latest["m.replace"]["event_id"], json!(edit));

    let mut viewer = talk
        .viewer(BOB)
        .await
        .ignoring(HashSet::from([user(ALICE)]));
    let thread = talk.bundle(&mut viewer, &root).await["m.thread"].take();
    assert_eq!(
        (&thread["count"], &thread["latest_event"]["event_id"]),
        (&json!(2), &json!(second))
    );

    talk.redact(ALICE, &third).await;
    talk.redact(BOB, &second).await;
    let thread = talk.bundle_for(ALICE, &root).await["m.thread"].take();
    assert_eq!(
        (&thread["count"], &thread["latest_event"]["event_id"]),
        (&json!(1), &json!(first))
    );
    assert_healthy(&talk.rooms).await;
    talk.redact(BOB, &first).await;
    assert_eq!(talk.bundle_for(ALICE, &root).await, Value::Null);
    assert_healthy(&talk.rooms).await;
}

#[tokio::test]
async fn references_are_listed_and_annotations_are_not() {
    let talk = Talk::new().await;
    let root = talk.text(ALICE, "root").await;
    talk.react(BOB, &root, "+").await.unwrap();
    let reference = talk.relate(BOB, &root, "m.reference").await;
    let bundle = talk.bundle_for(ALICE, &root).await;
    assert_eq!(
        bundle,
        json!({"m.reference": {"chunk": [{"event_id": reference}]}})
    );
}

#[tokio::test]
async fn nobody_reacts_twice_in_the_same_way() {
    let talk = Talk::new().await;
    let root = talk.text(ALICE, "root").await;
    let reaction = talk.react(BOB, &root, "+").await.unwrap();
    let again = talk.react(BOB, &root, "+").await;
    assert!(matches!(
        again,
        Err(RoomError::BadRequest {
            errcode: "M_DUPLICATE_ANNOTATION",
            ..
        })
    ));
    talk.react(BOB, &root, "-").await.unwrap();
    talk.react(ALICE, &root, "+").await.unwrap();
    talk.redact(BOB, &reaction).await;
    talk.react(BOB, &root, "+").await.unwrap();
    assert_healthy(&talk.rooms).await;
}

#[tokio::test]
async fn a_thread_hangs_on_no_event_that_relates_to_another() {
    let talk = Talk::new().await;
    let root = talk.text(ALICE, "root").await;
    let child = talk.relate(BOB, &root, "m.thread").await;
    let relates_to = json!({"rel_type": "m.thread", "event_id": child});
    let refused = talk
        .say(BOB, "m.room.message", json!({"m.relates_to": relates_to}))
        .await;
    assert!(matches!(refused, Err(RoomError::BadRequest { .. })));
}

#[tokio::test]
async fn pages_of_relations_go_both_ways_and_follow_relations_of_relations() {
    let talk = Talk::new().await;
    let root = talk.text(ALICE, "root").await;
    let mut children = Vec::new();
    for _ in 0..5 {
        children.push(talk.relate(BOB, &root, "m.thread").await);
    }
    let reaction = talk.react(ALICE, &children[0], "+").await.unwrap();
    let deep = talk.relate(ALICE, &reaction, "m.reference").await;
    let mut viewer = talk.viewer(ALICE).await;
    for rel_type in [None, Some("m.thread".to_owned())] {
        for dir in [Direction::Backward, Direction::Forward] {
            let mut found = Vec::new();
            let mut next = RelationsQuery {
                rel_type: rel_type.clone(),
                dir,
                ..query(&root)
            };
            loop {
                let page = viewer.related(&next).await.unwrap();
                found.extend(ids(&page));
                match page.next {
                    Some(from) => next.from = Some(from),
                    None => break,
                }
            }
            if dir == Direction::Backward {
                found.reverse();
            }
            assert_eq!(found, children);
        }
    }
    let all = RelationsQuery {
        recurse: true,
        limit: 10,
        ..query(&root)
    };
    let page = viewer.related(&all).await.unwrap();
    assert_eq!(ids(&page)[..2], [deep, reaction]);
    assert_eq!(
        (page.events.len(), page.next, page.depth),
        (7, None, Some(3))
    );
    let none = RelationsQuery {
        kind: Some("m.sticker".to_owned()),
        ..query(&root)
    };
    assert!(viewer.related(&none).await.unwrap().events.is_empty());
    let stranger = talk.viewer("@eve:there").await.related(&all).await;
    assert!(matches!(stranger, Err(RoomError::NotFound(_))));
}

#[tokio::test]
async fn threads_are_listed_by_their_newest_event() {
    let talk = Talk::new().await;
    let (a, b) = (talk.text(ALICE, "a").await, talk.text(BOB, "b").await);
    talk.relate(ALICE, &a, "m.thread").await;
    talk.relate(BOB, &b, "m.thread").await;
    let newest = talk.relate(ALICE, &a, "m.thread").await;
    let mut all = ThreadsQuery {
        from: None,
        participated: false,
        limit: 1,
    };
    let mut viewer = talk.viewer(BOB).await;
    let first = viewer.threads(&all).await.unwrap();
    assert_eq!(ids(&first), std::slice::from_ref(&a));
    all.from = first.next;
    let second = viewer.threads(&all).await.unwrap();
    assert_eq!((ids(&second), second.next), (vec![b.clone()], None));
    let own = ThreadsQuery {
        from: None,
        participated: true,
        limit: 9,
    };
    let found = viewer.threads(&own).await.unwrap();
    assert_eq!(ids(&found), std::slice::from_ref(&b));

    talk.redact(ALICE, &newest).await;
    let threads = ThreadsQuery {
        participated: false,
        ..own
    };
    let mut viewer = talk.viewer(BOB).await;
    assert_eq!(ids(&viewer.threads(&threads).await.unwrap()), [b, a]);
}

#[tokio::test]
async fn who_left_is_told_nothing_of_what_came_after() {
    let talk = Talk::new().await;
    let root = talk.text(ALICE, "root").await;
    let seen = talk.relate(ALICE, &root, "m.thread").await;
    talk.rooms
        .send(&talk.room, &user(BOB), member(BOB, "leave"), None)
        .await
        .unwrap();
    talk.relate(ALICE, &root, "m.thread").await;
    talk.relate(ALICE, &root, "m.replace").await;
    talk.relate(ALICE, &root, "m.reference").await;
    let bundle = talk.bundle_for(BOB, &root).await;
    assert_eq!(bundle["m.thread"]["latest_event"]["event_id"], json!(seen));
    assert_eq!(
        (bundle.get("m.replace"), bundle.get("m.reference")),
        (None, None)
    );
    let page = talk.viewer(BOB).await.related(&query(&root)).await.unwrap();
    assert_eq!(ids(&page), [seen]);
}
