//! What another server answers to `make_join` and its kin, and what of it we sign.
//!
//! Signing whatever comes back would let that server have any event signed in our name, so nothing of
//! the answer is signed as it is: a new event is made that takes only its place in the graph from it, and the
//! fields that the specification makes the caller compare are compared (v1.18; see also CVE-2026-24471).

use resuni_dag::{Draft, Reference, RoomRules, limits};
use ruma::{OwnedUserId, RoomId, ServerName, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

/// What the event has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub room: &'a RoomId,
    pub user: &'a UserId,
    /// `join`, `leave` or `knock`.
    pub membership: &'a str,
    /// Who made the template.
    pub server: &'a ServerName,
}

#[derive(Deserialize)]
struct Template {
    #[serde(rename = "type")]
    kind: String,
    room_id: String,
    sender: String,
    state_key: String,
    content: Content,
    prev_events: Vec<Reference>,
    auth_events: Vec<Reference>,
    depth: u64,
}

#[derive(Deserialize)]
struct Content {
    membership: String,
    join_authorised_via_users_server: Option<OwnedUserId>,
}

/// The event to sign, or why the template is refused. `extra` is what our user wants in the content:
/// display name, avatar, reason.
pub(crate) fn draft(
    template: &RawValue,
    expected: Expected<'_>,
    rules: &RoomRules,
    extra: Map<String, Value>,
    now_ms: u64,
) -> Result<Draft, String> {
    if template.get().len() > limits::PDU_BYTES {
        return Err("the template is too large".to_owned());
    }
    let template: Template = serde_json::from_str(template.get())
        .map_err(|e| format!("the template is malformed: {e}"))?;
    let same = |field: &str, found: &str, wanted: &str| {
        if found == wanted {
            Ok(())
        } else {
            Err(format!(
                "the template's {field} is {found:?} and not {wanted:?}"
            ))
        }
    };
    same("type", &template.kind, "m.room.member")?;
    same("room_id", &template.room_id, expected.room.as_str())?;
    same("sender", &template.sender, expected.user.as_str())?;
    same("state_key", &template.state_key, expected.user.as_str())?;
    same(
        "membership",
        &template.content.membership,
        expected.membership,
    )?;
    let mut content = extra;
    content.insert("membership".to_owned(), expected.membership.into());
    content.remove("join_authorised_via_users_server");
    if let Some(authorised_by) = template.content.join_authorised_via_users_server {
        if expected.membership != "join" || !rules.restricted_joins() {
            return Err("the template names who authorises a join where nobody has to".to_owned());
        }
        // "An arbitrary user ID belonging to the resident server": nobody else could sign for them.
        if authorised_by.server_name() != expected.server {
            return Err(format!(
                "{authorised_by}, who is to authorise the join, is elsewhere"
            ));
        }
        content.insert(
            "join_authorised_via_users_server".to_owned(),
            authorised_by.as_str().into(),
        );
    }
    let content = serde_json::value::to_raw_value(&content).map_err(|e| e.to_string())?;
    Ok(Draft {
        room_id: Some(expected.room.to_owned()),
        sender: expected.user.to_owned(),
        kind: "m.room.member".to_owned(),
        state_key: Some(expected.user.to_string()),
        content,
        redacts: None,
        prev_events: template.prev_events,
        auth_events: template.auth_events,
        depth: template.depth,
        origin_server_ts: now_ms,
        sticky_ms: None,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use ruma::{RoomVersionId, room_id, server_name, user_id};
    use serde_json::json;

    use super::*;

    fn template() -> Value {
        json!({
            "type": "m.room.member", "room_id": "!r:b.test", "sender": "@u:a.test",
            "state_key": "@u:a.test", "content": { "membership": "join", "evil": true },
            "prev_events": ["$acR1l0raoZnm60CBwAVgqbZqoO_mYU81xysh1u7XcJk"],
            "auth_events": [], "depth": 7, "origin_server_ts": 1,
            "redacts": "$x", "unsigned": {}, "signatures": {}, "extra": "field",
        })
    }

    fn read(template: &Value) -> Result<Draft, String> {
        let rules = RoomRules::of(&RoomVersionId::V11).unwrap();
        let expected = Expected {
            room: room_id!("!r:b.test"),
            user: user_id!("@u:a.test"),
            membership: "join",
            server: server_name!("b.test"),
        };
        let extra = json!({ "displayname": "U" }).as_object().unwrap().clone();
        let raw = serde_json::value::to_raw_value(template).unwrap();
        draft(&raw, expected, rules, extra, 42)
    }

    #[test]
    fn only_the_place_in_the_graph_is_taken() {
        let draft = read(&template()).unwrap();
        assert_eq!(
            draft.content.get(),
            r#"{"displayname":"U","membership":"join"}"#
        );
        assert_eq!(
            (draft.depth, draft.origin_server_ts, draft.redacts),
            (7, 42, None)
        );
        assert_eq!(draft.prev_events.len(), 1);
    }

    #[test]
    fn another_event_is_not_signed() {
        for (pointer, value) in [
            ("/type", json!("m.room.power_levels")),
            ("/room_id", json!("!other:b.test")),
            ("/sender", json!("@victim:a.test")),
            ("/state_key", json!("@victim:a.test")),
            ("/state_key", json!(null)),
            ("/content/membership", json!("leave")),
            (
                "/content",
                json!({ "membership": "join", "join_authorised_via_users_server": "@x:c.test" }),
            ),
            (
                "/content",
                json!({ "membership": "join", "join_authorised_via_users_server": 7 }),
            ),
            ("/prev_events", json!("none")),
            ("/auth_events", json!([1])),
            ("/depth", json!(-1)),
            (
                "/content",
                json!({ "membership": "join", "padding": "x".repeat(70_000) }),
            ),
        ] {
            let mut bad = template();
            *bad.pointer_mut(pointer).unwrap() = value;
            assert!(read(&bad).is_err(), "{pointer}");
        }
    }

    #[test]
    fn the_resident_server_may_authorise() {
        let mut restricted = template();
        restricted["content"]["join_authorised_via_users_server"] = json!("@mod:b.test");
        assert!(
            read(&restricted)
                .unwrap()
                .content
                .get()
                .contains("@mod:b.test")
        );
    }
}
