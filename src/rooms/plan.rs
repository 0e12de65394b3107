//! May this event be in this room? The three checks of "Checks performed on receipt of a PDU" (server-server API), pure.

use std::collections::HashMap;

use resuni_dag::{Pdu, RoomRules, auth_types, check_auth_events, check_state};
use resuni_store::StoreError;
use ruma::EventId;

use crate::{reader::Reader, types::SnapNum};

/// The part of a state that an event's authorisation looks at.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuthState(HashMap<(String, String), Pdu>);

impl AuthState {
    /// Reads it from a state: the create event, and what `auth_types` names. Events whose content is too malformed to
    /// name anything are refused by the rules anyway.
    pub async fn read(
        reader: &Reader,
        snap: SnapNum,
        pdu: &Pdu,
        rules: &RoomRules,
    ) -> Result<Self, StoreError> {
        let types = auth_types(
            pdu.kind(),
            pdu.sender(),
            pdu.state_key(),
            pdu.content(),
            rules,
        );
        let mut types = types.unwrap_or_default();
        types.push(("m.room.create".to_owned(), String::new()));
        let mut state = HashMap::with_capacity(types.len());
        for (kind, key) in types {
            if let Some(event) = reader.state_pdu(snap, &kind, &key).await? {
                state.insert((kind, key), event);
            }
        }
        Ok(Self(state))
    }

    /// The state that consists of these events.
    pub fn of(events: impl IntoIterator<Item = Pdu>) -> Self {
        let entry = |pdu: Pdu| Some(((pdu.kind().to_owned(), pdu.state_key()?.to_owned()), pdu));
        Self(events.into_iter().filter_map(entry).collect())
    }

    /// The event of this type and key.
    pub fn get(&self, kind: &str, key: &str) -> Option<&Pdu> {
        self.0.get(&(kind.to_owned(), key.to_owned()))
    }

    fn check(&self, pdu: &Pdu, rules: &RoomRules) -> Result<(), String> {
        check_state(pdu, rules, |kind, key| self.get(kind, key).cloned()).map_err(|error| error.0)
    }
}

/// What an event is judged by.
pub(crate) struct Case<'a> {
    pub pdu: &'a Pdu,
    pub rules: &'a RoomRules,
    /// Its auth events, and in room version 12 the create event. Rejected ones carry their mark.
    pub auth: &'a [Pdu],
    /// The state before it.
    pub before: &'a AuthState,
    /// The current state, where that is another one.
    pub current: Option<&'a AuthState>,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    SoftFail(String),
    Reject(String),
}

/// Checks 4 to 6. The earlier ones, format, signatures and hashes, are made before an event gets here.
pub(crate) fn judge(case: &Case<'_>) -> Verdict {
    if let Err(reason) = judge_by_auth_events(case.pdu, case.rules, case.auth) {
        return Verdict::Reject(reason);
    }
    if let Err(reason) = case.before.check(case.pdu, case.rules) {
        return Verdict::Reject(format!("the state before the event forbids it: {reason}"));
    }
    match case
        .current
        .map(|current| current.check(case.pdu, case.rules))
    {
        None | Some(Ok(())) => Verdict::Accept,
        Some(Err(reason)) => Verdict::SoftFail(format!("the current state forbids it: {reason}")),
    }
}

/// Check 4 alone: all that can be asked of an outlier.
pub(crate) fn judge_by_auth_events(
    pdu: &Pdu,
    rules: &RoomRules,
    auth: &[Pdu],
) -> Result<(), String> {
    let find = |id: &EventId| auth.iter().find(|event| event.event_id() == id).cloned();
    check_auth_events(pdu, rules, find).map_err(|error| error.0)?;
    let by_auth = AuthState::of(auth.iter().cloned());
    by_auth
        .check(pdu, rules)
        .map_err(|reason| format!("its auth events forbid it: {reason}"))
}

/// An event of our own, which was given its auth events from the state before it: one check stands for two.
pub(crate) fn judge_own(pdu: &Pdu, rules: &RoomRules, before: &AuthState) -> Result<(), String> {
    if pdu.kind() == "m.room.create" {
        // All rules about it are among those that look at no state.
        return check_auth_events(pdu, rules, |_| None).map_err(|error| error.0);
    }
    before.check(pdu, rules)
}
