//! Joins with a partial state (MSC3706, MSC3902).

use resuni_dag::{Draft, Pdu, sign, sign_object};
use ruma::ServerName;

use super::{
    between::{digest, pdu, state_and_chain},
    *,
};
use crate::tables::Place;

/// A join that was answered without members, and what the whole answer would have been.
struct Joined {
    join: Pdu,
    whole: Vec<Pdu>,
}

impl Joined {
    fn ids(&self) -> Vec<OwnedEventId> {
        self.whole
            .iter()
            .map(|pdu| pdu.event_id().to_owned())
            .collect()
    }

    /// The background fetch ends.
    async fn finish(&self, joining: &Rooms, room: &OwnedRoomId) {
        let missing = joining.resync(room).await.unwrap().unwrap();
        assert_eq!(missing.wanted.len(), 1);
        assert_eq!(missing.wanted[0].0, self.join.event_id());
        assert!(
            !joining.complete(room).await.unwrap(),
            "nothing has come yet"
        );
        joining
            .receive_outliers(room, self.whole.clone())
            .await
            .unwrap();
        joining
            .give_state(room, self.join.event_id(), vec![self.ids()])
            .await
            .unwrap();
        assert!(joining.complete(room).await.unwrap());
        assert!(joining.resync(room).await.unwrap().is_none());
    }
}

/// `make_join`, and `send_join` with `omit_members`.
async fn join(resident: &Rooms, joining: &Rooms, room: &OwnedRoomId, who: &str) -> Joined {
    let (template, version) = resident
        .template(room, &user(who), member(who, "join"))
        .await
        .unwrap();
    let rules = resuni_dag::RoomRules::of(&version).unwrap();
    let join = sign_object(template, rules, joining.server_name(), &joining.config.key).unwrap();
    let (whole, mut chain) = state_and_chain(resident, room).await;
    let received = resident.receive(room, join.clone()).await.unwrap();
    assert!(
        matches!(received, Received::Accepted { .. }),
        "{received:?}"
    );
    let kept: Vec<Pdu> = whole
        .iter()
        .filter(|pdu| pdu.kind() != "m.room.member")
        .cloned()
        .collect();
    // What authorises the join is in the chain where it is left out of the state: an invite, for one.
    for id in join.auth_events() {
        if !kept.iter().chain(&chain).any(|pdu| pdu.event_id() == id) {
            chain.push(pdu(resident, id).await);
        }
    }
    let omitted = Omitted {
        resident: resident.server_name().to_owned(),
        servers: vec![resident.server_name().to_owned()],
    };
    joining
        .adopt(join.clone(), &version, kept, chain, Some(omitted))
        .await
        .unwrap();
    Joined { join, whole }
}

/// An event of another server, with the events that it needs to be authorised.
async fn deliver(from: &Rooms, to: &Rooms, room: &OwnedRoomId, event: &Pdu) -> Received {
    let received = to.receive(room, event.clone()).await.unwrap();
    let Received::Missing { auth, .. } = received else {
        return received;
    };
    let mut events = Vec::new();
    for id in auth {
        events.push(pdu(from, &id).await);
    }
    to.receive_outliers(room, events).await.unwrap();
    to.receive(room, event.clone()).await.unwrap()
}

/// An event that follows the newest one of `after` and names whatever it likes to be authorised by.
async fn forged(
    by: &Rooms,
    room: &OwnedRoomId,
    (sender, event): (&str, NewEvent),
    prev: &[&Pdu],
    auth: &[&Pdu],
) -> Pdu {
    let view = by.view_known(room).await.unwrap();
    let draft = Draft {
        room_id: Some(room.clone()),
        sender: user(sender),
        kind: event.kind,
        state_key: event.state_key,
        content: event.content,
        redacts: None,
        prev_events: prev
            .iter()
            .map(|pdu| pdu.event_id().to_owned().into())
            .collect(),
        auth_events: auth
            .iter()
            .map(|pdu| pdu.event_id().to_owned().into())
            .collect(),
        depth: prev.iter().map(|pdu| pdu.depth()).max().unwrap_or(0) + 1,
        origin_server_ts: by.now_ms(),
        sticky_ms: None,
    };
    sign(draft, view.rules(), by.server_name(), &by.config.key).unwrap()
}

async fn shown(rooms: &Rooms, event: &Pdu) -> bool {
    matches!(
        place(rooms, &event.event_id().to_owned()).await,
        Place::Timeline { .. }
    )
}

#[tokio::test]
async fn people_read_and_write_while_the_members_arrive() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V11, "@alice:here").await;
    let carol = user("@carol:here");
    here.send(&room, &carol, member("@carol:here", "join"), None)
        .await
        .unwrap();
    let joined = join(&here, &there, &room, "@bob:there").await;
    let view = there.view_known(&room).await.unwrap();
    assert!(view.is_partial());
    assert_eq!(view.state_digest().await.unwrap(), None);
    assert_eq!(view.member(&carol).await.unwrap(), None);
    assert!(view.may_be_joined(&carol).await.unwrap());
    assert!(
        view.has_server(ServerName::parse("here").unwrap().as_ref())
            .await
            .unwrap()
    );
    assert_healthy(&there).await;

    // Ours is taken by the others, and theirs by us: with it we learn of carol.
    let hello = there
        .send(&room, &user("@bob:there"), message("hello"), None)
        .await
        .unwrap();
    let received = here
        .receive(&room, pdu(&there, &hello).await)
        .await
        .unwrap();
    assert!(
        matches!(received, Received::Accepted { .. }),
        "{received:?}"
    );
    let answer = here
        .send(&room, &carol, message("welcome"), None)
        .await
        .unwrap();
    let answer = pdu(&here, &answer).await;
    let received = deliver(&here, &there, &room, &answer).await;
    assert!(
        matches!(received, Received::Accepted { .. }),
        "{received:?}"
    );
    let view = there.view_known(&room).await.unwrap();
    assert!(view.joined(&carol).await.unwrap() && view.is_partial());
    assert_healthy(&there).await;

    // A second server process finds what is missing.
    let there = server_on("there", there.store().clone()).await;
    assert_eq!(there.partial_rooms().await.unwrap(), vec![room.clone()]);
    let waiting = {
        let (there, room) = (there.clone(), room.clone());
        tokio::spawn(async move { there.whole(&room).await.unwrap().joined_count() })
    };
    joined.finish(&there, &room).await;
    assert_eq!(waiting.await.unwrap(), 3);
    assert_eq!(digest(&here, &room).await, digest(&there, &room).await);
    let view = there.view_known(&room).await.unwrap();
    assert!(!view.is_partial() && view.state_digest().await.unwrap().is_some());
    let (_, row) = view.event_row(answer.event_id()).await.unwrap().unwrap();
    assert!(
        !view
            .state_at_snap(row.snap_before)
            .is_partial()
            .await
            .unwrap()
    );
    assert!(there.partial_rooms().await.unwrap().is_empty());
    assert_healthy(&there).await;
}

#[tokio::test]
async fn what_was_judged_wrongly_is_judged_again() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V11, "@alice:here").await;
    let levels = json!({"users": {"@alice:here": 100, "@dan:here": 100}});
    let alice = user("@alice:here");
    let levels = here
        .send(&room, &alice, state("m.room.power_levels", levels), None)
        .await
        .unwrap();
    let levels = pdu(&here, &levels).await;
    let (carol, dan) = (user("@carol:here"), user("@dan:here"));
    let carols = here
        .send(&room, &carol, member("@carol:here", "join"), None)
        .await
        .unwrap();
    let dans = here
        .send(&room, &dan, member("@dan:here", "join"), None)
        .await
        .unwrap();
    let (carols, dans) = (pdu(&here, &carols).await, pdu(&here, &dans).await);
    here.send(&room, &dan, member("@dan:here", "leave"), None)
        .await
        .unwrap();
    let joined = join(&here, &there, &room, "@bob:there").await;
    let create = here.view_known(&room).await.unwrap();
    let create = create.state("m.room.create", "").await.unwrap().unwrap();

    // Dan has left, but says that he is in; who only has a part of the state must believe him.
    let kick = ("@dan:here", member("@carol:here", "ban"));
    let auth = [&create, &levels, &dans, &carols];
    let kick = forged(&here, &room, kick, &[&joined.join], &auth).await;
    let received = deliver(&here, &there, &room, &kick).await;
    assert!(
        matches!(received, Received::Accepted { .. }),
        "{received:?}"
    );
    let cry = ("@carol:here", message("what?"));
    let cry = forged(&here, &room, cry, &[&kick], &[&create, &levels, &carols]).await;
    let received = deliver(&here, &there, &room, &cry).await;
    assert!(
        matches!(received, Received::Rejected { .. }),
        "{received:?}"
    );
    let follow = ("@alice:here", message("so"));
    let rules = here.view_known(&room).await.unwrap();
    let alices = rules
        .state("m.room.member", "@alice:here")
        .await
        .unwrap()
        .unwrap();
    let follow = forged(&here, &room, follow, &[&cry], &[&create, &levels, &alices]).await;
    let received = deliver(&here, &there, &room, &follow).await;
    assert!(
        matches!(received, Received::Accepted { .. }),
        "{received:?}"
    );
    assert_healthy(&there).await;

    joined.finish(&there, &room).await;
    assert!(!shown(&there, &kick).await);
    assert!(shown(&there, &cry).await && shown(&there, &follow).await);
    let view = there.view_known(&room).await.unwrap();
    assert!(view.joined(&carol).await.unwrap());
    assert!(!view.joined(&dan).await.unwrap());
    assert_eq!(view.extremities().await.unwrap(), [follow.event_id()]);
    assert_eq!(digest(&here, &room).await, digest(&there, &room).await);
    assert_healthy(&there).await;
}

/// Of somebody who was put out by who could not: what their own event is authorised by is resolved with what the partial
/// state says of them.
#[tokio::test]
async fn who_was_put_out_wrongly_can_still_leave() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V11, "@alice:here").await;
    let levels = json!({"users": {"@alice:here": 100, "@dan:here": 100}});
    let alice = user("@alice:here");
    let levels = state("m.room.power_levels", levels);
    let levels = here.send(&room, &alice, levels, None).await.unwrap();
    let levels = pdu(&here, &levels).await;
    let mut joins = Vec::new();
    for id in ["@carol:here", "@dan:here", "@eve:here"] {
        let join = here.send(&room, &user(id), member(id, "join"), None).await;
        joins.push(pdu(&here, &join.unwrap()).await);
    }
    let [carols, dans, eves] = &joins[..] else {
        unreachable!()
    };
    let dan = user("@dan:here");
    let leave = member("@dan:here", "leave");
    here.send(&room, &dan, leave, None).await.unwrap();
    let joined = join(&here, &there, &room, "@bob:there").await;
    let create = here.view_known(&room).await.unwrap();
    let create = create.state("m.room.create", "").await.unwrap().unwrap();

    // Dan is out already, and says nothing of carol's membership.
    let kick = ("@dan:here", member("@carol:here", "leave"));
    let kick = forged(
        &here,
        &room,
        kick,
        &[&joined.join],
        &[&create, &levels, dans],
    )
    .await;
    let ban = ("@dan:here", member("@eve:here", "ban"));
    let ban = forged(&here, &room, ban, &[&kick], &[&create, &levels, dans, eves]).await;
    let leave = ("@carol:here", member("@carol:here", "leave"));
    let leave = forged(&here, &room, leave, &[&ban], &[&create, &levels, carols]).await;
    for event in [&kick, &ban, &leave] {
        let received = deliver(&here, &there, &room, event).await;
        let accepted = matches!(received, Received::Accepted { .. });
        assert!(accepted, "{received:?}");
    }
    // A ban stays, whatever somebody cites.
    let cry = ("@eve:here", message("no"));
    let cry = forged(&here, &room, cry, &[&leave], &[&create, &levels, eves]).await;
    let received = deliver(&here, &there, &room, &cry).await;
    let rejected = matches!(received, Received::Rejected { .. });
    assert!(rejected, "{received:?}");
    assert_healthy(&there).await;

    joined.finish(&there, &room).await;
    assert!(!shown(&there, &kick).await && !shown(&there, &ban).await);
    assert!(shown(&there, &leave).await && shown(&there, &cry).await);
    let view = there.view_known(&room).await.unwrap();
    assert!(!view.joined(&user("@carol:here")).await.unwrap());
    assert!(view.joined(&user("@eve:here")).await.unwrap());
    for event in [&kick, &ban, &leave, &cry] {
        deliver(&here, &here, &room, event).await;
    }
    assert_eq!(digest(&here, &room).await, digest(&there, &room).await);
    assert_healthy(&there).await;
}

#[tokio::test]
async fn a_state_that_forbids_the_join_was_not_the_one_before_it() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V11, "@alice:here").await;
    let joined = join(&here, &there, &room, "@bob:there").await;
    let without_create: Vec<_> = joined
        .whole
        .iter()
        .filter(|pdu| pdu.kind() != "m.room.create")
        .map(|pdu| pdu.event_id().to_owned())
        .collect();
    there
        .receive_outliers(&room, joined.whole.clone())
        .await
        .unwrap();
    let refused = there
        .give_state(&room, joined.join.event_id(), vec![without_create])
        .await;
    assert!(
        matches!(refused, Err(RoomError::Forbidden(_))),
        "{refused:?}"
    );
    joined.finish(&there, &room).await;
    assert_healthy(&there).await;
}

#[tokio::test]
async fn who_leaves_and_comes_back_needs_no_more_than_before() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V11, "@alice:here").await;
    let bob = user("@bob:there");
    let first = join(&here, &there, &room, "@bob:there").await;
    let left = there
        .send(&room, &bob, member("@bob:there", "leave"), None)
        .await
        .unwrap();
    here.receive(&room, pdu(&there, &left).await).await.unwrap();
    // Nobody is in: nobody waits for the members, and the room is not ours to join.
    assert!(there.resync(&room).await.unwrap().is_none());
    assert!(there.whole(&room).await.unwrap().is_partial());
    assert!(there.participating(&room).await.unwrap().is_none());
    assert_healthy(&there).await;

    let second = join(&here, &there, &room, "@bob:there").await;
    // The second join follows what we have, so the state before the first is all that is missing.
    first.finish(&there, &room).await;
    assert!(shown(&there, &second.join).await);
    let view = there.view_known(&room).await.unwrap();
    assert!(view.joined(&bob).await.unwrap());
    assert_eq!(view.extremities().await.unwrap(), [second.join.event_id()]);
    assert_eq!(digest(&here, &room).await, digest(&there, &room).await);
    assert_healthy(&there).await;
}

#[tokio::test]
async fn a_whole_answer_ends_a_partial_room_that_was_left() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V11, "@alice:here").await;
    let bob = user("@bob:there");
    join(&here, &there, &room, "@bob:there").await;
    let left = there
        .send(&room, &bob, member("@bob:there", "leave"), None)
        .await
        .unwrap();
    here.receive(&room, pdu(&there, &left).await).await.unwrap();
    super::between::join(&here, &there, &room, "@bob:there").await;
    let view = there.view_known(&room).await.unwrap();
    assert!(!view.is_partial() && view.joined(&bob).await.unwrap());
    assert_eq!(digest(&here, &room).await, digest(&there, &room).await);
    assert_healthy(&there).await;
}

#[tokio::test]
async fn who_was_invited_comes_into_a_private_room() {
    let (here, there) = (server("here").await, server("there").await);
    let room = room(&here, RoomVersionId::V11, "@alice:here").await;
    let alice = user("@alice:here");
    let private = state("m.room.join_rules", json!({"join_rule": "invite"}));
    here.send(&room, &alice, private, None).await.unwrap();
    here.send(&room, &alice, member("@bob:there", "invite"), None)
        .await
        .unwrap();
    let joined = join(&here, &there, &room, "@bob:there").await;
    joined.finish(&there, &room).await;
    assert_eq!(digest(&here, &room).await, digest(&there, &room).await);
    assert_healthy(&there).await;
}
