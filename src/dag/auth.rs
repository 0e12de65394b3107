//! The authorisation rules, by ruma, on our events.

use std::sync::OnceLock;

use ruma::events::{StateEventType, TimelineEventType};
use ruma::state_res::{
    auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules,
};
use ruma::{EventId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{AuthError, Pdu, RoomRules, owned};

/// The state that an event must name in its `auth_events`, as far as it exists (server-server
/// API, "Auth events selection"): `(type, state key)`, none twice.
pub fn auth_types(
    kind: &str,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
    rules: &RoomRules,
) -> Result<Vec<(String, String)>, AuthError> {
    let kind = TimelineEventType::from(kind);
    let types = auth_types_for_event(
        &kind,
        sender,
        state_key,
        content,
        &rules.ruma().authorization,
    )
    .map_err(AuthError)?;
    Ok(types
        .into_iter()
        .map(|(kind, key)| (kind.to_string(), key))
        .collect())
}

/// The rules that look at the event and its `auth_events` only: checked once, on receipt.
///
/// `fetch` finds events by id; those that this server rejected must carry
/// [the mark](Pdu::mark_rejected). An unknown auth event is an error: ask for it first.
pub fn check_auth_events(
    pdu: &Pdu,
    rules: &RoomRules,
    fetch: impl Fn(&EventId) -> Option<Pdu>,
) -> Result<(), AuthError> {
    if pdu.kind() == "m.room.create" {
        check_room_version(pdu, rules)?;
    }
    check_state_independent_auth_rules(&rules.ruma().authorization, pdu, fetch).map_err(AuthError)
}

/// The version that a create event names (1 if none) must be the one whose rules are applied: the
/// auth rules refuse a version that isn't recognised, and any other would be a trick.
fn check_room_version(create: &Pdu, rules: &RoomRules) -> Result<(), AuthError> {
    #[derive(Deserialize)]
    struct Content {
        room_version: Option<String>,
    }
    let content: Content = create.content_as().map_err(|e| {
        AuthError(format!(
            "the create event's `room_version` is malformed: {e}"
        ))
    })?;
    let version = content.room_version.as_deref().unwrap_or("1");
    if version == rules.version.as_str() {
        Ok(())
    } else {
        let expected = &rules.version;
        Err(AuthError(format!(
            "the create event's `room_version` is {version}, not {expected}"
        )))
    }
}

/// The rules that depend on a state: checked against the auth events, against the state before
/// the event, and against the current state of the room (where a refusal means soft failure).
///
/// `state` finds the event of a `(type, state key)`. Besides [`auth_types`] the rules ask for
/// the create event, which in v12 is not among them.
pub fn check_state(
    pdu: &Pdu,
    rules: &RoomRules,
    state: impl Fn(&str, &str) -> Option<Pdu>,
) -> Result<(), AuthError> {
    let fetch = |kind: &StateEventType, key: &str| match state(&kind.to_string(), key) {
        None if *kind == StateEventType::RoomJoinRules && key.is_empty() => invite_only(),
        found => found,
    };
    let ruma = &rules.ruma().authorization;
    match owned::state_owner(pdu.kind(), pdu.state_key(), rules)? {
        // Where the owner's rule is kept, ruma is to see state that anybody may set.
        Some(owner) => {
            owned::check(pdu, owner, rules, &state)?;
            let pdu = owned::Unowned(pdu.clone());
            let fetch = |kind: &StateEventType, key: &str| fetch(kind, key).map(owned::Unowned);
            check_state_dependent_auth_rules(ruma, pdu, fetch).map_err(AuthError)
        }
        None => check_state_dependent_auth_rules(ruma, pdu, fetch).map_err(AuthError),
    }
}

/// What stands for the join rules of a room that has none: one joins by invite. The specification
/// is silent, other servers agree on it, and ruma would refuse every join.
fn invite_only() -> Option<Pdu> {
    static RULE: OnceLock<Option<Pdu>> = OnceLock::new();
    let json = r#"{"auth_events":[],"content":{"join_rule":"invite"},"depth":0,"hashes":{},
        "origin_server_ts":0,"prev_events":[],"room_id":"!default","sender":"@default:default",
        "signatures":{},"state_key":"","type":"m.room.join_rules"}"#;
    RULE.get_or_init(|| Pdu::from_canonical(EventId::parse("$default").ok()?, json).ok())
        .clone()
}

#[cfg(test)]
mod tests;
