//! What another server may answer when it is asked. The number of a test is its line in
//! docs/security.md.

use std::collections::BTreeSet;

use resuni_federation::{FederationError, Handshake, Joined};
use resuni_rooms::{CreateRoom, Gaps, Membership, NewEvent, PageQuery, Preset};
use resuni_store::Direction;
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Map, Value, json};

use crate::authority::Authority;
use crate::hostile::{event, public_room, raw, send};
use crate::part::{Part, servers};

async fn join(who: &Part, room: &RoomId, via: &Part) -> Result<Joined, FederationError> {
    let via = [via.name.clone()];
    let handshake = Handshake {
        room,
        user: &who.user(),
        via: &via,
        content: Map::new(),
    };
    who.federation.handshakes.join(handshake).await
}

async fn set(at: &Part, room: &RoomId, kind: &str, content: Value) {
    let content = serde_json::value::to_raw_value(&content).unwrap();
    let event = NewEvent::state(kind, "", content);
    at.rooms.send(room, &at.user(), event, None).await.unwrap();
}

/// One field of a template after the other, with what a liar would like to have signed.
fn false_templates() -> Vec<(&'static str, Value)> {
    vec![
        ("type", json!("m.room.power_levels")),
        ("room_id", json!("!another:b.test")),
        ("sender", json!("@admin:a.test")),
        ("state_key", json!("@admin:a.test")),
        ("state_key", json!("")),
        ("state_key", Value::Null),
        ("content", json!({ "membership": "ban" })),
        ("content", json!({ "membership": "invite" })),
        ("content", json!({ "users": { "@liar:b.test": 100 } })),
        (
            "content",
            json!({ "membership": "join", "join_authorised_via_users_server": "@admin:c.test" }),
        ),
        ("prev_events", json!("none")),
    ]
}

/// CVE-2026-24471: whatever a template says beyond its place in the graph, it is not signed.
#[tokio::test(flavor = "multi_thread")]
async fn s001_nothing_is_signed_but_what_was_asked_for() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&b).await;
    for (field, value) in false_templates() {
        let said = format!("{field}: {value}");
        b.lies.tell(move |endpoint, body| {
            if endpoint == "make_join" {
                body["event"][field] = value.clone();
            }
        });
        join(&a, &room, &b).await.expect_err(&said);
        assert_eq!(b.lies.asked("make_join"), 1);
        assert_eq!(b.lies.asked("send_join"), 0, "signed although {said}");
    }
    // What is only superfluous does not reach the event.
    b.lies.tell(|endpoint, body| {
        if endpoint == "make_join" {
            body["event"]["content"]["admin"] = json!(true);
            body["event"]["redacts"] = json!("$an_event");
            body["event"]["unsigned"] = json!({ "age": 1 });
        }
    });
    join(&a, &room, &b).await.unwrap();
    let view = b.view(&room).await;
    let member = view
        .state("m.room.member", a.user().as_str())
        .await
        .unwrap();
    let member = member.unwrap();
    assert_eq!(member.content().get(), r#"{"membership":"join"}"#);
    assert!(!member.json().contains("redacts"));
}

/// The same for the end of an invite: it ends here, and nothing that was made up is signed.
#[tokio::test(flavor = "multi_thread")]
async fn s001_a_declined_invite_signs_nothing_else() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    for (field, value) in false_templates() {
        let room = private_room(&b).await;
        let invites = &b.federation.invites;
        let invited = (b.user(), a.user());
        invites
            .send(&room, &invited.0, &invited.1, Map::new())
            .await
            .unwrap();
        b.lies.tell(move |endpoint, body| {
            if endpoint == "make_leave" {
                body["event"][field] = value.clone();
            }
        });
        let via = [b.name.clone()];
        let handshake = Handshake {
            room: &room,
            user: &a.user(),
            via: &via,
            content: Map::new(),
        };
        a.federation.handshakes.leave(handshake).await.unwrap();
        assert_eq!(b.lies.asked("send_leave"), 0, "{field}");
        let invites = a.rooms.rooms_of(&a.user(), &[Membership::Invite]).await;
        assert!(invites.unwrap().is_empty(), "{field}");
        b.lies.stop();
    }
}

async fn private_room(at: &Part) -> OwnedRoomId {
    let request = CreateRoom {
        preset: Some(Preset::PrivateChat),
        ..CreateRoom::default()
    };
    at.rooms.create(&at.user(), request).await.unwrap()
}

/// Another event with the old signatures: what a forger has who has no key.
fn forge(pdu: &mut Value) {
    if let Some(ts) = pdu["origin_server_ts"].as_u64() {
        pdu["origin_server_ts"] = json!(ts + 1);
    }
}

fn forge_all(list: &mut Value, kind: &str) {
    for pdu in list.as_array_mut().into_iter().flatten() {
        if pdu["type"] == kind {
            forge(pdu);
        }
    }
}

/// GHSA-pfw4-xjgm-267c, CVE-2018-16515, CVE-2019-18835: a signature is checked on every path by which an
/// event can come.
#[tokio::test(flavor = "multi_thread")]
async fn s006_a_forged_event_is_found_on_every_path() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;

    // In the answer to a join: the topic is not the liar's to change.
    let room = public_room(&b).await;
    set(&b, &room, "m.room.topic", json!({ "topic": "roses" })).await;
    b.lies.tell(|endpoint, body| {
        if endpoint == "send_join" {
            forge_all(&mut body["state"], "m.room.topic");
        }
    });
    if join(&a, &room, &b).await.is_ok() {
        let topic = a.view(&room).await.state("m.room.topic", "").await.unwrap();
        assert!(topic.is_none(), "a forged event is in the state");
    }
    b.lies.stop();

    // In history that is asked for.
    let room = public_room(&b).await;
    for n in 0..5 {
        b.say(&room, &format!("before {n}")).await;
    }
    join(&a, &room, &b).await.unwrap();
    b.lies.tell(|endpoint, body| {
        if endpoint == "backfill" {
            forge_all(&mut body["pdus"], "m.room.message");
        }
    });
    let view = a.view(&room).await;
    let query = PageQuery {
        from: view.end(),
        to: None,
        dir: Direction::Backward,
        limit: 100,
        gaps: Gaps::Stop,
    };
    let gap = view.page(query).await.unwrap().gap.unwrap();
    let _ = a.federation.fetcher.backfill(&room, &gap).await;
    assert_eq!(b.lies.asked("backfill"), 1);
    assert_eq!(messages(&a, &room).await, BTreeSet::new());

    // In what lies between, and in every way in which it is fetched when that fails.
    b.lies.tell(|endpoint, body| match endpoint {
        "get_missing_events" => forge_all(&mut body["events"], "m.room.message"),
        "backfill" | "event" => forge_all(&mut body["pdus"], "m.room.message"),
        "state" => {
            forge_all(&mut body["pdus"], "m.room.message");
            forge_all(&mut body["auth_chain"], "m.room.message");
        }
        _ => {}
    });
    let missed = event(
        &b,
        &b,
        &room,
        json!({ "msgtype": "m.text", "body": "missed" }),
    )
    .await;
    b.rooms.receive(&room, missed.clone()).await.unwrap();
    let last = event(
        &b,
        &b,
        &room,
        json!({ "msgtype": "m.text", "body": "last" }),
    )
    .await;
    send(&b, &a, "t1", vec![raw(last.json())], vec![])
        .await
        .unwrap();
    settled(&a, &b).await;
    b.rooms.receive(&room, last).await.unwrap();
    for said in messages(&a, &room).await {
        let known = b.view(&room).await;
        let id = said.as_str().try_into().unwrap();
        assert!(known.event(id).await.unwrap().is_some(), "{said} is forged");
    }
}

/// Waits until `a` has asked `b` for what was missing and is through with it.
async fn settled(a: &Part, b: &Part) {
    let waiting = async {
        while b.lies.asked("get_missing_events") == 0 || a.federation.ingest.waiting() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    // An event that can't be had is tried again for some time; that is enough to have seen it.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(3), waiting).await;
}

/// The ids of all messages in the timeline.
async fn messages(at: &Part, room: &RoomId) -> BTreeSet<String> {
    let view = at.view(room).await;
    let query = PageQuery {
        from: view.end(),
        to: None,
        dir: Direction::Backward,
        limit: 1_000,
        gaps: Gaps::Pass,
    };
    let page = view.page(query).await.unwrap();
    let events = page.events.iter();
    events
        .filter(|event| event.row.pdu.contains("\"m.room.message\""))
        .map(|event| event.event_id().to_string())
        .collect()
}

/// Synapse 1.15.2: a server that leaves most of the state out when asked for it does not make the
/// room forget it.
#[tokio::test(flavor = "multi_thread")]
async fn s011_state_that_is_left_out_stays() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&a).await;
    join(&b, &room, &a).await.unwrap();
    set(&a, &room, "m.room.topic", json!({ "topic": "roses" })).await;
    let topic = a.view(&room).await.extremities().await.unwrap().remove(0);
    b.has(&room, &topic).await;

    b.lies.tell(|endpoint, body| match endpoint {
        "get_missing_events" => body["events"] = json!([]),
        // Only what proves that b.test is in the room.
        "state_ids" => body["pdu_ids"].as_array_mut().unwrap().truncate(1),
        _ => {}
    });
    let missed = event(
        &b,
        &b,
        &room,
        json!({ "msgtype": "m.text", "body": "missed" }),
    )
    .await;
    b.rooms.receive(&room, missed.clone()).await.unwrap();
    let last = event(
        &b,
        &b,
        &room,
        json!({ "msgtype": "m.text", "body": "last" }),
    )
    .await;
    send(&b, &a, "t1", vec![raw(last.json())], vec![])
        .await
        .unwrap();
    settled(&a, &b).await;
    let view = a.view(&room).await;
    for (kind, key) in [
        ("m.room.create", ""),
        ("m.room.power_levels", ""),
        ("m.room.topic", ""),
        ("m.room.join_rules", ""),
    ] {
        assert!(view.state(kind, key).await.unwrap().is_some(), "{kind}");
    }
    assert!(view.joined(&a.user()).await.unwrap());
}

/// Dendrite 0.8.5 and others: a join is answered with anything at all. It fails, nothing else does, and
/// it succeeds once the answer is right.
#[tokio::test(flavor = "multi_thread")]
async fn s128_a_malformed_answer_to_a_join_only_fails() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 10] = [
        ("no state", |body| body["state"] = json!([])),
        ("nothing", |body| *body = json!({})),
        ("a list", |body| *body = json!([])),
        ("no create event", |body| without(body, "m.room.create")),
        ("no power levels", |body| {
            without(body, "m.room.power_levels")
        }),
        ("numbers for events", |body| {
            body["state"] = json!([1, 2.5, null])
        }),
        ("everything twice", |body| {
            let state = body["state"].as_array_mut().unwrap();
            state.extend(state.clone());
        }),
        ("floats", |body| body["state"][0]["depth"] = json!(1.5)),
        ("somebody else's events", |body| {
            for pdu in body["state"].as_array_mut().unwrap() {
                pdu["room_id"] = json!("!another:b.test");
            }
        }),
        ("another event", |body| {
            body["event"] = json!({ "type": "m.room.message", "content": {} });
        }),
    ];
    for (name, change) in changes {
        let room = public_room(&b).await;
        b.lies.tell(move |endpoint, body| {
            if endpoint == "send_join" {
                change(body);
            }
        });
        let joined = join(&a, &room, &b).await.is_ok();
        b.lies.stop();
        // What was only superfluous may pass; then the room has to be whole.
        if !joined {
            join(&a, &room, &b).await.expect(name);
        }
        // Members may still be arriving.
        let view = a.rooms.whole(&room).await.unwrap();
        assert!(view.joined(&a.user()).await.unwrap(), "{name}");
        let (here, there) = (
            view.state_digest().await,
            b.view(&room).await.state_digest().await,
        );
        assert_eq!(here.unwrap(), there.unwrap(), "{name}");
        let said = b.say(&room, "still here").await;
        a.has(&room, &said).await;
    }
}

/// tuwunel eb5486b7e: of an answer only so much is read as its kind may have, whoever gives it.
#[tokio::test(flavor = "multi_thread")]
async fn s120_an_answer_that_is_too_long_is_not_read_to_its_end() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = public_room(&b).await;
    b.lies.tell(|endpoint, body| {
        if endpoint == "make_join" {
            // Right, but for its length.
            body["padding"] = json!("x".repeat(1 << 20));
        }
    });
    let refused = join(&a, &room, &b).await.unwrap_err();
    assert!(refused.to_string().contains("larger than"), "{refused}");
    assert_eq!(b.lies.asked("make_join"), 1);
    assert_eq!(b.lies.asked("send_join"), 0);
    b.lies.stop();
    join(&a, &room, &b).await.unwrap();
}

fn without(body: &mut Value, kind: &str) {
    for list in ["state", "auth_chain"] {
        let list = body[list].as_array_mut().unwrap();
        list.retain(|pdu| pdu["type"] != kind);
    }
}
