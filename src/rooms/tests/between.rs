//! Servers that talk to each other, without the network between.

use resuni_dag::{Pdu, sign_object};
use ruma::EventId;

use super::*;
use crate::{line::Line, tables::Place};

/// The events of a room's state before an event, and their auth chains.
pub(crate) async fn state_and_chain(rooms: &Rooms, room: &OwnedRoomId) -> (Vec<Pdu>, Vec<Pdu>) {
    let reader = rooms.reader();
    let snap = head(rooms, room).await.snap;
    let mut nums: Vec<EventNum> = Vec::new();
    for (_, event) in reader.state_entries(snap).await.unwrap() {
        nums.push(event);
    }
    let mut state = Vec::new();
    for num in &nums {
        state.push(reader.pdu(*num).await.unwrap());
    }
    let mut chain = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(num) = nums.pop() {
        for auth in &reader.edges(num).await.unwrap().auth {
            if seen.insert(*auth) {
                chain.push(reader.pdu(*auth).await.unwrap());
                nums.push(*auth);
            }
        }
    }
    (state, chain)
}

pub(crate) async fn pdu(rooms: &Rooms, id: &EventId) -> Pdu {
    let reader = rooms.reader();
    reader
        .pdu(reader.event_num(id).await.unwrap().unwrap())
        .await
        .unwrap()
}

/// `make_join`, `send_join`.
pub(crate) async fn join(resident: &Rooms, joining: &Rooms, room: &OwnedRoomId, who: &str) -> Pdu {
    let (template, version) = resident
        .template(room, &user(who), member(who, "join"))
        .await
        .unwrap();
    let rules = resuni_dag::RoomRules::of(&version).unwrap();
    let join = sign_object(template, rules, joining.server_name(), &joining.config.key).unwrap();
    let (state, chain) = state_and_chain(resident, room).await;
    let received = resident.receive(room, join.clone()).await.unwrap();
    assert!(
        matches!(received, Received::Accepted { .. }),
        "{received:?}"
    );
    joining
        .adopt(join.clone(), &version, state, chain, None)
        .await
        .unwrap();
    join
}

pub(crate) async fn digest(rooms: &Rooms, room: &OwnedRoomId) -> [u8; 32] {
    rooms
        .reader()
        .snap(head(rooms, room).await.snap)
        .await
        .unwrap()
        .digest
}

#[tokio::test]
async fn a_join_over_another_server_brings_the_state_along() {
    for rules in resuni_dag::RoomRules::all() {
        let version = rules.version.clone();
        let (here, there) = (server("here").await, server("there").await);
        let room = room(&here, version, "@alice:here").await;
        here.send(&room, &user("@alice:here"), message("before"), None)
            .await
            .unwrap();
        let join = join(&here, &there, &room, "@bob:there").await;
        assert_eq!(digest(&here, &room).await, digest(&there, &room).await);
        let ours = head(&there, &room).await;
        assert_eq!((ours.joined, ours.extremities.len()), (2, 1));
        assert!(matches!(
            place(&there, &join.event_id().to_owned()).await,
            Place::Timeline { .. }
        ));

        let hello = there
            .send(&room, &user("@bob:there"), message("hello"), None)
            .await
            .unwrap();
        let hello = pdu(&there, &hello).await;
        let received = here.receive(&room, hello.clone()).await.unwrap();
        assert!(
            matches!(received, Received::Accepted { .. }),
            "{received:?}"
        );
        assert_eq!(here.receive(&room, hello).await.unwrap(), Received::Known);
    }
}

#[tokio::test]
async fn an_event_with_unknown_ancestors_waits_for_them() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    join(&here, &there, &room, "@bob:there").await;
    let alice = user("@alice:here");
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(
            here.send(&room, &alice, message(&n.to_string()), None)
                .await
                .unwrap(),
        );
    }
    let last = pdu(&here, &ids[2]).await;
    let missing = there.receive(&room, last.clone()).await.unwrap();
    assert_eq!(
        missing,
        Received::Missing {
            prev: vec![ids[1].clone()],
            auth: vec![]
        }
    );
    for id in &ids[..2] {
        there.receive(&room, pdu(&here, id).await).await.unwrap();
    }
    assert!(matches!(
        there.receive(&room, last).await.unwrap(),
        Received::Accepted { .. }
    ));
    assert_eq!(head(&there, &room).await.extremities.len(), 1);
    assert_healthy(&here).await;
    assert_healthy(&there).await;
}

#[tokio::test]
async fn a_gap_is_jumped_with_the_state_and_filled_later() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    join(&here, &there, &room, "@bob:there").await;
    let alice = user("@alice:here");
    let lost = state("m.room.topic", json!({"topic": "while you were away"}));
    let mut ids = vec![here.send(&room, &alice, lost, None).await.unwrap()];
    for n in 0..4 {
        ids.push(
            here.send(&room, &alice, message(&n.to_string()), None)
                .await
                .unwrap(),
        );
    }
    let last = pdu(&here, &ids[4]).await;
    let (state, chain) = state_and_chain(&here, &room).await;
    let state_ids: Vec<_> = state.iter().map(|pdu| pdu.event_id().to_owned()).collect();
    let topic = state
        .iter()
        .find(|pdu| pdu.kind() == "m.room.topic")
        .unwrap()
        .event_id()
        .to_owned();
    // The state is asked for before it is there.
    let refused = there
        .receive_at_gap(&room, last.clone(), state_ids.clone())
        .await
        .unwrap();
    assert_eq!(
        refused,
        Received::Missing {
            prev: vec![ids[3].clone()],
            auth: vec![topic]
        }
    );
    let kept = there
        .receive_outliers(&room, state.into_iter().chain(chain).collect())
        .await
        .unwrap();
    assert_eq!(
        (kept.stored, kept.rejected.len(), kept.missing.len()),
        (1, 0, 0)
    );
    let jumped = there
        .receive_at_gap(&room, last, state_ids.clone())
        .await
        .unwrap();
    let Received::Accepted { position } = jumped else {
        panic!("{jumped:?}")
    };
    assert_eq!(digest(&here, &room).await, digest(&there, &room).await);

    // First only the newest half of what is missing: its oldest event needs a state.
    let newest = vec![pdu(&here, &ids[3]).await, pdu(&here, &ids[2]).await];
    let done = there
        .backfill(&room, &ids[4], newest.clone(), Default::default())
        .await
        .unwrap();
    assert_eq!((done.laid, done.need_state), (0, vec![ids[2].clone()]));
    let states = std::collections::HashMap::from([(ids[2].clone(), state_ids)]);
    assert_eq!(
        there
            .backfill(&room, &ids[4], newest, states)
            .await
            .unwrap()
            .laid,
        2
    );
    let oldest = vec![pdu(&here, &ids[1]).await, pdu(&here, &ids[0]).await];
    assert_eq!(
        there
            .backfill(&room, &ids[2], oldest, Default::default())
            .await
            .unwrap()
            .laid,
        2
    );
    for (i, id) in ids.iter().enumerate() {
        let sub = u32::MAX - 4 + u32::try_from(i).unwrap();
        assert_eq!(
            place(&there, id).await,
            Place::Timeline { position, sub },
            "event {i}"
        );
    }
    let reader = there.reader();
    let num = reader.room_num(&room).await.unwrap().unwrap();
    for id in &ids {
        let missing = (num, EventHash::of(id));
        assert_eq!(
            reader
                .snapshot
                .get(&tables::MISSING, &missing)
                .await
                .unwrap(),
            None
        );
    }
    assert_healthy(&here).await;
    assert_healthy(&there).await;
}

#[tokio::test]
async fn who_was_banned_meanwhile_is_soft_failed_and_who_never_was_in_is_rejected() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    join(&here, &there, &room, "@bob:there").await;
    let late = there
        .send(&room, &user("@bob:there"), message("late"), None)
        .await
        .unwrap();
    here.send(
        &room,
        &user("@alice:here"),
        member("@bob:there", "ban"),
        None,
    )
    .await
    .unwrap();
    let before = head(&here, &room).await;
    assert_eq!(
        here.receive(&room, pdu(&there, &late).await).await.unwrap(),
        Received::SoftFailed
    );
    assert_eq!(place(&here, &late).await, Place::SoftFailed);
    assert_eq!(head(&here, &room).await, before);

    // With a message of one who is not in the room, by the auth events of another.
    let rules = resuni_dag::RoomRules::of(&RoomVersionId::V12).unwrap();
    let (mut event, _) = here
        .template(&room, &user("@alice:here"), message("x"))
        .await
        .unwrap();
    event.insert("sender".into(), "@mallory:there".to_owned().into());
    let forged = sign_object(event, rules, there.server_name(), &there.config.key).unwrap();
    let received = here.receive(&room, forged.clone()).await.unwrap();
    assert!(
        matches!(received, Received::Rejected { .. }),
        "{received:?}"
    );
    assert_eq!(
        place(&here, &forged.event_id().to_owned()).await,
        Place::Rejected
    );
    assert_eq!(head(&here, &room).await, before);
    assert_healthy(&here).await;
    assert_healthy(&there).await;
}

#[tokio::test]
async fn a_room_that_we_left_goes_on_without_us_until_we_come_back() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    join(&here, &there, &room, "@bob:there").await;
    let bye = there
        .send(
            &room,
            &user("@bob:there"),
            member("@bob:there", "leave"),
            None,
        )
        .await
        .unwrap();
    here.receive(&room, pdu(&there, &bye).await).await.unwrap();
    let unheard = here
        .send(&room, &user("@alice:here"), message("unheard"), None)
        .await
        .unwrap();
    assert_eq!(
        there
            .receive(&room, pdu(&here, &unheard).await)
            .await
            .unwrap(),
        Received::Known
    );
    assert_eq!(there.reader().event_num(&unheard).await.unwrap(), None);
    join(&here, &there, &room, "@bob:there").await;
    assert_eq!(digest(&here, &room).await, digest(&there, &room).await);
    assert_eq!(head(&there, &room).await.extremities.len(), 1);
    assert_healthy(&here).await;
    assert_healthy(&there).await;
}

#[tokio::test]
async fn a_redaction_takes_effect_if_it_may_whichever_comes_first() {
    let (here, there) = (server("here").await, server("there").await);
    for version in [
        RoomVersionId::V1,
        RoomVersionId::V3,
        RoomVersionId::V10,
        RoomVersionId::V11,
    ] {
        let room = {
            let me = user("@alice:here");
            let id = OwnedRoomId::try_from(format!("!{version}:here")).unwrap();
            let create = state(
                "m.room.create",
                json!({"room_version": version.as_str(), "creator": "@alice:here"}),
            );
            let rest = vec![
                (me.clone(), member("@alice:here", "join")),
                (
                    me.clone(),
                    state("m.room.join_rules", json!({"join_rule": "public"})),
                ),
            ];
            here.found(&version, Some(id), &me, create, rest)
                .await
                .unwrap()
        };
        join(&here, &there, &room, "@bob:there").await;
        let (alice, bob) = (user("@alice:here"), user("@bob:there"));
        let said = here
            .send(&room, &alice, message("oops"), None)
            .await
            .unwrap();
        there.receive(&room, pdu(&here, &said).await).await.unwrap();
        let redacts = |id: &OwnedEventId| NewEvent {
            redacts: Some(id.clone()),
            ..NewEvent::message("m.room.redaction", raw(json!({"reason": "spam"})))
        };
        // Our own users are told that they may not.
        let refused = there.send(&room, &bob, redacts(&said), None).await;
        assert!(
            matches!(refused, Err(RoomError::Forbidden(_))),
            "v{version}: {refused:?}"
        );
        // Another server may send Bob's redaction, and it does nothing to Alice's message; up to version 2 it may not.
        match say(&there, &room, &bob, redacts(&said)).await {
            Ok(powerless) => {
                let powerless = pdu(&there, &powerless).await;
                here.receive(&room, powerless).await.unwrap();
            }
            Err(error) => assert!(version == RoomVersionId::V1, "v{version}: {error}"),
        }
        assert_eq!(redacted(&here, &said).await, None);
        let own = here
            .send(&room, &alice, redacts(&said), None)
            .await
            .unwrap();
        assert_eq!(redacted(&here, &said).await.as_ref(), Some(&own));
    }
    assert_healthy(&here).await;
    assert_healthy(&there).await;
}

/// Sends an event that the auth rules allow, whatever we ask of our own users.
async fn say(
    rooms: &Rooms,
    room: &OwnedRoomId,
    sender: &UserId,
    event: NewEvent,
) -> Result<OwnedEventId, RoomError> {
    let mut lane = rooms.lanes.enter(room).await;
    let mut line = Line::open(rooms, &mut lane, room).await?.unwrap();
    let id = line.say(sender, event, None).await?;
    line.finish(lane).await?.durable().await?;
    Ok(id)
}

#[tokio::test]
async fn users_of_one_server_do_not_redact_each_other() {
    let here = server("here").await;
    for version in [RoomVersionId::V1, RoomVersionId::V10, RoomVersionId::V12] {
        let (alice, bob) = (user("@alice:here"), user("@bob:here"));
        let content = if version == RoomVersionId::V12 {
            json!({"room_version": "12"})
        } else {
            json!({"room_version": version.as_str(), "creator": "@alice:here"})
        };
        let create = state("m.room.create", content);
        let id = (version != RoomVersionId::V12)
            .then(|| OwnedRoomId::try_from(format!("!{version}:here")).unwrap());
        let rest = vec![
            (alice.clone(), member("@alice:here", "join")),
            (
                alice.clone(),
                state("m.room.join_rules", json!({"join_rule": "public"})),
            ),
            (bob.clone(), member("@bob:here", "join")),
        ];
        let room = here
            .found(&version, id, &alice, create, rest)
            .await
            .unwrap();
        let said = here
            .send(&room, &alice, message("mine"), None)
            .await
            .unwrap();
        let redacts = || NewEvent {
            redacts: Some(said.clone()),
            ..NewEvent::message("m.room.redaction", raw(json!({})))
        };
        let refused = here.send(&room, &bob, redacts(), None).await;
        assert!(
            matches!(refused, Err(RoomError::Forbidden(_))),
            "v{version}: {refused:?}"
        );
        assert_eq!(redacted(&here, &said).await, None);
        let bobs = here.send(&room, &bob, message("his"), None).await.unwrap();
        let by = |who: &OwnedUserId, what: &OwnedEventId| {
            let event = NewEvent {
                redacts: Some(what.clone()),
                ..NewEvent::message("m.room.redaction", raw(json!({})))
            };
            let (here, room, who) = (here.clone(), room.clone(), who.clone());
            async move { here.send(&room, &who, event, None).await }
        };
        let own = by(&bob, &bobs).await.unwrap();
        assert_eq!(redacted(&here, &bobs).await, Some(own));
        let later = here
            .send(&room, &bob, message("his, too"), None)
            .await
            .unwrap();
        let moderated = by(&alice, &later).await.unwrap();
        assert_eq!(redacted(&here, &later).await, Some(moderated));
        let nowhere = OwnedEventId::try_from("$nowhere:here").unwrap();
        let unknown = by(&bob, &nowhere).await;
        assert!(
            matches!(unknown, Err(RoomError::NotFound(_))),
            "v{version}: {unknown:?}"
        );
    }
    assert_healthy(&here).await;
}

#[tokio::test]
async fn nobody_shuts_their_own_server_out() {
    let here = server("here").await;
    let alice = user("@alice:here");
    let create = state("m.room.create", json!({"room_version": "12"}));
    let rest = vec![(alice.clone(), member("@alice:here", "join"))];
    let room = here
        .found(&RoomVersionId::V12, None, &alice, create, rest)
        .await
        .unwrap();
    for (content, allowed) in [
        (json!({"allow": ["elsewhere"]}), false),
        (json!({"allow": ["*"], "deny": ["h?re"]}), false),
        (json!({"allow": ["*"], "deny": ["elsewhere"]}), true),
    ] {
        let done = here
            .send(&room, &alice, state("m.room.server_acl", content), None)
            .await;
        assert_eq!(done.is_ok(), allowed, "{done:?}");
    }
}

async fn redacted(rooms: &Rooms, id: &OwnedEventId) -> Option<OwnedEventId> {
    let reader = rooms.reader();
    let row = reader
        .event_row(reader.event_num(id).await.unwrap().unwrap())
        .await
        .unwrap();
    let Place::Timeline { position, sub } = row.place else {
        panic!("{:?}", row.place)
    };
    let by = reader
        .snapshot
        .get(&tables::REDACTIONS, &(row.room, position, sub))
        .await
        .unwrap()?;
    Some(reader.event_id(by).await.unwrap())
}

#[tokio::test]
async fn the_doctor_finds_what_is_wrong() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    join(&here, &there, &room, "@bob:there").await;
    assert_healthy(&here).await;
    assert_healthy(&there).await;
    let num = here.reader().room_num(&room).await.unwrap().unwrap();
    let alice = here
        .reader()
        .user_num(&user("@alice:here"))
        .await
        .unwrap()
        .unwrap();
    let broken = head(&here, &room).await;
    let mut batch = resuni_store::Batch::new();
    batch.delete(&tables::LOCAL_MEMBERS, &(num, alice));
    batch.put(
        &tables::HEAD,
        &num,
        &tables::Head {
            joined: 7,
            ..broken.clone()
        },
    );
    batch.delete(&tables::EVENTS, &broken.extremities[0]);
    here.store().commit_durable(batch).await.unwrap();
    let found = doctor::check(here.store(), here.server_name())
        .await
        .unwrap();
    for what in [
        "the local members of the room",
        "counts 7 joined",
        "is not in its timeline",
        "which is another or none",
    ] {
        assert!(
            found.iter().any(|sentence| sentence.contains(what)),
            "{what}: {found:#?}"
        );
    }
}

#[tokio::test]
async fn loose_ends_are_tied() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    join(&here, &there, &room, "@bob:there").await;
    let rules = resuni_dag::RoomRules::of(&RoomVersionId::V12).unwrap();
    // Thirty events that know nothing of each other.
    let mut forks = Vec::new();
    for n in 0..30 {
        let (event, _) = there
            .template(&room, &user("@bob:there"), message(&n.to_string()))
            .await
            .unwrap();
        forks.push(sign_object(event, rules, there.server_name(), &there.config.key).unwrap());
    }
    for fork in forks {
        let received = here.receive(&room, fork).await.unwrap();
        assert!(
            matches!(received, Received::Accepted { .. }),
            "{received:?}"
        );
        assert!(head(&here, &room).await.extremities.len() <= 20);
    }
    // And where there are only two of them, when it is asked for. Nobody reads what ties them.
    here.end_fork(&room).await.unwrap();
    assert_eq!(head(&here, &room).await.extremities.len(), 1);
    let view = here.view_known(&room).await.unwrap();
    let tie = view.extremities().await.unwrap().remove(0);
    assert!(view.event(&tie).await.unwrap().is_some());
    let mut viewer = view.viewer(&user("@alice:here")).await.unwrap();
    assert!(viewer.event(&tie).await.unwrap().is_none());
    assert_healthy(&here).await;
}

#[tokio::test]
async fn an_event_that_follows_one_of_another_room_is_refused() {
    let (here, there) = (server("here").await, server("there").await);
    let first = room(&here, RoomVersionId::V12, "@alice:here").await;
    let second = room(&here, RoomVersionId::V12, "@carol:here").await;
    join(&here, &there, &first, "@bob:there").await;
    let foreign = here
        .send(&second, &user("@carol:here"), message("elsewhere"), None)
        .await
        .unwrap();
    let (mut event, _) = there
        .template(&first, &user("@bob:there"), message("x"))
        .await
        .unwrap();
    event.insert(
        "prev_events".into(),
        vec![ruma::CanonicalJsonValue::from(foreign.to_string())].into(),
    );
    let rules = resuni_dag::RoomRules::of(&RoomVersionId::V12).unwrap();
    let event = sign_object(event, rules, there.server_name(), &there.config.key).unwrap();
    let refused = here.receive(&first, event).await;
    assert!(
        matches!(refused, Err(RoomError::BadRequest { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_redaction_that_comes_before_its_target_waits_for_it() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    join(&here, &there, &room, "@bob:there").await;
    let alice = user("@alice:here");
    let said = here
        .send(&room, &alice, message("oops"), None)
        .await
        .unwrap();
    let redaction = NewEvent {
        redacts: Some(said.clone()),
        ..NewEvent::message("m.room.redaction", raw(json!({})))
    };
    let redaction = here.send(&room, &alice, redaction, None).await.unwrap();
    let (state, _) = state_and_chain(&here, &room).await;
    let state = state.iter().map(|pdu| pdu.event_id().to_owned()).collect();
    let jumped = there
        .receive_at_gap(&room, pdu(&here, &redaction).await, state)
        .await
        .unwrap();
    assert!(matches!(jumped, Received::Accepted { .. }), "{jumped:?}");
    let target = vec![pdu(&here, &said).await];
    there
        .backfill(&room, &redaction, target, Default::default())
        .await
        .unwrap();
    assert_eq!(redacted(&there, &said).await, Some(redaction));
    assert_healthy(&there).await;
}
