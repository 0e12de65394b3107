//! What another server may send without being asked: rightly signed, and wrong all the same. The
//! number of a test is its line in docs/security.md.

use resuni_dag::{Draft, Pdu, Reference, sign};
use resuni_rooms::{CreateRoom, Gaps, Membership, PageQuery, Preset};
use resuni_store::Direction;
use ruma::{
    OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, UserId,
    api::federation::{
        backfill::get_backfill::v1 as backfill, event::get_missing_events::v1 as missing_events,
        membership::create_invite::v2 as invite,
    },
    uint,
};
use serde_json::{Value, json};

use resuni_federation::Terms;

use crate::authority::Authority;
use crate::hostile::{event, event_of, join, key_of, public_room, raw, refusal, send};
use crate::part::{Part, servers};

/// `draft` with other references, signed by `by`.
async fn referring(
    by: &Part,
    at: &Part,
    room: &RoomId,
    prev_events: Vec<OwnedEventId>,
    auth_events: Option<Vec<OwnedEventId>>,
    depth: u64,
) -> Pdu {
    let model = event(by, at, room, json!({ "msgtype": "m.text", "body": "x" })).await;
    let draft = Draft {
        room_id: Some(room.to_owned()),
        sender: by.user(),
        kind: "m.room.message".to_owned(),
        state_key: None,
        content: model.content().to_owned(),
        redacts: None,
        prev_events: references(prev_events),
        auth_events: references(auth_events.unwrap_or_else(|| model.auth_events().to_vec())),
        depth,
        origin_server_ts: model.origin_server_ts(),
        sticky_ms: None,
    };
    sign(draft, at.view(room).await.rules(), &by.name, &key_of(by)).unwrap()
}

fn references(ids: Vec<OwnedEventId>) -> Vec<Reference> {
    ids.into_iter().map(Into::into).collect()
}

/// Sends one event; whether it was taken in without an error.
async fn offer(from: &Part, to: &Part, pdu: &Pdu) -> bool {
    let id = pdu.event_id().to_string();
    let answer = send(from, to, &id, vec![raw(pdu.json())], vec![]).await;
    matches!(answer.unwrap().pdus.get(pdu.event_id()), Some(Ok(())))
}

async fn in_timeline(at: &Part, room: &RoomId, pdu: &Pdu) -> bool {
    let view = at.view(room).await;
    let place = view.place_in_timeline(pdu.event_id()).await.unwrap();
    place.is_some()
}

async fn shared() -> (Authority, Part, Part, OwnedRoomId) {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    join(&b, &room, &a).await;
    (authority, a, b, room)
}

/// CVE-2022-39374: a rejected event never enters the state, whoever builds on it.
#[tokio::test(flavor = "multi_thread")]
async fn s004_what_builds_on_a_rejected_event_does_not_bring_it_in() {
    let (_authority, a, b, room) = shared().await;
    let user = b.user();
    let crown = json!({ "users": { user.as_str(): 100 } });
    let crown = event_of(&b, &a, &room, &user, Some(""), "m.room.power_levels", crown).await;
    assert!(!in_timeline(&a, &room, &crown).await);
    let before = a.view(&room).await.state_digest().await.unwrap();
    offer(&b, &a, &crown).await;

    // By way of its history …
    let after = vec![crown.event_id().to_owned()];
    let follower = referring(&b, &a, &room, after, None, crown.depth() + 1).await;
    offer(&b, &a, &follower).await;
    // … and by way of its authority.
    let view = a.view(&room).await;
    let mut auth = event(&b, &a, &room, json!({})).await.auth_events().to_vec();
    let levels = view
        .state("m.room.power_levels", "")
        .await
        .unwrap()
        .unwrap();
    auth.retain(|id| id != levels.event_id());
    auth.push(crown.event_id().to_owned());
    let ends = view.extremities().await.unwrap();
    let subject = referring(&b, &a, &room, ends, Some(auth), view.depth() + 1).await;
    offer(&b, &a, &subject).await;
    assert!(!in_timeline(&a, &room, &subject).await);

    let view = a.view(&room).await;
    assert_eq!(view.state_digest().await.unwrap(), before);
    let said = a.say(&room, "the room goes on").await;
    b.has(&room, &said).await;
}

/// Synapse 1.7.1, MSC4307: what authorises an event is of the same room.
#[tokio::test(flavor = "multi_thread")]
async fn s009_another_room_authorises_nothing() {
    let (_authority, a, b, room) = shared().await;
    let other = public_room(&b).await;
    join(&a, &other, &b).await;
    let foreign = b.view(&other).await.state("m.room.power_levels", "").await;
    let foreign = foreign.unwrap().unwrap();
    let view = a.view(&room).await;
    let mut auth = event(&b, &a, &room, json!({})).await.auth_events().to_vec();
    auth.push(foreign.event_id().to_owned());
    let ends = view.extremities().await.unwrap();
    let pdu = referring(&b, &a, &room, ends.clone(), Some(auth), view.depth() + 1).await;
    offer(&b, &a, &pdu).await;
    assert!(!in_timeline(&a, &room, &pdu).await);
    assert_eq!(a.view(&room).await.extremities().await.unwrap(), ends);
}

/// CVE-2025-30355: one event whose fields are anything at all is dropped alone, and the queue from us
/// goes on.
#[tokio::test(flavor = "multi_thread")]
async fn s014_no_field_of_an_event_stops_the_room() {
    let (_authority, a, b, room) = shared().await;
    let model = event(&b, &a, &room, json!({ "body": "model" })).await;
    let model: Value = serde_json::from_str(model.json()).unwrap();
    let odd = [
        json!(null),
        json!(-1),
        json!(9_007_199_254_740_991_u64),
        json!(""),
        json!("x".repeat(300)),
        json!([]),
        json!([[["$x", {}]]]),
        json!({ "a": { "b": [{}] } }),
        json!(true),
    ];
    let fields = model.as_object().unwrap().keys();
    let fields: Vec<String> = fields
        .cloned()
        .chain(["unsigned".into(), "redacts".into()])
        .collect();
    for field in &fields {
        let mut pdus = Vec::new();
        for value in &odd {
            let mut pdu = model.clone();
            pdu[field] = value.clone();
            pdus.push(raw(&pdu.to_string()));
        }
        let good = event(&b, &a, &room, json!({ "body": field })).await;
        pdus.push(raw(good.json()));
        send(&b, &a, field, pdus, vec![]).await.unwrap();
        assert!(in_timeline(&a, &room, &good).await, "{field}");
    }
    let said = a.say(&room, "and back").await;
    b.has(&room, &said).await;
}

/// CVE-2018-10657: the greatest depth there is makes nothing impossible.
#[tokio::test(flavor = "multi_thread")]
async fn s018_the_greatest_depth_leaves_the_room_usable() {
    let (_authority, a, b, room) = shared().await;
    let ends = a.view(&room).await.extremities().await.unwrap();
    let deepest = (1 << 53) - 1;
    let pdu = referring(&b, &a, &room, ends, None, deepest).await;
    assert!(offer(&b, &a, &pdu).await);
    for text in ["after", "that"] {
        let said = a.say(&room, text).await;
        b.has(&room, &said).await;
        assert!(a.view(&room).await.depth() <= deepest);
    }
}

/// Synapse 1.2.1: nobody is made a member, or removed as one, by a server that is not theirs.
#[tokio::test(flavor = "multi_thread")]
async fn s022_a_server_moves_only_its_own_users() {
    let (_authority, a, b, room) = shared().await;
    let view = a.view(&room).await;
    for (target, membership) in [
        (a.user(), "leave"),
        (a.user(), "join"),
        (UserId::parse("@other:a.test").unwrap(), "join"),
        (UserId::parse("@third:c.test").unwrap(), "join"),
    ] {
        let content = json!({ "membership": membership });
        let key = Some(target.as_str());
        // In its own user's name, and in that of who is moved.
        for sender in [b.user(), target.clone()] {
            let kind = "m.room.member";
            let pdu = event_of(&b, &a, &room, &sender, key, kind, content.clone()).await;
            offer(&b, &a, &pdu).await;
            assert!(!in_timeline(&a, &room, &pdu).await, "{target} {membership}");
        }
    }
    let after = a.view(&room).await;
    assert_eq!(
        after.state_digest().await.unwrap(),
        view.state_digest().await.unwrap()
    );
}

/// continuwuity 21ea9d3ea: references are bounded, and of this room.
#[tokio::test(flavor = "multi_thread")]
async fn s027_references_are_bounded_and_of_the_room() {
    let (_authority, a, b, room) = shared().await;
    let view = a.view(&room).await;
    let ends = view.extremities().await.unwrap();
    let depth = view.depth() + 1;
    let many = |n: usize| -> Vec<OwnedEventId> {
        (0..n)
            .map(|n| format!("${n:043}").try_into().unwrap())
            .collect()
    };
    let other = public_room(&b).await;
    let elsewhere = b.view(&other).await.extremities().await.unwrap();
    join(&a, &other, &b).await;
    for (what, prev, auth) in [
        ("no history", vec![], None),
        // More than these are no event at all: see `format` of resuni-dag.
        ("20 prev_events", [ends.clone(), many(19)].concat(), None),
        ("10 auth_events", ends.clone(), Some(many(10))),
        ("history of another room", elsewhere, None),
    ] {
        let pdu = referring(&b, &a, &room, prev, auth, depth).await;
        offer(&b, &a, &pdu).await;
        assert!(!in_timeline(&a, &room, &pdu).await, "{what}");
    }
    assert_eq!(a.view(&room).await.extremities().await.unwrap(), ends);
}

/// CVE-2018-12291: a server gets the history that its users may see.
#[tokio::test(flavor = "multi_thread")]
async fn s042_history_that_nobody_there_may_see_is_not_given() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    let visibility = json!({ "history_visibility": "joined" });
    let visibility = serde_json::value::to_raw_value(&visibility).unwrap();
    let kind = "m.room.history_visibility";
    let visibility = resuni_rooms::NewEvent::state(kind, "", visibility);
    let first = a
        .rooms
        .send(&room, &a.user(), visibility, None)
        .await
        .unwrap();
    a.say(&room, "not for b.test").await;
    join(&b, &room, &a).await;
    let last = a.say(&room, "for b.test").await;
    b.has(&room, &last).await;

    let client = &b.federation.network.client;
    let request = backfill::Request::new(room.clone(), vec![last.clone()], uint!(50));
    let given = client
        .send(&a.name, request, Terms::ASKED)
        .await
        .unwrap()
        .pdus;
    let request = missing_events::Request::new(room.clone(), vec![first], vec![last]);
    let between = client.send(&a.name, request, Terms::ASKED).await.unwrap();
    assert!(!given.is_empty() && !between.events.is_empty());
    for pdu in given.iter().chain(&between.events) {
        assert!(!pdu.get().contains("not for b.test"), "{pdu}");
    }
    assert!(given.iter().any(|pdu| pdu.get().contains("for b.test")) || !given.is_empty());
}

/// CVE-2024-52815: an invite with anything at all for the room's state does not break who is invited.
#[tokio::test(flavor = "multi_thread")]
async fn s116_junk_in_an_invite_is_dropped() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let request = CreateRoom {
        preset: Some(Preset::PrivateChat),
        room_version: Some("11".to_owned()),
        ..CreateRoom::default()
    };
    let room = b.rooms.create(&b.user(), request).await.unwrap();
    let (sender, target) = (b.user(), a.user());
    let content = json!({ "membership": "invite" });
    let key = Some(target.as_str());
    let pdu = event_of(&b, &b, &room, &sender, key, "m.room.member", content).await;
    let junk = [
        json!(null),
        json!(7),
        json!([]),
        json!({}),
        json!({ "type": 7, "sender": [], "state_key": {}, "content": "x" }),
        json!({ "type": "m.room.name", "sender": "nobody", "state_key": "", "content": { "name": [] } }),
        json!({ "type": "m.room.create", "sender": sender, "state_key": "", "content": 3 }),
    ];
    for n in 0..=junk.len() {
        let state = junk
            .iter()
            .cycle()
            .skip(n)
            .take(n)
            .cloned()
            .collect::<Vec<_>>();
        let body = json!({ "room_version": "11", "event": serde_json::from_str::<Value>(pdu.json()).unwrap(),
            "invite_room_state": state });
        let state = body["invite_room_state"].as_array().unwrap();
        let state = state
            .iter()
            .map(|event| serde_json::from_value(event.clone()));
        let Ok(state) = state.collect::<Result<Vec<_>, _>>() else {
            continue;
        };
        let request = invite::Request::new(
            room.clone(),
            pdu.event_id().to_owned(),
            RoomVersionId::V11,
            raw(pdu.json()),
            state,
        );
        let client = &b.federation.network.client;
        let _ = client.send(&a.name, request, Terms::ASKED).await;
    }
    let pending = a.rooms.rooms_of(&target, &[Membership::Invite]).await;
    assert!(pending.unwrap().len() <= 1);
    // Whatever was kept of it, the next invite arrives.
    let good = public_room(&b).await;
    let invites = &b.federation.invites;
    invites
        .send(&good, &sender, &target, serde_json::Map::new())
        .await
        .unwrap();
    let pending = a.rooms.rooms_of(&target, &[Membership::Invite]).await;
    assert!(!pending.unwrap().is_empty());
}

/// Synapse #5274: soft-failed events are no extremities, however many there are.
#[tokio::test(flavor = "multi_thread")]
async fn s129_a_flood_of_soft_failed_events_leaves_few_extremities() {
    let (_authority, a, b, room) = shared().await;
    let ends = a.view(&room).await.extremities().await.unwrap();
    let depth = a.view(&room).await.depth() + 1;
    let mut flood = Vec::new();
    for n in 0..40 {
        flood.push(referring(&b, &a, &room, ends.clone(), None, depth + n).await);
    }
    a.rooms
        .ban(&room, &a.user(), &b.user(), None, false)
        .await
        .unwrap();
    for pdu in &flood {
        offer(&b, &a, pdu).await;
        assert!(!in_timeline(&a, &room, pdu).await);
    }
    assert_eq!(a.view(&room).await.extremities().await.unwrap().len(), 1);
    assert_eq!(
        a.view(&room).await.member(&b.user()).await.unwrap(),
        Some(Membership::Ban)
    );
}

/// continuwuity 26.7.2: a room that all have left is not written to, and nobody is back in it.
#[tokio::test(flavor = "multi_thread")]
async fn s130_nothing_is_taken_in_for_a_room_that_all_have_left() {
    let (_authority, a, b, room) = shared().await;
    let back = json!({ "membership": "join" });
    let user = b.user();
    let key = Some(user.as_str());
    b.rooms.leave(&room, &user, None).await.unwrap();
    let left = b.view(&room).await.extremities().await.unwrap().remove(0);
    a.has(&room, &left).await;
    let message = event(&a, &a, &room, json!({ "body": "are you there?" })).await;
    offer(&a, &b, &message).await;
    assert!(!in_timeline(&b, &room, &message).await);
    let forced = event_of(&a, &a, &room, &user, key, "m.room.member", back).await;
    offer(&a, &b, &forced).await;
    let joined = b.rooms.rooms_of(&user, &[Membership::Join]).await;
    assert!(joined.unwrap().is_empty());
}

/// CVE-2026-45076: a page that is full of what nobody may see goes on.
#[tokio::test(flavor = "multi_thread")]
async fn s036_a_flood_of_refused_events_does_not_end_the_history() {
    let (_authority, a, b, room) = shared().await;
    let early = a.say(&room, "early").await;
    b.has(&room, &early).await;
    let user = b.user();
    for n in 0..30 {
        let crown = json!({ "users": { user.as_str(): 100 }, "n": n });
        let pdu = event_of(&b, &a, &room, &user, Some(""), "m.room.power_levels", crown).await;
        offer(&b, &a, &pdu).await;
    }
    a.say(&room, "late").await;
    let view = a.view(&room).await;
    let query = PageQuery {
        from: view.end(),
        to: None,
        dir: Direction::Backward,
        limit: 2,
        gaps: Gaps::Pass,
    };
    let page = view.page(query).await.unwrap();
    let found: Vec<_> = page.events.iter().map(|event| event.event_id()).collect();
    assert_eq!((found.len(), &found[1]), (2, &early));
}

/// CVE-2022-39335: who is not in the room is told nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn s041_a_server_that_is_not_in_the_room_gets_nothing() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    let said = a.say(&room, "among us").await;
    let client = &b.federation.network.client;
    let request = backfill::Request::new(room.clone(), vec![said.clone()], uint!(5));
    refusal(client.send(&a.name, request, Terms::ASKED).await);
    let request = missing_events::Request::new(room.clone(), vec![], vec![said]);
    refusal(client.send(&a.name, request, Terms::ASKED).await);
}
