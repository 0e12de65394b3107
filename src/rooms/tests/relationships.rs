//! Threads of any depth (MSC2836).

use super::{
    between::{join, pdu},
    *,
};
use crate::relationships::ToldChildren;
use ruma::EventId;

async fn says(
    rooms: &Rooms,
    room: &OwnedRoomId,
    who: &str,
    parent: Option<&EventId>,
) -> OwnedEventId {
    let relationship = parent.map(|id| json!({ "rel_type": "m.reference", "event_id": id }));
    let content = json!({ "msgtype": "m.text", "body": "hm", "m.relationship": relationship });
    let event = NewEvent::message("m.room.message", raw(content));
    rooms.send(room, &user(who), event, None).await.unwrap()
}

fn from(event: &EventId) -> RelationshipsQuery {
    RelationshipsQuery {
        event_id: event.to_owned(),
        max_depth: 3,
        max_breadth: 10,
        limit: 100,
        depth_first: false,
        recent_first: false,
        include_parent: false,
        include_children: false,
        up: false,
    }
}

async fn walk(rooms: &Rooms, room: &OwnedRoomId, who: &str, query: &RelationshipsQuery) -> Walked {
    let view = rooms.view_known(room).await.unwrap();
    let mut viewer = view.viewer(&user(who)).await.unwrap();
    let reader = ThreadReader::Person(&mut viewer);
    view.relationships(reader, query).await.unwrap()
}

fn ids(walked: &Walked) -> Vec<&EventId> {
    let events = walked.events.iter();
    events.map(|event| event.pdu.event_id()).collect()
}

/// a; b and c answer it, d answers b, e answers d.
async fn thread(rooms: &Rooms, room: &OwnedRoomId) -> [OwnedEventId; 5] {
    let a = says(rooms, room, "@alice:here", None).await;
    let b = says(rooms, room, "@alice:here", Some(&a)).await;
    let c = says(rooms, room, "@alice:here", Some(&a)).await;
    let d = says(rooms, room, "@alice:here", Some(&b)).await;
    let e = says(rooms, room, "@alice:here", Some(&d)).await;
    [a, b, c, d, e]
}

#[tokio::test]
async fn a_thread_is_walked_in_the_order_that_is_asked_for() {
    let rooms = server("here").await;
    rooms.keep_relationships();
    let room = room(&rooms, RoomVersionId::V11, "@alice:here").await;
    let [a, b, c, d, e] = thread(&rooms, &room).await;
    let walked = async |query: RelationshipsQuery| {
        let walked = walk(&rooms, &room, "@alice:here", &query).await;
        assert!(walked.wanted.is_empty());
        let ids: Vec<OwnedEventId> = ids(&walked).into_iter().map(ToOwned::to_owned).collect();
        (ids, walked.limited)
    };
    let all = |ids: &[&OwnedEventId]| ids.iter().map(|id| (*id).clone()).collect::<Vec<_>>();
    assert_eq!(walked(from(&a)).await, (all(&[&a, &b, &c, &d, &e]), false));
    let recent = RelationshipsQuery {
        recent_first: true,
        ..from(&a)
    };
    assert_eq!(walked(recent).await, (all(&[&a, &c, &b, &d, &e]), false));
    let deep = RelationshipsQuery {
        depth_first: true,
        ..from(&a)
    };
    assert_eq!(walked(deep).await, (all(&[&a, &b, &d, &e, &c]), false));
    let near = RelationshipsQuery {
        max_depth: 1,
        max_breadth: 1,
        ..from(&a)
    };
    // What the window cuts off is not what the limit does.
    assert_eq!(walked(near).await, (all(&[&a, &b]), false));
    let few = RelationshipsQuery {
        limit: 2,
        ..from(&a)
    };
    assert_eq!(walked(few).await, (all(&[&a, &b]), true));
    let up = RelationshipsQuery {
        up: true,
        ..from(&e)
    };
    assert_eq!(walked(up).await, (all(&[&e, &d, &b, &a]), false));
    let around = RelationshipsQuery {
        include_parent: true,
        include_children: true,
        max_depth: 0,
        ..from(&b)
    };
    assert_eq!(walked(around).await, (all(&[&b, &a, &d]), false));

    // A thread stays whole when something in it is redacted.
    let redact = NewEvent {
        redacts: Some(b.clone()),
        ..NewEvent::message("m.room.redaction", raw(json!({ "redacts": b })))
    };
    let alice = user("@alice:here");
    rooms.send(&room, &alice, redact, None).await.unwrap();
    assert_eq!(walked(from(&a)).await, (all(&[&a, &b, &c, &d, &e]), false));
    assert_healthy(&rooms).await;
}

#[tokio::test]
async fn only_what_is_known_and_of_the_room_has_children() {
    let rooms = server("here").await;
    rooms.keep_relationships();
    let here = room(&rooms, RoomVersionId::V11, "@alice:here").await;
    let other = room(&rooms, RoomVersionId::V12, "@alice:here").await;
    let there = says(&rooms, &other, "@alice:here", None).await;
    for parent in [there.as_str(), "$nobody_knows_this_event"] {
        let relationship = json!({ "rel_type": "m.reference", "event_id": parent });
        let content = json!({ "m.relationship": relationship });
        let event = NewEvent::message("m.room.message", raw(content));
        let sent = rooms.send(&here, &user("@alice:here"), event, None).await;
        assert!(sent.is_err(), "{parent}");
    }
    let view = rooms.view_known(&other).await.unwrap();
    let mut stranger = view.viewer(&user("@eve:here")).await.unwrap();
    let reader = ThreadReader::Person(&mut stranger);
    let walked = view.relationships(reader, &from(&there)).await;
    assert!(matches!(walked, Err(RoomError::NotFound(_))));
}

#[tokio::test]
async fn what_is_older_than_our_join_is_shown_where_history_is_shared() {
    for (visibility, shown) in [("shared", true), ("joined", false)] {
        let (here, there) = (server("here").await, server("there").await);
        here.keep_relationships();
        there.keep_relationships();
        let room = room(&here, RoomVersionId::V11, "@alice:here").await;
        let before = says(&here, &room, "@alice:here", None).await;
        let content = json!({ "history_visibility": visibility });
        let event = state("m.room.history_visibility", content);
        let alice = user("@alice:here");
        here.send(&room, &alice, event, None).await.unwrap();
        let [a, b, c, d, e] = thread(&here, &room).await;
        join(&here, &there, &room, "@bob:there").await;
        let outliers = async |ids: &[&OwnedEventId]| {
            let mut events = Vec::new();
            for id in ids {
                events.push(pdu(&here, id).await);
            }
            there.receive_outliers(&room, events).await.unwrap();
        };
        outliers(&[&before, &a, &e]).await;
        let view = there.view_known(&room).await.unwrap();
        let mut viewer = view.viewer(&user("@bob:there")).await.unwrap();
        let up = RelationshipsQuery {
            up: true,
            ..from(&e)
        };
        let walked = view
            .relationships(ThreadReader::Person(&mut viewer), &up)
            .await;
        if !shown {
            assert!(walked.is_err());
            continue;
        }
        // What is missing can be asked for.
        let walked = walked.unwrap();
        assert_eq!(ids(&walked), [&*e]);
        assert_eq!(walked.wanted, std::slice::from_ref(&d));
        outliers(&[&b, &d]).await;
        let walked = walk(&there, &room, "@bob:there", &up).await;
        assert_eq!(ids(&walked), [&*e, &*d, &*b, &*a]);
        // What was said before the history was shared may not have been for us.
        let older = walk_err(&there, &room, &before).await;
        assert!(matches!(older, RoomError::NotFound(_)));

        // A server that has told of more children than are here is asked for them, once.
        let told = Children {
            children: [("m.reference".to_owned(), 2)].into(),
            hash: "of b and c".to_owned(),
        };
        there
            .note_children(&view, &a, Some(told.clone()), false)
            .await
            .unwrap();
        let walked = walk(&there, &room, "@bob:there", &from(&a)).await;
        assert_eq!(walked.wanted, std::slice::from_ref(&a));
        there.note_children(&view, &a, None, true).await.unwrap();
        let walked = walk(&there, &room, "@bob:there", &from(&a)).await;
        assert!(walked.wanted.is_empty());
        let view = there.view_known(&room).await.unwrap();
        assert_eq!(view.children_of(&a).await.unwrap(), (told.clone(), false));
        let key = (view.num(), EventHash::of(&a));
        let kept = view
            .snapshot()
            .get(&crate::relationships::TOLD_CHILDREN, &key);
        let wanted = ToldChildren {
            most: told,
            explored: true,
        };
        assert_eq!(kept.await.unwrap(), Some(wanted));
        outliers(&[&c]).await;
        let view = there.view_known(&room).await.unwrap();
        let (children, _) = view.children_of(&a).await.unwrap();
        assert_eq!(children.children["m.reference"], 2);
        assert_healthy(&there).await;
    }
}

async fn walk_err(rooms: &Rooms, room: &OwnedRoomId, event: &EventId) -> RoomError {
    let view = rooms.view_known(room).await.unwrap();
    let mut viewer = view.viewer(&user("@bob:there")).await.unwrap();
    let reader = ThreadReader::Person(&mut viewer);
    view.relationships(reader, &from(event)).await.unwrap_err()
}
