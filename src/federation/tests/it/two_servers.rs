//! Rooms that two servers share, each a whole one but for the client-server API.

use std::{collections::BTreeSet, time::Duration};

use resuni_federation::{FederationError, Handshake, Joined};
use resuni_rooms::{CreateRoom, Gaps, Membership, NewEvent, PageQuery, Preset, TimelineToken};
use resuni_store::{Direction, EngineConfig, SimulatedDisk};
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, api::federation::event::get_event::v1 as get_event,
};
use serde_json::Map;

use crate::authority::Authority;
use crate::part::{Map as Addresses, PATIENCE, Part, servers, servers_on};

pub async fn room(at: &Part, version: &str, preset: Preset) -> OwnedRoomId {
    let request = CreateRoom {
        preset: Some(preset),
        room_version: Some(version.to_owned()),
        ..CreateRoom::default()
    };
    at.rooms.create(&at.user(), request).await.unwrap()
}

pub async fn join(who: &Part, room: &RoomId, via: &Part) -> Result<Joined, FederationError> {
    let via: [OwnedServerName; 1] = [via.name.clone()];
    let handshake = Handshake {
        room,
        user: &who.user(),
        via: &via,
        content: Map::new(),
    };
    who.federation.handshakes.join(handshake).await
}

/// The ids of all events in the timeline.
pub async fn timeline(at: &Part, room: &RoomId) -> Vec<String> {
    let view = at.view(room).await;
    let query = PageQuery {
        from: TimelineToken {
            position: resuni_store::Position(0),
            sub: 0,
        },
        to: None,
        dir: Direction::Forward,
        limit: 1_000,
        gaps: Gaps::Pass,
    };
    view.page(query)
        .await
        .unwrap()
        .events
        .iter()
        // One that only ends a fork is there or not, as it comes.
        .filter(|e| e.fields().kind_str() != "org.matrix.dummy_event")
        .map(|e| e.event_id().to_string())
        .collect()
}

/// Type, key and id of all events of the current state.
async fn state(at: &Part, room: &RoomId) -> BTreeSet<(String, String, String)> {
    // Members may still be arriving.
    let room = at.rooms.whole(room).await.unwrap();
    let events = room.state_all().await.unwrap();
    let entry = |pdu: &resuni_dag::Pdu| {
        let key = pdu.state_key().unwrap_or_default().to_owned();
        (pdu.kind().to_owned(), key, pdu.event_id().to_string())
    };
    events.iter().map(entry).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_joined_and_talked_in() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    for version in resuni_dag::SUPPORTED {
        let room = room(&a, version, Preset::PublicChat).await;
        assert_eq!(join(&b, &room, &a).await.unwrap(), Joined::Yes, "{version}");
        assert_eq!(state(&a, &room).await, state(&b, &room).await, "{version}");
        let mut last = Vec::new();
        for n in 0..20 {
            last = vec![
                a.say(&room, &format!("a {n}")).await,
                b.say(&room, &format!("b {n}")).await,
            ];
        }
        for event in &last {
            a.has(&room, event).await;
            b.has(&room, event).await;
        }
        let (at_a, at_b) = (timeline(&a, &room).await, timeline(&b, &room).await);
        let (set_a, set_b): (BTreeSet<_>, BTreeSet<_>) =
            (at_a.iter().collect(), at_b.iter().collect());
        assert!(
            set_b.is_subset(&set_a),
            "b has what a has, from its join on"
        );
        assert_eq!(set_b.len(), 41, "the join and forty messages");
        assert_eq!(state(&a, &room).await, state(&b, &room).await);
        assert_eq!(join(&b, &room, &a).await.unwrap(), Joined::ServerIsIn);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_room_is_entered_by_invite_only() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    for version in ["1", "3", "9", "12"] {
        entered_by_invite_only(&a, &b, version).await;
    }
}

async fn entered_by_invite_only(a: &Part, b: &Part, version: &str) {
    let room = room(a, version, Preset::PrivateChat).await;
    let error = join(b, &room, a).await.unwrap_err();
    assert_eq!(error.remote_code(), Some("M_FORBIDDEN"), "{error}");

    let invited = a
        .federation
        .invites
        .send(&room, &a.user(), &b.user(), Map::new())
        .await
        .unwrap();
    a.has(&room, &invited).await;
    let pending = b
        .rooms
        .rooms_of(&b.user(), &[Membership::Invite])
        .await
        .unwrap();
    assert_eq!(pending.len(), 1);
    let stripped = b
        .rooms
        .stripped_state(&b.user(), pending[0].num)
        .await
        .unwrap()
        .unwrap();
    assert!(stripped.contains("m.room.create") && stripped.contains("m.room.join_rules"));
    assert!(
        !stripped.contains("signatures"),
        "clients get the stripped form"
    );

    assert_eq!(join(b, &room, a).await.unwrap(), Joined::Yes);
    let said = b.say(&room, "here").await;
    a.has(&room, &said).await;

    // Kicked: the server without other users in the room learns of it.
    a.rooms
        .kick(&room, &a.user(), &b.user(), None, false)
        .await
        .unwrap();
    let left = async {
        let left = [Membership::Leave];
        while !(b.rooms.rooms_of(&b.user(), &left).await.unwrap().iter())
            .any(|of| of.room_id == room)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, left).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_is_declined_and_another_taken_back() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = room(&a, "11", Preset::PrivateChat).await;
    let invite = async || {
        a.federation
            .invites
            .send(&room, &a.user(), &b.user(), Map::new())
            .await
            .unwrap()
    };
    invite().await;
    let via = [a.name.clone()];
    let handshake = Handshake {
        room: &room,
        user: &b.user(),
        via: &via,
        content: Map::new(),
    };
    b.federation.handshakes.leave(handshake).await.unwrap();
    assert_eq!(
        a.view(&room).await.member(&b.user()).await.unwrap(),
        Some(Membership::Leave)
    );
    assert!(
        b.rooms
            .rooms_of(&b.user(), &[Membership::Invite])
            .await
            .unwrap()
            .is_empty()
    );

    invite().await;
    assert_eq!(
        b.rooms
            .rooms_of(&b.user(), &[Membership::Invite])
            .await
            .unwrap()
            .len(),
        1
    );
    a.rooms
        .kick(&room, &a.user(), &b.user(), None, false)
        .await
        .unwrap();
    let gone = async {
        while !b
            .rooms
            .rooms_of(&b.user(), &[Membership::Invite])
            .await
            .unwrap()
            .is_empty()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_away_catches_up_in_order() {
    let authority = Authority::new();
    let [mut a, mut b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = room(&a, "12", Preset::PublicChat).await;
    join(&b, &room, &a).await.unwrap();
    let first = a.say(&room, "before").await;
    b.has(&room, &first).await;
    let map = addresses(&a, &b).await;

    b.stop().await;
    let mut said = Vec::new();
    for n in 0..120 {
        said.push(
            a.say(&room, &format!("while you were away {n}"))
                .await
                .to_string(),
        );
    }
    // The sender forgets what it had in memory; only the store remembers who is behind.
    a.stop().await;
    a.restart(&authority, &map).await;
    b.restart(&authority, &map).await;
    let last = a.say(&room, "after").await;
    b.has(&room, &last).await;
    let at_b = timeline(&b, &room).await;
    let caught: Vec<&String> = at_b.iter().filter(|id| said.contains(id)).collect();
    assert_eq!(caught, said.iter().collect::<Vec<_>>());
    assert_eq!(state(&a, &room).await, state(&b, &room).await);
}

pub async fn addresses(a: &Part, b: &Part) -> Addresses {
    use resuni_federation::net::web::Locate as _;
    let mut map = Addresses::new();
    for name in [&a.name, &b.name] {
        let uri = format!("https://{name}/").parse().unwrap();
        let (_, found) = a.federation.network.discovery.locate(&uri).await.unwrap();
        map.insert(name.clone(), found[0]);
    }
    map
}

/// The state of a room has an invite in it that this server took when it was not in the room: it is fetched
/// like any other event, and the members arrive.
#[tokio::test(flavor = "multi_thread")]
async fn an_invite_from_before_the_join_is_part_of_the_state() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = room(&a, "12", Preset::PublicChat).await;
    let invites = &a.federation.invites;
    invites
        .send(&room, &a.user(), &b.user(), Map::new())
        .await
        .unwrap();
    let other = ruma::owned_user_id!("@other:b.test");
    let via = [a.name.clone()];
    let handshake = Handshake {
        room: &room,
        user: &other,
        via: &via,
        content: Map::new(),
    };
    b.federation.handshakes.join(handshake).await.unwrap();
    let at_b = tokio::time::timeout(PATIENCE, state(&b, &room)).await;
    assert_eq!(at_b.unwrap(), state(&a, &room).await);
}

/// Its last user is put out while it is away, and who did it is restarted: it is told all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_away_learns_that_it_was_put_out() {
    let authority = Authority::new();
    let [mut a, mut b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = room(&a, "12", Preset::PublicChat).await;
    join(&b, &room, &a).await.unwrap();
    let map = addresses(&a, &b).await;
    b.stop().await;
    let (admin, guest) = (a.user(), b.user());
    a.rooms
        .kick(&room, &admin, &guest, None, false)
        .await
        .unwrap();
    a.stop().await;
    b.restart(&authority, &map).await;
    a.restart(&authority, &map).await;
    let put_out = async {
        while b.view(&room).await.member(&guest).await.unwrap() != Some(Membership::Leave) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, put_out).await.unwrap();
}

/// A server whose disk fails answers nothing of what it could not write, so that it is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_failing_disk_did_not_take_is_sent_again() {
    let authority = Authority::new();
    let disk = SimulatedDisk::default();
    let [a, b] = servers_on(&authority, ["a.test", "b.test"], |name| match name {
        "b.test" => EngineConfig::Simulated(disk.clone()),
        _ => EngineConfig::Memory,
    })
    .await;
    let room = room(&a, "12", Preset::PublicChat).await;
    join(&b, &room, &a).await.unwrap();
    b.has(&room, &a.say(&room, "while all is well").await).await;
    let before = b.lies.asked("send");
    disk.fail_after(0);
    a.say(&room, "lost?").await;
    let again = async {
        while b.lies.asked("send") < before + 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_history_is_fetched() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = room(&a, "12", Preset::PublicChat).await;
    join(&b, &room, &a).await.unwrap();
    // Nothing is sent to b.test for a while …
    let seal = a.federation.network.admission.mode();
    a.federation
        .network
        .admission
        .set(resuni_federation::Mode::Closed);
    let mut said = Vec::new();
    for n in 0..30 {
        said.push(a.say(&room, &format!("unsent {n}")).await);
    }
    let dispatched = async {
        while a.federation.stats().destinations_waiting > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dispatched).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    // … then one event that builds on all of that.
    a.federation.network.admission.set((*seal).clone());
    let last = a.say(&room, "sent").await;
    b.has(&room, &last).await;
    for event in &said {
        b.has(&room, event).await;
    }
}

/// Who is put out while it can't be reached has to have what led to that: else it takes no notice, and
/// goes on in a room of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_put_out_after_a_gap_learns_of_it() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = room(&a, "12", Preset::PublicChat).await;
    join(&b, &room, &a).await.unwrap();
    let seal = a.federation.network.admission.mode();
    let closed = resuni_federation::Mode::Closed;
    a.federation.network.admission.set(closed);
    let unsent = a.say(&room, "unsent").await;
    let dispatched = async {
        while a.federation.stats().destinations_waiting > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dispatched).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    a.federation.network.admission.set((*seal).clone());
    let (admin, guest) = (a.user(), b.user());
    a.rooms
        .ban(&room, &admin, &guest, None, false)
        .await
        .unwrap();
    let put_out = async {
        while b.view(&room).await.member(&guest).await.unwrap() != Some(Membership::Ban) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, put_out).await.unwrap();
    b.has(&room, &unsent).await;
    // What comes after is not for it.
    let after = a.say(&room, "among us").await;
    let request = get_event::Request::new(after);
    let terms = resuni_federation::Terms::ASKED;
    let refused = b.federation.network.client.send(&a.name, request, terms);
    assert_eq!(
        refused.await.unwrap_err().remote_code(),
        Some("M_NOT_FOUND")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_room_is_joined_by_a_member_of_another() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let club = room(&a, "12", Preset::PublicChat).await;
    let restricted = {
        let rule = serde_json::json!({
            "join_rule": "restricted",
            "allow": [{ "type": "m.room_membership", "room_id": club }],
        });
        let request = CreateRoom {
            preset: Some(Preset::PrivateChat),
            initial_state: vec![resuni_rooms::InitialState {
                kind: "m.room.join_rules".to_owned(),
                state_key: String::new(),
                content: rule.as_object().unwrap().clone(),
            }],
            ..CreateRoom::default()
        };
        a.rooms.create(&a.user(), request).await.unwrap()
    };
    let error = join(&b, &restricted, &a).await.unwrap_err();
    assert_eq!(error.remote_code(), Some("M_FORBIDDEN"), "{error}");
    join(&b, &club, &a).await.unwrap();
    assert_eq!(join(&b, &restricted, &a).await.unwrap(), Joined::Yes);
    let join = b
        .view(&restricted)
        .await
        .state("m.room.member", b.user().as_str())
        .await
        .unwrap();
    let join = join.unwrap();
    assert!(
        join.content()
            .get()
            .contains("join_authorised_via_users_server")
    );
    assert!(
        join.json().contains("\"a.test\""),
        "signed by the server that authorised it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_types_is_told_and_only_about_oneself() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = room(&a, "12", Preset::PublicChat).await;
    join(&b, &room, &a).await.unwrap();
    let (at_a, at_b) = (a.view(&room).await.num(), b.view(&room).await.num());
    a.typing.set(at_a, &a.user(), Some(30_000));
    let told = async {
        while b.typing.now(at_b).users != [a.user()] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        a.typing.set(at_a, &a.user(), None);
        while !b.typing.now(at_b).users.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
}

/// What is said between a server's `make_join` and its `send_join` reaches it, although nobody says anything after.
#[tokio::test(flavor = "multi_thread")]
async fn what_happens_during_a_join_is_not_lost() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = room(&a, "12", Preset::PublicChat).await;
    let (rooms, user, in_room) = (a.rooms.clone(), a.user(), room.clone());
    let topic = std::sync::Arc::new(std::sync::Mutex::new(None));
    let sent = topic.clone();
    a.lies.tell(move |endpoint, _| {
        if endpoint == "make_join" {
            let content = serde_json::json!({ "topic": "meanwhile" });
            let content = serde_json::value::to_raw_value(&content).unwrap();
            let event = resuni_rooms::NewEvent::state("m.room.topic", "", content);
            let sending = rooms.send(&in_room, &user, event, None);
            let id =
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(sending));
            *sent.lock().unwrap() = Some(id.unwrap());
        }
    });
    join(&b, &room, &a).await.unwrap();
    let topic = topic.lock().unwrap().take().unwrap();
    b.has(&room, &topic).await;
    assert_eq!(state(&a, &room).await, state(&b, &room).await);
}

/// Policy rooms that the operator follows (MSC2313): here nobody is told that there was an invite.
#[tokio::test(flavor = "multi_thread")]
async fn an_invite_of_a_banned_server_is_refused() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let list = room(&b, "11", Preset::PrivateChat).await;
    let ban =
        serde_json::json!({ "entity": "?.test", "recommendation": "m.ban", "reason": "spam" });
    let ban = serde_json::value::to_raw_value(&ban).unwrap();
    let rule = NewEvent::state("m.policy.rule.server", "1", ban);
    b.rooms.send(&list, &b.user(), rule, None).await.unwrap();
    b.rooms.read_policy_rooms(&[list]).await.unwrap();
    let room = room(&a, "11", Preset::PrivateChat).await;
    let (she, he) = (a.user(), b.user());
    let refused = a.federation.invites.send(&room, &she, &he, Map::new());
    let refused = refused.await.unwrap_err().to_string();
    assert!(refused.contains("spam"), "{refused}");
    let invited = b.rooms.rooms_of(&he, &[Membership::Invite]).await.unwrap();
    assert!(invited.is_empty());
    assert_eq!(a.view(&room).await.member(&he).await.unwrap(), None);
}
