//! Pages of a room of which only a part is here: the rest comes from the other server while somebody reads.

use std::collections::HashMap;

use proptest::prelude::*;
use resuni_dag::Pdu;
use resuni_store::{Direction, Position};

use super::between::{join, pdu};
use super::*;

/// What `/backfill` of the other server answers: a few events that end with the missing ones, and the state before the
/// oldest of them.
async fn fetch(
    from: &Rooms,
    room: &OwnedRoomId,
    gap: &Gap,
    count: usize,
) -> (Vec<Pdu>, HashMap<OwnedEventId, Vec<OwnedEventId>>) {
    let view = from.view(room).await.unwrap().unwrap();
    let newest = view.timeline_event(&gap.missing[0]).await.unwrap().unwrap();
    let query = PageQuery {
        from: newest.token,
        to: None,
        dir: Direction::Backward,
        limit: count,
        gaps: Gaps::Pass,
    };
    let (mut pdus, mut states) = (Vec::new(), HashMap::new());
    for event in view.page(query).await.unwrap().events {
        let state = view
            .state_before(&event.event_id())
            .await
            .unwrap()
            .all()
            .await
            .unwrap();
        states.insert(
            event.event_id(),
            state
                .iter()
                .map(|event| event.event_id().to_owned())
                .collect(),
        );
        pdus.push(pdu(from, &event.event_id()).await);
    }
    (pdus, states)
}

/// Walks the timeline in pages of these sizes, and closes each gap a piece at a time: at once, or `later`, when the next
/// page begins there.
async fn walk(
    (here, there): (&Rooms, &Rooms),
    room: &OwnedRoomId,
    dir: Direction,
    sizes: &[usize],
    later: bool,
) -> Vec<OwnedEventId> {
    let me = user("@bob:far");
    let end = here.view(room).await.unwrap().unwrap().end();
    let from = if dir == Direction::Backward {
        end
    } else {
        TimelineToken::live(Position(0))
    };
    let mut query = PageQuery {
        from,
        to: None,
        dir,
        limit: 1,
        gaps: Gaps::Stop,
    };
    let mut found = Vec::new();
    for size in sizes.iter().cycle().take(10_000) {
        query.limit = *size;
        let mut viewer = here
            .view(room)
            .await
            .unwrap()
            .unwrap()
            .viewer(&me)
            .await
            .unwrap();
        let page = viewer.page(query, |_| true).await.unwrap();
        found.extend(page.events.iter().map(TimelineEvent::event_id));
        let gap = page.gap.filter(|_| !later || page.events.is_empty());
        if let Some(gap) = &gap {
            let (pdus, states) = fetch(there, room, gap, *size).await;
            here.receive_outliers(room, state_of(there, room, &pdus).await)
                .await
                .unwrap();
            let done = here
                .backfill(room, &gap.event_id, pdus, states)
                .await
                .unwrap();
            assert!(done.laid > 0, "{gap:?} {done:?}");
        }
        match page.end {
            Some(end) => query.from = end,
            None => return found,
        }
    }
    panic!("the walk never ends");
}

async fn state_of(rooms: &Rooms, room: &OwnedRoomId, pdus: &[Pdu]) -> Vec<Pdu> {
    let view = rooms.view(room).await.unwrap().unwrap();
    let mut events = Vec::new();
    for pdu in pdus {
        events.extend(
            view.state_before(pdu.event_id())
                .await
                .unwrap()
                .all()
                .await
                .unwrap(),
        );
    }
    events
}

async fn all_of(rooms: &Rooms, room: &OwnedRoomId) -> Vec<OwnedEventId> {
    let view = rooms.view(room).await.unwrap().unwrap();
    let query = PageQuery {
        from: TimelineToken::live(Position(0)),
        to: None,
        dir: Direction::Forward,
        limit: MAX_PAGE,
        gaps: Gaps::Pass,
    };
    view.page(query)
        .await
        .unwrap()
        .events
        .iter()
        .map(TimelineEvent::event_id)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn each_event_is_read_once_and_in_order_while_gaps_are_filled(
        before in 0..12usize,
        heard in prop::collection::vec(any::<bool>(), 0..24),
        sizes in prop::collection::vec(1..9usize, 1..4),
        backward: bool,
        later: bool,
    ) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let (there, here) = (server("home").await, server("far").await);
            let room = room(&there, RoomVersionId::V12, "@alice:home").await;
            for n in 0..before {
                there.send(&room, &user("@alice:home"), message(&n.to_string()), None).await.unwrap();
            }
            join(&there, &here, &room, "@bob:far").await;
            for (n, heard) in heard.iter().enumerate() {
                let event = if n % 5 == 4 { state("m.room.name", json!({"name": n})) } else { message(&n.to_string()) };
                let id = there.send(&room, &user("@alice:home"), event, None).await.unwrap();
                if *heard {
                    deliver(&there, &here, &room, &id).await;
                }
            }
            let dir = if backward { Direction::Backward } else { Direction::Forward };
            let mut expected = all_of(&there, &room).await;
            // Of what came after the last event that was heard nothing is known here.
            let heard_last = all_of(&here, &room).await.pop().unwrap();
            expected.truncate(expected.iter().position(|id| *id == heard_last).unwrap() + 1);
            let mut read = walk((&here, &there), &room, dir, &sizes, later).await;
            if backward {
                read.reverse();
            }
            assert_eq!(read, expected);
            assert_eq!(all_of(&here, &room).await, expected);
        });
    }
}

/// What federation does with a new event: over a gap it asks for the state.
async fn deliver(there: &Rooms, here: &Rooms, room: &OwnedRoomId, id: &OwnedEventId) {
    let event = pdu(there, id).await;
    if !matches!(
        here.receive(room, event.clone()).await.unwrap(),
        Received::Missing { .. }
    ) {
        return;
    }
    let state = state_of(there, room, std::slice::from_ref(&event)).await;
    let ids = state
        .iter()
        .map(|event| event.event_id().to_owned())
        .collect();
    here.receive_outliers(room, state).await.unwrap();
    let received = here.receive_at_gap(room, event, ids).await.unwrap();
    assert!(
        matches!(received, Received::Accepted { .. }),
        "{received:?}"
    );
}

#[tokio::test]
async fn an_invite_from_outside_is_shown_pruned_and_can_be_declined_alone() {
    let (there, here) = (server("home").await, server("far").await);
    let room = room(&there, RoomVersionId::V12, "@alice:home").await;
    let (alice, bob) = (user("@alice:home"), user("@bob:far"));
    let invite = member("@bob:far", "invite");
    let (template, version) = there.template(&room, &alice, invite).await.unwrap();
    let rules = resuni_dag::RoomRules::of(&version).unwrap();
    let event =
        resuni_dag::sign_object(template, rules, there.server_name(), &there.config.key).unwrap();
    // As the other server sends it: whole events, and the invite among them.
    let view = there.view(&room).await.unwrap().unwrap();
    let state = view.stripped_state_pdus(None).await.unwrap();
    let told: Vec<&str> = state.iter().chain([&event]).map(Pdu::json).collect();
    let stripped = Some(format!("[{}]", told.join(",")));
    let out = OutOfBand {
        user: &bob,
        room: &room,
        version: &version,
        stripped,
        event,
    };
    here.record_invite(out).await.unwrap();

    let invites = here.rooms_of(&bob, &[Membership::Invite]).await.unwrap();
    assert_eq!(invites.len(), 1);
    let shown = here
        .stripped_state(&bob, invites[0].num)
        .await
        .unwrap()
        .unwrap();
    let shown: Vec<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_str(&shown).unwrap();
    assert_eq!(shown.len(), state.len() + 1);
    let fields = |event: &serde_json::Map<_, _>| {
        if event["type"] == "m.room.create" {
            5
        } else {
            4
        }
    };
    assert!(
        shown.iter().all(|event| event.len() == fields(event)),
        "{shown:?}"
    );
    assert_eq!(
        (&shown[0]["type"], &shown[state.len()]["state_key"]),
        (&json!("m.room.create"), &json!("@bob:far"))
    );

    let home = OwnedServerName::try_from("home").unwrap();
    for answer in [
        here.leave(&room, &bob, None).await,
        here.join(&room, &bob, &MemberDetails::default()).await,
    ] {
        assert!(
            matches!(&answer, Err(RoomError::Remote { via, .. }) if *via == [home.clone()]),
            "{answer:?}"
        );
    }
    let before = here.store().log().watermark();
    here.leave_unheard(&room, &bob).await.unwrap();
    let log = here.store().log();
    let entries = log.read(before, log.watermark(), 10).await.unwrap();
    let entry = tables::EventLog::from_bytes(&entries[0].payload).unwrap();
    assert_eq!(
        (entries.len(), entry.flags, entry.memberships.len()),
        (1, tables::flags::OUT_OF_BAND, 1)
    );
    assert!(
        here.rooms_of(&bob, &[Membership::Invite])
            .await
            .unwrap()
            .is_empty()
    );
    assert!(matches!(
        here.leave_unheard(&room, &bob).await,
        Err(RoomError::Forbidden(_))
    ));
    here.leave(&room, &bob, None).await.unwrap();
    here.forget(&room, &bob).await.unwrap();
}
