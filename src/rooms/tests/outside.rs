//! Invites from outside, and what other servers may not hand us.

use resuni_dag::{Pdu, RoomRules, sign_object};

use super::{between::*, *};
use crate::tables::{Place, USER_ROOMS, UserRoom};

async fn membership(rooms: &Rooms, room: &OwnedRoomId, who: &str) -> Option<UserRoom> {
    let reader = rooms.reader();
    let num = reader.room_num(room).await.unwrap()?;
    let user = reader.user_num(&user(who)).await.unwrap()?;
    reader
        .snapshot
        .get(&USER_ROOMS, &(user, num))
        .await
        .unwrap()
}

fn rules() -> &'static RoomRules {
    RoomRules::of(&RoomVersionId::V12).unwrap()
}

/// What somebody on `there` could sign at the end of the room as it is on `resident`.
async fn signed(
    resident: &Rooms,
    there: &Rooms,
    room: &OwnedRoomId,
    sender: &str,
    event: NewEvent,
) -> Pdu {
    // What only Alice may say, somebody else signs.
    let may = match event.kind.as_str() {
        "m.room.member" => sender,
        _ => "@alice:here",
    };
    let (mut object, _) = resident.template(room, &user(may), event).await.unwrap();
    object.insert("sender".into(), sender.to_owned().into());
    sign_object(object, rules(), there.server_name(), &there.config.key).unwrap()
}

#[tokio::test]
async fn an_invite_from_outside_ends_with_the_join_or_without() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    let alice = user("@alice:here");
    let (bob, version) = (user("@bob:there"), RoomVersionId::V12);
    for ending in ["declined", "accepted"] {
        let invite = here
            .send(&room, &alice, member("@bob:there", "invite"), None)
            .await
            .unwrap();
        let invite = OutOfBand {
            user: &bob,
            room: &room,
            version: &version,
            stripped: Some("[]".to_owned()),
            event: pdu(&here, &invite).await,
        };
        let event = invite.event.event_id().to_owned();
        there.record_invite(invite).await.unwrap();
        let row = membership(&there, &room, "@bob:there").await.unwrap();
        assert_eq!(
            (row.membership, row.stripped.is_some()),
            (Membership::Invite, true),
            "{ending}"
        );
        assert_eq!(place(&there, &event).await, Place::Unchecked);
        assert_healthy(&there).await;
        if ending == "declined" {
            let leave = signed(
                &here,
                &there,
                &room,
                "@bob:there",
                member("@bob:there", "leave"),
            )
            .await;
            here.receive(&room, leave.clone()).await.unwrap();
            let leave = OutOfBand {
                user: &bob,
                room: &room,
                version: &version,
                stripped: None,
                event: leave,
            };
            there.record_remote_leave(leave).await.unwrap();
            let row = membership(&there, &room, "@bob:there").await.unwrap();
            assert_eq!(row.membership, Membership::Leave);
        } else {
            join(&here, &there, &room, "@bob:there").await;
            let row = membership(&there, &room, "@bob:there").await.unwrap();
            assert_eq!((row.membership, row.stripped), (Membership::Join, None));
            // The invite was only known; now it is authorised too.
            assert_eq!(place(&there, &event).await, Place::Outlier);
        }
        assert_healthy(&there).await;
    }
}

/// What was taken unchecked is no part of a state as long as nobody can say that it is allowed.
#[tokio::test]
async fn an_invite_that_nothing_authorises_stays_out_of_the_state() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    let alice = user("@alice:here");
    // The invite hangs on this event, which is then left out.
    let renamed = raw(json!({ "membership": "join", "displayname": "Alice" }));
    let renamed = NewEvent::state("m.room.member", "@alice:here", renamed);
    let renamed = here.send(&room, &alice, renamed, None).await.unwrap();
    let invite = member("@carol:there", "invite");
    let invite = here.send(&room, &alice, invite, None).await.unwrap();
    let version = RoomVersionId::V12;
    let taken = OutOfBand {
        user: &user("@carol:there"),
        room: &room,
        version: &version,
        stripped: Some("[]".to_owned()),
        event: pdu(&here, &invite).await,
    };
    there.record_invite(taken).await.unwrap();

    let joining = signed(
        &here,
        &there,
        &room,
        "@bob:there",
        member("@bob:there", "join"),
    );
    let joining = joining.await;
    let (mut state, mut chain) = state_and_chain(&here, &room).await;
    for events in [&mut state, &mut chain] {
        events.retain(|pdu| *pdu.event_id() != *renamed);
    }
    there
        .adopt(joining, &version, state, chain, None)
        .await
        .unwrap();
    assert_eq!(place(&there, &invite).await, Place::Unchecked);
    let view = there.view(&room).await.unwrap().unwrap();
    let carol = view.state("m.room.member", "@carol:there").await.unwrap();
    assert!(carol.is_none(), "{carol:?}");
}

#[tokio::test]
async fn an_invite_must_be_one_for_that_user_and_room() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    let invite = here
        .send(
            &room,
            &user("@alice:here"),
            member("@bob:there", "invite"),
            None,
        )
        .await
        .unwrap();
    let event = pdu(&here, &invite).await;
    let version = RoomVersionId::V12;
    let (bob, carol) = (user("@bob:there"), user("@carol:there"));
    let elsewhere = OwnedRoomId::try_from("!elsewhere:here").unwrap();
    for (user, room) in [(&carol, &room), (&bob, &elsewhere)] {
        let stripped = Some("[]".to_owned());
        let invite = OutOfBand {
            user,
            room,
            version: &version,
            stripped,
            event: event.clone(),
        };
        there.record_invite(invite).await.unwrap_err();
    }
    assert_eq!(there.reader().event_num(&invite).await.unwrap(), None);
}

#[tokio::test]
async fn a_state_that_is_handed_over_is_checked() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    let version = RoomVersionId::V12;
    let (state, chain) = state_and_chain(&here, &room).await;
    // Mallory, who is not in the room, claims to have named it.
    let forged = signed(
        &here,
        &there,
        &room,
        "@mallory:there",
        super::state("m.room.name", json!({"name": "mine"})),
    )
    .await;
    let joining = signed(
        &here,
        &there,
        &room,
        "@bob:there",
        member("@bob:there", "join"),
    )
    .await;

    let without_create: Vec<Pdu> = state
        .iter()
        .filter(|pdu| pdu.kind() != "m.room.create")
        .cloned()
        .collect();
    there
        .adopt(joining.clone(), &version, without_create, vec![], None)
        .await
        .unwrap_err();
    let reader = there.reader();
    if let Some(num) = reader.room_num(&room).await.unwrap() {
        assert_eq!(reader.head(num).await.unwrap(), None);
    }

    let with_forged = state.iter().chain([&forged]).cloned().collect();
    there
        .adopt(joining, &version, with_forged, chain, None)
        .await
        .unwrap();
    assert_eq!(
        place(&there, &forged.event_id().to_owned()).await,
        Place::Rejected
    );
    let snap = head(&there, &room).await.snap;
    assert_eq!(
        there
            .reader()
            .state_event(snap, "m.room.name", "")
            .await
            .unwrap(),
        None
    );
    assert_healthy(&there).await;
}

#[tokio::test]
async fn outliers_without_their_auth_chain_are_not_kept() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    join(&here, &there, &room, "@bob:there").await;
    let carol = here
        .send(
            &room,
            &user("@carol:here"),
            member("@carol:here", "join"),
            None,
        )
        .await
        .unwrap();
    let name = super::state(
        "m.room.power_levels",
        json!({"users": {"@carol:here": 100}}),
    );
    here.send(&room, &user("@alice:here"), name, None)
        .await
        .unwrap();
    let topic = super::state("m.room.topic", json!({"topic": "carol's"}));
    let topic = here
        .send(&room, &user("@carol:here"), topic, None)
        .await
        .unwrap();
    let topic = pdu(&here, &topic).await;
    let kept = there
        .receive_outliers(&room, vec![topic.clone()])
        .await
        .unwrap();
    assert_eq!((kept.stored, kept.missing.len()), (0, 2));
    assert!(kept.missing.contains(&carol));
    let (state, chain) = state_and_chain(&here, &room).await;
    let kept = there
        .receive_outliers(&room, state.into_iter().chain(chain).collect())
        .await
        .unwrap();
    assert_eq!(
        (kept.stored, kept.rejected.len(), kept.missing.len()),
        (3, 0, 0)
    );
    assert_eq!(
        place(&there, &topic.event_id().to_owned()).await,
        Place::Outlier
    );
    assert_healthy(&there).await;
}

#[tokio::test]
async fn state_from_before_our_join_is_redacted_too() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    let alice = user("@alice:here");
    let name = super::state("m.room.name", json!({"name": "a bad word"}));
    let name = here.send(&room, &alice, name, None).await.unwrap();
    join(&here, &there, &room, "@bob:there").await;
    assert_eq!(place(&there, &name).await, Place::Outlier);
    let redaction = NewEvent {
        redacts: Some(name.clone()),
        ..NewEvent::message("m.room.redaction", raw(json!({})))
    };
    let redaction = here.send(&room, &alice, redaction, None).await.unwrap();
    there
        .receive(&room, pdu(&here, &redaction).await)
        .await
        .unwrap();
    let view = there.view(&room).await.unwrap().unwrap();
    let num = there.reader().event_num(&name).await.unwrap().unwrap();
    let shown = view.shown(&[num]).await.unwrap().remove(0);
    assert_eq!(shown.pdu.content().get(), "{}");
    assert_eq!(shown.redacted_because.unwrap().event_id(), &*redaction);
    assert_healthy(&there).await;
}
