use super::*;
use crate::testing::Room;

fn state_event(line: &str) -> Pdu {
    let (mut room, branch) = Room::with("11", &["alice creates", "alice joins"]);
    room.make(&branch, line)
}

#[test]
fn history_visibility() {
    let of = |value: &str| {
        let line = format!("alice sets m.room.history_visibility / {value}");
        HistoryVisibility::of(Some(&state_event(&line)))
    };
    for visibility in ["joined", "invited", "shared", "world_readable"] {
        assert_eq!(
            HistoryVisibility::parse(visibility).unwrap().as_str(),
            visibility
        );
        let value = format!(r#"{{"history_visibility":"{visibility}"}}"#);
        assert_eq!(of(&value).as_str(), visibility);
    }
    assert_eq!(
        of(r#"{"history_visibility":"strange"}"#),
        HistoryVisibility::Shared
    );
    assert_eq!(of(r#"{"history_visibility":1}"#), HistoryVisibility::Shared);
    assert_eq!(HistoryVisibility::of(None), HistoryVisibility::Shared);
    assert!(HistoryVisibility::WorldReadable > HistoryVisibility::Joined);
}

#[test]
fn join_rules() {
    let of = |line: &str| JoinRule::of(Some(&state_event(line)));
    assert_eq!(JoinRule::of(None), JoinRule::Invite);
    assert_eq!(of("alice sets m.room.join_rules / {}"), JoinRule::Invite);
    for rule in [
        "public",
        "invite",
        "knock",
        "private",
        "restricted",
        "knock_restricted",
        "odd",
    ] {
        let read = of(&format!("alice rules {rule}"));
        assert_eq!(read.as_str(), rule);
        assert_eq!(read.knockable(), rule.starts_with("knock"));
        assert_eq!(read.allowed_rooms().is_some(), rule.ends_with("restricted"));
    }
    let allow = r#"{"allow":[{"type":"m.room_membership","room_id":"!a:one"},
        {"type":"m.other","room_id":"!b:one"},{"type":"m.room_membership"},7]}"#;
    let rule = of(&format!("alice rules restricted {allow}"));
    assert_eq!(rule.allowed_rooms().unwrap(), ["!a:one"]);
}
