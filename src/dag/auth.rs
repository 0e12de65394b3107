//! The authorisation rules, by ruma, on our events.

use ruma::events::{StateEventType, TimelineEventType};
use ruma::state_res::{
    auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules,
};
use ruma::{EventId, UserId};
use serde_json::value::RawValue;

use crate::{AuthError, Pdu, RoomRules};

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
    check_state_independent_auth_rules(&rules.ruma().authorization, pdu, fetch).map_err(AuthError)
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
    let fetch = |kind: &StateEventType, key: &str| state(&kind.to_string(), key);
    check_state_dependent_auth_rules(&rules.ruma().authorization, pdu, fetch).map_err(AuthError)
}

#[cfg(test)]
mod tests;
