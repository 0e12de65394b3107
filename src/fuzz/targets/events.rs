//! An event of every room version: whatever the bytes are, the answer is an event or an error, and an event that was
//! read is read again as the same one.

use resuni_dag::{
    HistoryVisibility, JoinRule, Pdu, PowerLevels, RoomRules, ServerAcl, VerifyKeys, auth_types,
    check_auth_events, check_state, limits, redact, redact_content_for_client, required_signatures,
    verify,
};
use ruma::{CanonicalJsonObject, server_name};

/// What events are made of.
pub const WORDS: &[&str] = &[
    "\"auth_events\":[]",
    "\"content\":{}",
    "\"depth\":1",
    "\"event_id\":\"$a:b\"",
    "\"hashes\":{}",
    "\"prev_events\":[\"$x\"]",
    "\"redacts\":\"$a:b\"",
    "\"room_id\":\"!r:b\"",
    "\"sender\":\"@a:b\"",
    "\"signatures\":{\"b\":{\"ed25519:1\":\"x\"}}",
    "\"state_key\":\"\"",
    "\"third_party_invite\":{\"signed\":{\"token\":\"x\",\"mxid\":\"@a:b\"}}",
    "\"join_authorised_via_users_server\":\"@a:b\"",
    "\"users\":{\"@a:b\":\"100\"}",
    "\"allow\":[{\"type\":\"m.room_membership\",\"room_id\":\"!a:b\"}]",
    "m.room.create",
    "m.room.member",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.redaction",
    "m.room.aliases",
    "m.room.server_acl",
    "m.room.third_party_invite",
    "m.room.history_visibility",
    "\\u0000",
    "null",
    "[[[[",
];

/// Reads the bytes as an event of each version.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for rules in RoomRules::all() {
        if let Ok(pdu) = Pdu::parse(text, rules) {
            within_limits(&pdu);
            stable(&pdu, rules);
            redacted(&pdu, rules);
            judged(&pdu, rules);
        }
    }
}

fn within_limits(pdu: &Pdu) {
    assert!(pdu.json().len() <= limits::PDU_BYTES);
    assert!(pdu.prev_events().len() <= limits::PREV_EVENTS);
    assert!(pdu.auth_events().len() <= limits::AUTH_EVENTS);
    assert!(pdu.depth() <= limits::MAX_INTEGER);
}

fn stable(pdu: &Pdu, rules: &RoomRules) {
    let again = Pdu::parse(pdu.json(), rules).expect("what was read is read again");
    assert_eq!(again, *pdu);
    let kept = Pdu::from_canonical(pdu.event_id().to_owned(), pdu.json()).unwrap();
    for other in [&again, &kept] {
        assert_eq!(other.room_id(), pdu.room_id());
        assert_eq!(other.prev_events(), pdu.prev_events());
        assert_eq!(other.auth_events(), pdu.auth_events());
        assert_eq!(other.redacts(rules), pdu.redacts(rules));
    }
    let object: CanonicalJsonObject = serde_json::from_str(pdu.json()).unwrap();
    assert_eq!(serde_json::to_string(&object).unwrap(), pdu.json());
}

/// What is left of a redacted event has its id, and can't be redacted further.
fn redacted(pdu: &Pdu, rules: &RoomRules) {
    let Ok(short) = redact(pdu, rules) else {
        return;
    };
    assert_eq!(short.event_id(), pdu.event_id());
    assert_eq!(redact(&short, rules).unwrap(), short);
    let again = Pdu::parse(short.json(), rules).expect("a redacted event is an event");
    assert_eq!(again, short);
    let _ = redact_content_for_client(pdu.kind(), pdu.content(), rules);
}

/// All that reads content which anybody may have written.
fn judged(pdu: &Pdu, rules: &RoomRules) {
    let _ = auth_types(
        pdu.kind(),
        pdu.sender(),
        pdu.state_key(),
        pdu.content(),
        rules,
    );
    let _ = check_auth_events(pdu, rules, |_| None);
    let _ = check_state(pdu, rules, |_, _| None);
    // Its own content where the rules look for that of others.
    let _ = check_state(pdu, rules, |_, _| Some(pdu.clone()));
    let _ = required_signatures(pdu, rules);
    let _ = verify(pdu, rules, &VerifyKeys::default());
    let _ = PowerLevels::read(pdu, Some(pdu), rules);
    let _ = JoinRule::of(Some(pdu));
    let _ = HistoryVisibility::of(Some(pdu));
    let _ = ServerAcl::read(pdu.content()).allows(server_name!("b"));
}
