use serde_json::{Value, json};

use super::*;
use crate::testing::{Room, rules};

#[track_caller]
fn check(version: &str, line: &str, expected: Value) {
    let (mut room, branch) = Room::with(version, &["alice creates", "alice joins"]);
    let pdu = room.make(&branch, line);
    let redacted = redact(&pdu, room.rules).unwrap();
    assert_eq!(redacted.event_id(), pdu.event_id());
    assert_eq!(
        redacted.content_as::<Value>().unwrap(),
        expected,
        "v{version} {line}"
    );
    let again = Pdu::parse(redacted.json(), room.rules).unwrap();
    assert_eq!(again, redacted, "its hash is still its id");
    let client = redact_content_for_client(pdu.kind(), pdu.content(), room.rules).unwrap();
    assert_eq!(client.get(), redacted.content().get());
}

#[test]
fn what_each_version_keeps() {
    for version in crate::SUPPORTED {
        check(
            version,
            r#"alice sends m.room.message {"body":"secret"}"#,
            json!({}),
        );
    }
    let join = r#"alice joins {"displayname":"A","join_authorised_via_users_server":"@a:one"}"#;
    check("8", join, json!({"membership": "join"}));
    let kept = json!({"membership": "join", "join_authorised_via_users_server": "@a:one"});
    check("9", join, kept);
    let restricted = r#"alice rules restricted {"allow":[],"more":1}"#;
    check("7", restricted, json!({"join_rule": "restricted"}));
    check(
        "8",
        restricted,
        json!({"join_rule": "restricted", "allow": []}),
    );
    let aliases = r#"alice sets m.room.aliases /one {"aliases":[],"more":1}"#;
    check("1", aliases, json!({"aliases": []}));
    check("5", aliases, json!({"aliases": []}));
    check("6", aliases, json!({}));
    let power = r#"alice power {"invite":1,"ban":2,"notifications":{"room":3}}"#;
    check("10", power, json!({"ban": 2}));
    check("11", power, json!({"ban": 2, "invite": 1}));
    let redaction = r#"alice sends m.room.redaction {"redacts":"$x","reason":"r"}"#;
    check("10", redaction, json!({}));
    check("11", redaction, json!({"redacts": "$x"}));
    let third_party =
        r#"alice invites bob {"third_party_invite":{"display_name":"b","signed":{"token":"t"}}}"#;
    check("10", third_party, json!({"membership": "invite"}));
    let kept = json!({"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}});
    check("12", third_party, kept);
}

#[test]
fn a_create_event_keeps_its_content_since_version_11() {
    for (version, kept) in [("10", false), ("11", true), ("12", true)] {
        let (room, branch) = Room::with(version, &[r#"alice creates {"type":"m.space"}"#]);
        let create = room.create_of(&branch).unwrap();
        let redacted = redact(&create, rules(version)).unwrap();
        assert_eq!(redacted.room_id(), create.room_id());
        let content: Value = redacted.content_as().unwrap();
        assert_eq!(content.get("type").is_some(), kept);
        assert!(
            redact(&create.mark_rejected(), rules(version))
                .unwrap()
                .is_rejected()
        );
    }
}
