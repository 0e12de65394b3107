use serde_json::{Value, json};

use super::*;
use crate::testing::{Room, rules};

fn event() -> Value {
    json!({
        "auth_events": ["$a"], "content": {"body": "hi"}, "depth": 3,
        "hashes": {"sha256": "x"}, "origin_server_ts": 5, "prev_events": ["$b"],
        "room_id": "!room:one", "sender": "@alice:one", "signatures": {}, "type": "m.room.message",
    })
}

/// Changes one thing in a good event; `expected` is `ok` or a part of the error.
#[track_caller]
fn check(version: &str, pointer: &str, value: Value, expected: &str) {
    let mut event = event();
    event
        .as_object_mut()
        .unwrap()
        .insert(pointer.to_owned(), value);
    let found = match Pdu::parse(&event.to_string(), rules(version)) {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.to_string(),
    };
    assert!(
        found.contains(expected),
        "{pointer}: {found}; expected {expected}"
    );
}

#[test]
fn fields() {
    check("11", "more", json!("kept"), "ok");
    check("11", "sender", json!("alice"), "`sender` is no user id");
    check(
        "11",
        "sender",
        json!(format!("@{}:one", "a".repeat(255))),
        "longer than 255",
    );
    check("11", "type", json!(1), "`type` must be a string");
    check("11", "type", json!("é".repeat(128)), "longer than 255");
    check("11", "state_key", json!("k".repeat(256)), "longer than 255");
    check(
        "11",
        "state_key",
        json!(null),
        "`state_key` must be a string",
    );
    check("11", "content", json!([]), "`content` must be an object");
    check("11", "hashes", json!(null), "`hashes` must be an object");
    check(
        "11",
        "signatures",
        json!(""),
        "`signatures` must be an object",
    );
    check("11", "depth", json!(-1), "negative");
    check("11", "depth", json!(9_007_199_254_740_991_u64), "ok");
    check(
        "11",
        "depth",
        json!(9_007_199_254_740_992_u64),
        "not canonical JSON",
    );
    check("11", "depth", json!("3"), "`depth` must be an integer");
    check("11", "origin_server_ts", json!(1.5), "not canonical JSON");
    check("11", "content", json!({"n": 1e3}), "not canonical JSON");
    check("11", "room_id", json!("room"), "no room id");
    check("11", "room_id", json!("!room"), "form of this room version");
}

#[test]
fn references() {
    let ids = |n: usize| {
        (0..n)
            .map(|i| json!(format!("$event{i}")))
            .collect::<Value>()
    };
    check("11", "prev_events", ids(20), "ok");
    check("11", "prev_events", ids(21), "more than 20");
    check("11", "auth_events", ids(10), "ok");
    check("11", "auth_events", ids(11), "more than 10");
    check("11", "prev_events", json!(["$a", "$a"]), "twice");
    check("11", "auth_events", json!(["a"]), "no event id");
    check("11", "auth_events", json!([["$a", {}]]), "no event id");
    check(
        "11",
        "prev_events",
        json!([format!("${}", "a".repeat(255))]),
        "no event id",
    );
    check("11", "prev_events", json!({}), "must be an array");
}

#[test]
fn size_and_nesting() {
    let sized = |n: usize| {
        let mut event = event();
        event["content"]["body"] = json!("");
        let rest = event.to_string().len();
        event["content"]["body"] = json!("x".repeat(n - rest));
        Pdu::parse(&event.to_string(), rules("11"))
    };
    assert_eq!(
        sized(limits::PDU_BYTES).unwrap().json().len(),
        limits::PDU_BYTES
    );
    assert!(matches!(
        sized(limits::PDU_BYTES + 1),
        Err(FormatError::TooLarge { .. })
    ));

    let nested = |n: usize| {
        let value = format!("{}{}", "[".repeat(n), "]".repeat(n));
        let json = event()
            .to_string()
            .replace(r#"{"body":"hi"}"#, &format!("{{\"a\":{value}}}"));
        Pdu::parse(&json, rules("11"))
    };
    // The event and its content are two levels.
    assert!(nested(limits::JSON_DEPTH - 2).is_ok());
    assert!(matches!(
        nested(limits::JSON_DEPTH - 1),
        Err(FormatError::TooDeep { .. })
    ));
    assert!(nested(200_000).is_err());
    assert!(check_nesting(r#"{"a":"[[[[\"[["}"#, 1).is_ok());
}

#[test]
fn rooms_of_version_12() {
    let hash = "!abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ";
    check("12", "room_id", json!(hash), "ok");
    check(
        "12",
        "room_id",
        json!("!room:one"),
        "form of this room version",
    );
    let mut create = event();
    create["type"] = json!("m.room.create");
    create["state_key"] = json!("");
    let refused = Pdu::parse(&create.to_string(), rules("12")).unwrap_err();
    assert!(refused.to_string().contains("must be absent"));
    assert!(Pdu::parse(&create.to_string(), rules("11")).is_ok());
    create.as_object_mut().unwrap().remove("room_id");
    let pdu = Pdu::parse(&create.to_string(), rules("12")).unwrap();
    assert_eq!(pdu.room_id().as_str()[1..], pdu.event_id().as_str()[1..]);
    assert!(Pdu::parse(&create.to_string(), rules("11")).is_err());
}

#[test]
fn what_is_kept_is_the_canonical_json_that_was_signed() {
    let mut foreign = event();
    foreign["unsigned"] = json!({"age": 5});
    foreign["event_id"] = json!("$lie");
    foreign["zzz"] = json!({"b": "\u{1}é", "a": [1, null, true]});
    let pdu = Pdu::parse(&format!(" {foreign:#}\n"), rules("11")).unwrap();
    for gone in ["unsigned", "event_id", "\n", ": "] {
        assert!(!pdu.json().contains(gone), "{gone}");
    }
    assert!(
        pdu.json()
            .ends_with(r#""zzz":{"a":[1,null,true],"b":"\u0001é"}}"#)
    );
    assert_eq!(pdu.content().get(), r#"{"body":"hi"}"#);
    let again = Pdu::from_canonical(pdu.event_id().to_owned(), pdu.json()).unwrap();
    assert_eq!(again, pdu);
    assert_eq!(again.prev_events(), pdu.prev_events());
    assert_eq!((again.depth(), again.origin_server_ts()), (3, 5));
}

#[test]
fn the_target_of_a_redaction_is_where_the_version_has_it() {
    let mut redaction = event();
    redaction["type"] = json!("m.room.redaction");
    redaction["redacts"] = json!("$top");
    redaction["content"] = json!({"redacts": "$content"});
    let target = |version: &str, event: &Value| {
        let rules = rules(version);
        let pdu = Pdu::parse(&event.to_string(), rules).unwrap();
        pdu.redacts(rules).map(ToString::to_string)
    };
    assert_eq!(target("10", &redaction).as_deref(), Some("$top"));
    assert_eq!(target("11", &redaction).as_deref(), Some("$content"));
    redaction["content"] = json!({"redacts": 5});
    assert_eq!(target("11", &redaction), None);
    redaction["type"] = json!("m.room.message");
    assert_eq!(target("10", &redaction), None);
}

proptest::proptest! {
    /// Whatever comes in, the answer is an event or an error.
    #[test]
    fn nothing_panics(json in "\\PC{0,200}") {
        let _ = Pdu::parse(&json, rules("12"));
    }

    #[test]
    fn parsing_is_stable(body in "\\PC{0,40}", key in "\\PC{0,10}", n in -9_007_199_254_740_991_i64..=9_007_199_254_740_991) {
        let (mut room, branch) = Room::with("12", &["alice creates", "alice joins"]);
        let content = json!({ key: n, "body": body });
        let pdu = room.make(&branch, &format!("alice sends m.room.message {content}"));
        let again = Pdu::parse(pdu.json(), room.rules).unwrap();
        proptest::prop_assert_eq!(again, pdu);
    }
}

#[test]
fn before_version_11_sizes_are_counted_in_characters() {
    for (version, bytes) in [("10", false), ("11", true)] {
        let expected = if bytes { "longer than 255" } else { "ok" };
        check(version, "state_key", json!("é".repeat(255)), expected);
        check(version, "type", json!("é".repeat(255)), expected);
        check(version, "type", json!("é".repeat(256)), "longer than 255");
    }
}

/// An event of version 1 or 2.
fn old() -> Value {
    let mut event = event();
    event["event_id"] = json!("$chosen:one");
    event["auth_events"] = json!([["$a:one", {"sha256": "aGFzaA"}]]);
    event["prev_events"] = json!([["$b:one", {}]]);
    event
}

#[test]
fn up_to_version_2_the_event_says_its_id() {
    for version in ["1", "2"] {
        let pdu = Pdu::parse(&old().to_string(), rules(version)).unwrap();
        assert_eq!(pdu.event_id(), "$chosen:one");
        assert!(
            pdu.json().contains("$chosen:one"),
            "it is signed with the rest"
        );
        assert_eq!(
            (pdu.auth_events()[0].as_str(), pdu.prev_events()[0].as_str()),
            ("$a:one", "$b:one")
        );
        let kept = Pdu::from_canonical(pdu.event_id().to_owned(), pdu.json()).unwrap();
        assert_eq!(kept, pdu);
    }
    for (field, value) in [
        ("event_id", json!(null)),
        ("event_id", json!("$nowhere")),
        ("event_id", json!("chosen:one")),
        ("event_id", json!(format!("${}:one", "x".repeat(255)))),
        ("auth_events", json!(["$a:one"])),
        ("prev_events", json!([["$b:one"]])),
        ("prev_events", json!([["$b:one", "hash"]])),
        ("prev_events", json!([["b", {}]])),
        (
            "prev_events",
            json!([["$b:one", {}], ["$b:one", {"sha256": "x"}]]),
        ),
        ("prev_events", json!([["$chosen:one", {}]])),
    ] {
        let mut bad = old();
        bad[field] = value;
        let parsed = Pdu::parse(&bad.to_string(), rules("1"));
        assert!(parsed.is_err(), "{field}: {bad}");
    }
    // Later the pairs are wrong, and an id that the event says means nothing.
    assert!(Pdu::parse(&old().to_string(), rules("3")).is_err());
    let mut lying = event();
    lying["event_id"] = json!("$lie");
    let honest = Pdu::parse(&event().to_string(), rules("3")).unwrap();
    let lying = Pdu::parse(&lying.to_string(), rules("3")).unwrap();
    assert_eq!(lying.event_id(), honest.event_id());
}
