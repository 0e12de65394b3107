use std::collections::BTreeMap;

use ruma::{owned_server_name, server_name};
use serde_json::{Value, json};

use super::*;
use crate::VerifyKey;
use crate::testing::{Room, key, rules};

/// The key of the specification (appendices, "Cryptographic Test Vectors").
fn spec_key() -> SigningKey {
    SigningKey::from_text("ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap()
}

fn signed(object: Value) -> Value {
    let mut object = serde_json::from_value(object).unwrap();
    sign_json(&mut object, server_name!("domain"), &spec_key()).unwrap();
    serde_json::to_value(object).unwrap()
}

#[test]
fn the_vectors_of_the_specification() {
    assert_eq!(
        signed(json!({}))["signatures"]["domain"]["ed25519:1"],
        "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"
    );
    assert_eq!(
        signed(json!({"one": 1, "two": "Two"}))["signatures"]["domain"]["ed25519:1"],
        "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"
    );
    // Its `origin` is signed in the versions that keep it when they redact.
    let event = json!({
        "room_id": "!x:domain", "sender": "@a:domain", "origin": "domain",
        "origin_server_ts": 1_000_000, "signatures": {}, "hashes": {}, "type": "X", "content": {},
        "prev_events": [], "auth_events": [], "depth": 3, "unsigned": {"age_ts": 1_000_000},
    });
    let object = serde_json::from_value(event).unwrap();
    let pdu = sign_object(object, rules("10"), server_name!("domain"), &spec_key()).unwrap();
    let json: Value = serde_json::from_str(pdu.json()).unwrap();
    assert_eq!(
        json["hashes"]["sha256"],
        "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"
    );
    assert_eq!(
        json["signatures"]["domain"]["ed25519:1"],
        "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"
    );
}

fn keys_of(server: &str, key: &SigningKey, valid_until_ts: u64) -> VerifyKeys {
    let public = VerifyKey {
        key: key.public_key(),
        valid_until_ts,
    };
    let keys = BTreeMap::from([(key.key_id(), public)]);
    VerifyKeys::from([(server.try_into().unwrap(), keys)])
}

fn message(version: &str) -> (Room, Pdu) {
    let (mut room, branch) = Room::with(version, &["alice creates", "alice joins"]);
    let pdu = room.make(&branch, r#"alice sends m.room.message {"body":"hi"}"#);
    (room, pdu)
}

fn change(pdu: &Pdu, rules: &RoomRules, pointer: &str, value: Value) -> Pdu {
    let mut json: Value = serde_json::from_str(pdu.json()).unwrap();
    *json.pointer_mut(pointer).unwrap() = value;
    Pdu::parse(&json.to_string(), rules).unwrap()
}

#[test]
fn a_signed_event_verifies_and_a_changed_one_does_not() {
    for version in crate::SUPPORTED {
        let (room, pdu) = message(version);
        let keys = keys_of("one", &key(), u64::MAX);
        assert_eq!(verify(&pdu, room.rules, &keys).unwrap(), Verified::All);
        // Changed content: the hash tells, and the redacted event is as good as before.
        let changed = change(&pdu, room.rules, "/content/body", json!("other"));
        assert_eq!(changed.event_id(), pdu.event_id());
        assert!(is_whole(&pdu).unwrap() && !is_whole(&changed).unwrap());
        assert_eq!(
            verify(&changed, room.rules, &keys).unwrap(),
            Verified::HashMismatch
        );
        // Anything that redaction keeps is signed.
        let forged = change(&pdu, room.rules, "/depth", json!(7));
        let error = verify(&forged, room.rules, &keys).unwrap_err();
        assert!(matches!(error, SignatureError::Invalid { .. }), "{error}");
        let impostor = SigningKey::generate("1", [8; 32]).unwrap();
        let wrong = keys_of("one", &impostor, u64::MAX);
        assert!(matches!(
            verify(&pdu, room.rules, &wrong),
            Err(SignatureError::Invalid { .. })
        ));
    }
}

#[test]
fn a_key_must_be_known_and_valid_at_that_time() {
    let (room, pdu) = message("12");
    let at = pdu.origin_server_ts();
    let check = |keys: &VerifyKeys| verify(&pdu, room.rules, keys);
    assert!(check(&keys_of("one", &key(), at)).is_ok());
    let usable = |keys| !matches!(check(&keys), Err(SignatureError::NoUsableKey(_)));
    assert!(!usable(keys_of("one", &key(), at - 1)));
    assert!(!usable(keys_of("two", &key(), at)));
    assert!(!usable(VerifyKeys::new()));
    let unsigned = change(&pdu, room.rules, "/signatures", json!({}));
    let found = verify(&unsigned, room.rules, &keys_of("one", &key(), at));
    assert!(matches!(found, Err(SignatureError::Unsigned(_))));
}

#[test]
fn who_must_sign() {
    let required = |line: &str| {
        let (mut room, branch) = Room::with("12", &["alice creates", "alice joins"]);
        let pdu = room.make(&branch, line);
        let servers = required_signatures(&pdu, room.rules).unwrap();
        servers
            .into_iter()
            .map(|(server, _)| server.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(required("bob@two sends m.room.message {}"), ["two"]);
    let via = r#"{"join_authorised_via_users_server":"@carol:three"}"#;
    assert_eq!(required(&format!("bob@two joins {via}")), ["three", "two"]);
    assert_eq!(
        required(&format!("bob@two sends m.room.message {via}")),
        ["two"]
    );
    assert_eq!(required("alice invites bob@two"), ["one"]);
    let third_party = r#"alice invites bob@two {"third_party_invite":{"signed":{}}}"#;
    assert!(required(third_party).is_empty());
}

#[test]
fn a_second_server_signs_the_same_event() {
    let (mut room, branch) = Room::with("12", &["alice creates", "alice joins"]);
    let line = r#"bob joins {"join_authorised_via_users_server":"@carol:three"}"#;
    let join = room.make(&branch, line);
    let other = SigningKey::generate("x", [9; 32]).unwrap();
    let both = cosign(&join, room.rules, server_name!("three"), &other).unwrap();
    assert_eq!(both.event_id(), join.event_id());
    let needed = required_signatures(&both, room.rules).unwrap();
    let id = |id: &str| vec![id.to_owned()];
    let expected = [
        (owned_server_name!("one"), id("ed25519:1")),
        (owned_server_name!("three"), id("ed25519:x")),
    ];
    assert_eq!(needed, expected);
    let mut keys = keys_of("one", &key(), u64::MAX);
    let first_only = verify(&both, room.rules, &keys);
    assert!(matches!(first_only, Err(SignatureError::NoUsableKey(_))));
    keys.extend(keys_of("three", &other, u64::MAX));
    assert_eq!(verify(&both, room.rules, &keys).unwrap(), Verified::All);
}

#[test]
fn json_signatures() {
    let object = serde_json::from_value(signed(json!({"a": 1, "unsigned": {"b": 2}}))).unwrap();
    let keys = keys_of("domain", &spec_key(), 10);
    let check = |at| verify_json(&object, server_name!("domain"), &keys, at);
    assert!(check(None).is_ok());
    assert!(check(Some(10)).is_ok());
    assert!(check(Some(11)).is_err());
    assert!(verify_json(&object, server_name!("other"), &keys, None).is_err());
}

#[test]
fn keys_as_text() {
    let key = spec_key();
    assert_eq!(key.key_id(), "ed25519:1");
    let again = SigningKey::from_text(&key.to_text()).unwrap();
    assert_eq!(again.public_key(), key.public_key());
    assert_eq!(
        VerifyKey::from_base64(&key.public_key_base64(), 1)
            .unwrap()
            .key,
        key.public_key()
    );
    assert!(!format!("{key:?}").contains("YJDB"));
    for bad in [
        "",
        "ed25519 1",
        "rsa 1 AAAA",
        "ed25519 1 AAAA",
        "ed25519 a:b AAAA",
    ] {
        assert!(SigningKey::from_text(bad).is_err(), "{bad}");
    }
    assert!(SigningKey::generate("a b", [0; 32]).is_err());
    assert!(VerifyKey::from_base64("AAAA", 1).is_none());
}

#[test]
fn a_redaction_draft_names_its_target_where_the_version_has_it() {
    for version in crate::SUPPORTED {
        let (mut room, branch) = Room::with(version, &["alice creates", "alice joins"]);
        let like = room.make(&branch, "alice sends m.room.redaction {}");
        let draft = Draft {
            room_id: Some(like.room_id().to_owned()),
            sender: like.sender().to_owned(),
            kind: like.kind().to_owned(),
            state_key: None,
            content: like.content().to_owned(),
            redacts: Some("$target".try_into().unwrap()),
            prev_events: references(like.prev_events()),
            auth_events: references(like.auth_events()),
            depth: like.depth(),
            origin_server_ts: like.origin_server_ts(),
            sticky_ms: None,
        };
        let pdu = sign(draft, room.rules, server_name!("one"), &key()).unwrap();
        assert_eq!(pdu.redacts(room.rules).unwrap(), "$target");
        assert_eq!(
            pdu.content().get().contains("$target"),
            room.rules.redacts_in_content()
        );
    }
}

fn references(ids: &[ruma::OwnedEventId]) -> Vec<Reference> {
    let hashed = |id: &ruma::OwnedEventId| Reference {
        id: id.clone(),
        sha256: Some("aGFzaA".to_owned()),
    };
    ids.iter().map(hashed).collect()
}

#[test]
fn up_to_version_2_the_server_in_the_event_id_signs_too() {
    let (mut room, branch) = Room::with("2", &["alice creates", "alice joins"]);
    let pdu = room.make(&branch, "alice sends m.room.message {}");
    assert_eq!(pdu.event_id().server_name().unwrap(), "one");
    let servers = |pdu: &Pdu, rules| {
        let required = required_signatures(pdu, rules).unwrap();
        required
            .into_iter()
            .map(|(server, _)| server.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(servers(&pdu, room.rules), ["one"]);
    let elsewhere = Pdu::from_canonical("$x:two".try_into().unwrap(), pdu.json()).unwrap();
    assert_eq!(servers(&elsewhere, room.rules), ["one", "two"]);
    assert_eq!(servers(&elsewhere, crate::testing::rules("3")), ["one"]);
}

#[test]
fn ids_that_are_chosen_differ_with_the_event() {
    let (mut room, branch) = Room::with("1", &["alice creates", "alice joins"]);
    let one = room.make(&branch, r#"alice sends m.room.message {"body":"1"}"#);
    let two = room.make(&branch, r#"alice sends m.room.message {"body":"2"}"#);
    assert_ne!(one.event_id(), two.event_id());
    // Two signatures are no other event.
    let again = cosign(&one, room.rules, server_name!("two"), &key()).unwrap();
    assert_eq!(again.event_id(), one.event_id());
}
