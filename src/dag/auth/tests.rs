use crate::testing::{Room, user};
use crate::{Draft, sign};
use ruma::server_name;

/// In a room with this history, is the event allowed? `expected` is `ok`, or a part of the reason.
#[track_caller]
fn check(version: &str, history: &[&str], event: &str, expected: &str) {
    let (mut room, mut branch) = Room::with(version, history);
    let found = match room.say(&mut branch, event) {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.to_string(),
    };
    assert!(
        found.contains(expected),
        "v{version}: `{event}`: {found}; expected {expected}"
    );
}

#[track_caller]
fn check_all(history: &[&str], event: &str, expected: &str) {
    for version in crate::SUPPORTED {
        check(version, history, event, expected);
    }
}

/// Allowed in the versions that have the rule, and in no other.
#[track_caller]
fn check_where(has: impl Fn(&crate::RoomRules) -> bool, history: &[&str], event: &str) {
    for version in crate::SUPPORTED {
        let (mut room, mut branch) = Room::with(version, history);
        let found = room.say(&mut branch, event);
        assert_eq!(
            found.is_ok(),
            has(room.rules),
            "v{version}: `{event}`: {found:?}"
        );
    }
}

/// Alice has 100 in every version: in v12 she is the creator and may not be listed.
const PUBLIC: &[&str] = &["alice creates", "alice joins", "alice rules public"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [PUBLIC, more].concat()
}

#[test]
fn create_and_first_join() {
    check_all(&[], "alice creates", "ok");
    check_all(&["alice creates"], "alice joins", "ok");
    check_all(&["alice creates"], "bob joins", "");
    check_all(
        &["alice creates"],
        "bob@two sends m.room.message {}",
        "not `join`",
    );
    check(
        "12",
        &[],
        r#"alice creates {"additional_creators":["nobody"]}"#,
        "additional_creators",
    );
    check(
        "12",
        &[],
        r#"alice creates {"additional_creators":["@bob:two"]}"#,
        "ok",
    );
    check(
        "11",
        &[],
        r#"alice creates {"additional_creators":["nobody"]}"#,
        "ok",
    );
    check_all(
        &[],
        r#"alice creates {"room_version":"strange"}"#,
        "`room_version` is strange",
    );
    check(
        "12",
        &[],
        r#"alice creates {"room_version":"11"}"#,
        "`room_version` is 11",
    );
    // "Defaults to "1" if the key does not exist."
    let is_first = |rules: &crate::RoomRules| rules.version == ruma::RoomVersionId::V1;
    check_where(is_first, &[], r#"alice creates {"room_version":null}"#);
}

#[test]
fn joins() {
    check_all(PUBLIC, "bob@two joins", "ok");
    check_all(
        &["alice creates", "alice joins"],
        "bob@two joins",
        "not `public`",
    );
    check_all(
        &["alice creates", "alice joins", "alice invites bob@two"],
        "bob@two joins",
        "ok",
    );
    check_all(&with(&["alice bans bob@two"]), "bob@two joins", "banned");
    check_all(&with(&["alice rules private"]), "bob@two joins", "");
    check_all(
        &[
            r#"alice creates {"m.federate":false}"#,
            "alice joins",
            "alice rules public",
        ],
        "bob@two joins",
        "not federated",
    );
}

#[test]
fn invites_and_knocks() {
    check_all(PUBLIC, "alice invites bob@two", "ok");
    check_all(&with(&["bob@two joins"]), "alice invites bob@two", "");
    check_all(PUBLIC, "bob@two invites carol", "");
    check_where(
        crate::RoomRules::knocking,
        &with(&["alice rules knock"]),
        "bob@two knocks",
    );
    check_where(
        crate::RoomRules::knock_restricted_joins,
        &with(&["alice rules knock_restricted"]),
        "bob@two knocks",
    );
    check_all(PUBLIC, "bob@two knocks", "");
    check_all(
        &with(&["alice rules knock", "alice bans bob@two"]),
        "bob@two knocks",
        "",
    );
}

#[test]
fn kicks_and_bans() {
    let members = with(&[
        "bob@two joins",
        "carol@three joins",
        r#"alice power {"users":{"@bob:two":50,"@carol:three":50}}"#,
    ]);
    check_all(&with(&["bob@two joins"]), "alice kicks bob@two", "ok");
    check_all(&with(&["bob@two joins"]), "bob@two kicks alice", "");
    check("12", &members, "bob@two kicks carol@three", "");
    check("12", &members, "bob@two bans dave", "ok");
    check_all(&with(&["alice bans bob@two"]), "alice unbans bob@two", "ok");
    check_all(&with(&["alice bans bob@two"]), "bob@two leaves", "");
    check_all(&with(&["bob@two joins"]), "bob@two leaves", "ok");
}

#[test]
fn restricted_joins() {
    let room = with(&["bob@two joins", "alice rules restricted"]);
    let via = |who: &str| {
        format!(
            r#"carol@three joins {{"join_authorised_via_users_server":"{}"}}"#,
            user(who)
        )
    };
    check_all(&room, "carol@three joins", "");
    check_where(crate::RoomRules::restricted_joins, &room, &via("alice"));
    check_where(crate::RoomRules::restricted_joins, &room, &via("bob@two"));
    check_all(&room, &via("nobody"), "");
    let raised = [
        &room[..],
        &[r#"alice power {"invite":50,"users":{"@alice:one":100}}"#],
    ]
    .concat();
    check("11", &raised, &via("bob@two"), "");
    check("11", &raised, &via("alice"), "ok");
}

#[test]
fn events_need_their_level() {
    let power = r#"alice power {"events":{"m.room.topic":20,"m.room.message":10},
        "users":{"@bob:two":20,"@alice:one":100}}"#;
    let room = with(&["bob@two joins", "carol@three joins", power]);
    check(
        "11",
        &room,
        r#"bob@two sets m.room.topic / {"topic":"x"}"#,
        "ok",
    );
    check(
        "11",
        &room,
        r#"bob@two sets m.room.name / {"name":"x"}"#,
        "enough power",
    );
    check(
        "11",
        &room,
        "carol@three sends m.room.message {}",
        "enough power",
    );
    check("11", &room, "carol@three sends m.reaction {}", "ok");
    // Somebody else's name as a state key.
    check(
        "11",
        &room,
        "alice sets m.room.topic /@bob:two",
        "another user",
    );
    // A redaction is an event like any other (room version 3, "Authorization rules").
    check(
        "11",
        &room,
        r#"carol@three sends m.room.redaction {"redacts":"$x"}"#,
        "ok",
    );
}

#[test]
fn power_levels_move_within_ones_own() {
    let levels = |users: &str, more: &str| format!("bob@two power {{\"users\":{users}{more}}}");
    let start = r#"alice power {"users":{"@alice:one":100,"@bob:two":50,"@carol:three":50}}"#;
    let room = with(&["bob@two joins", "carol@three joins", start]);
    let same = r#"{"@alice:one":100,"@bob:two":50,"@carol:three":50}"#;
    for (users, more, expected) in [
        (same, "", "ok"),
        (
            r#"{"@alice:one":100,"@bob:two":50,"@carol:three":50,"@dave:two":50}"#,
            "",
            "ok",
        ),
        (
            r#"{"@alice:one":100,"@bob:two":50,"@carol:three":50,"@dave:two":51}"#,
            "",
            "",
        ),
        (
            r#"{"@alice:one":100,"@bob:two":100,"@carol:three":50}"#,
            "",
            "",
        ),
        // Down is allowed for oneself, not for an equal and not for somebody above.
        (
            r#"{"@alice:one":100,"@bob:two":10,"@carol:three":50}"#,
            "",
            "ok",
        ),
        (
            r#"{"@alice:one":100,"@bob:two":50,"@carol:three":10}"#,
            "",
            "",
        ),
        (
            r#"{"@alice:one":50,"@bob:two":50,"@carol:three":50}"#,
            "",
            "",
        ),
        (same, r#","ban":60"#, ""),
        (same, r#","ban":40"#, "ok"),
        (same, r#","events":{"m.room.topic":60}"#, ""),
        (same, r#","notifications":{"room":60}"#, ""),
        // Integers only since v10, and only user ids.
        (same, r#","ban":"40""#, ""),
        (
            r#"{"@alice:one":100,"@bob:two":50,"@carol:three":50,"nobody":1}"#,
            "",
            "",
        ),
    ] {
        let line = levels(users, more);
        if expected == "ok" {
            check("11", &room, &line, "ok");
        } else {
            let (mut world, mut branch) = Room::with("11", &room);
            assert!(world.say(&mut branch, &line).is_err(), "{line}");
        }
    }
}

#[test]
fn creators_of_version_12_stand_above_all() {
    let room = &[
        r#"alice creates {"additional_creators":["@carol:three"]}"#,
        "alice joins",
        "alice rules public",
        "bob@two joins",
        "carol@three joins",
        r#"alice power {"users":{"@bob:two":100}}"#,
    ];
    check("12", room, "bob@two kicks alice", "");
    check("12", room, "bob@two bans carol@three", "");
    check("12", room, "carol@three kicks bob@two", "ok");
    check(
        "12",
        room,
        r#"bob@two power {"users":{"@bob:two":100,"@alice:one":100}}"#,
        "creator",
    );
    check(
        "12",
        room,
        r#"alice power {"users":{"@carol:three":100}}"#,
        "creator",
    );
    check(
        "11",
        &with(&[]),
        r#"alice power {"users":{"@alice:one":100}}"#,
        "ok",
    );
}

#[test]
fn aliases_are_their_servers_up_to_version_5() {
    let is_old = |rules: &crate::RoomRules| rules.ruma().authorization.special_case_room_aliases;
    let history = &with(&[]);
    check_where(is_old, history, "bob@two sets m.room.aliases /two {}");
    let room = with(&["bob@two joins"]);
    check_all(&room, "bob@two sets m.room.aliases /one {}", "");
    check("5", &room, "bob@two sets m.room.aliases /two {}", "ok");
    check("6", &room, "bob@two sets m.room.aliases /two {}", "power");
}

#[test]
fn notifications_are_guarded_since_version_6() {
    let power = |level: u8| {
        format!(
            r#"bob@two power {{"users":{{"@alice:one":100,"@bob:two":50}},"notifications":{{"room":{level}}}}}"#
        )
    };
    let levels = r#"alice power {"users":{"@alice:one":100,"@bob:two":50}}"#;
    let room = with(&["bob@two joins", levels]);
    check("5", &room, &power(60), "ok");
    check("6", &room, &power(60), "`room` notification");
    check("6", &room, &power(50), "ok");
}

#[test]
fn redactions_have_a_rule_of_their_own_up_to_version_2() {
    let redact = |who: &str, target: &str| {
        let (mut room, mut branch) = Room::with("2", &with(&["bob@two joins"]));
        let mut pdu: ruma::CanonicalJsonObject = {
            let like = room.make(&branch, &format!("{who} sends m.room.redaction {{}}"));
            serde_json::from_str(like.json()).unwrap()
        };
        let target = ruma::CanonicalJsonValue::String(target.to_owned());
        pdu.insert("redacts".to_owned(), target);
        let id = format!("$x:{}", user(who).split_once(':').unwrap().1);
        pdu.insert("event_id".to_owned(), ruma::CanonicalJsonValue::String(id));
        let pdu = crate::Pdu::from_object(pdu, room.rules).unwrap();
        let allowed = room.check(&branch, &pdu).is_ok();
        room.append(&mut branch, &pdu);
        allowed
    };
    assert!(redact("alice", "$any:three"), "alice has the level");
    assert!(redact("bob@two", "$his:two"), "of his own server");
    assert!(!redact("bob@two", "$hers:one"));
}

#[test]
fn auth_events_are_what_the_event_needs() {
    let (mut room, branch) =
        Room::with("11", &with(&[r#"alice sets m.room.topic / {"topic":"x"}"#]));
    let id = |kind: &str, key: &str| branch.state[&(kind.to_owned(), key.to_owned())].clone();
    let good = room.make(&branch, "alice sends m.room.message {}");
    let ids = |ids: Vec<ruma::OwnedEventId>| ids.into_iter().map(Into::into).collect();
    let with_auth = |auth: Vec<_>, room_id: &str| {
        let draft = Draft {
            room_id: Some(room_id.try_into().unwrap()),
            sender: good.sender().to_owned(),
            kind: good.kind().to_owned(),
            state_key: None,
            content: good.content().to_owned(),
            redacts: None,
            prev_events: ids(good.prev_events().to_vec()),
            auth_events: ids(auth),
            depth: good.depth(),
            origin_server_ts: good.origin_server_ts(),
            sticky_ms: None,
        };
        sign(
            draft,
            room.rules,
            server_name!("one"),
            &crate::testing::key(),
        )
        .unwrap()
    };
    let (create, alice) = (id("m.room.create", ""), id("m.room.member", "@alice:one"));
    let refused = |auth: Vec<_>, room_id: &str| {
        room.check(&branch, &with_auth(auth, room_id))
            .err()
            .map(|e| e.to_string())
    };
    assert_eq!(
        refused(vec![create.clone(), alice.clone()], "!room:one"),
        None
    );
    let reason = |auth, room_id| refused(auth, room_id).unwrap();
    assert!(reason(vec![alice.clone()], "!room:one").contains("no `m.room.create`"));
    let topic = id("m.room.topic", "");
    assert!(reason(vec![create.clone(), topic], "!room:one").contains("unexpected"));
    // MSC4307: an auth event of another room.
    assert!(reason(vec![create.clone(), alice.clone()], "!other:one").contains("same room"));
    let unknown = "$unknown".try_into().unwrap();
    assert!(reason(vec![create.clone(), unknown], "!room:one").contains("failed to find"));
    // An auth event that was rejected.
    let pdu = with_auth(vec![create, alice.clone()], "!room:one");
    let fetch = |wanted: &ruma::EventId| {
        room.get(wanted).map(|pdu| {
            if wanted == alice {
                pdu.mark_rejected()
            } else {
                pdu
            }
        })
    };
    let error = crate::check_auth_events(&pdu, room.rules, fetch).unwrap_err();
    assert!(error.to_string().contains("rejected"), "{error}");
}

#[test]
fn version_12_never_lists_the_create_event() {
    let (mut room, mut branch) = Room::with("12", PUBLIC);
    let create = room.create_of(&branch).unwrap();
    let message = room.make(&branch, "alice sends m.room.message {}");
    assert!(
        !message
            .auth_events()
            .contains(&create.event_id().to_owned())
    );
    let mut object: ruma::CanonicalJsonObject = serde_json::from_str(message.json()).unwrap();
    let auth = object
        .get_mut("auth_events")
        .unwrap()
        .as_array_mut()
        .unwrap();
    auth.push(ruma::CanonicalJsonValue::String(
        create.event_id().to_string(),
    ));
    let pdu = crate::Pdu::from_object(object, room.rules).unwrap();
    assert!(room.check(&branch, &pdu).is_err());
    // The room of an unknown or rejected create event.
    let fetch = |id: &ruma::EventId| room.get(id).filter(|pdu| pdu.kind() != "m.room.create");
    assert!(crate::check_auth_events(&message, room.rules, fetch).is_err());
    assert!(
        room.say(&mut branch, "alice sends m.room.message {}")
            .is_ok()
    );
}
