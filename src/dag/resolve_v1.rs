//! State resolution v1 (room version 1, "State resolution").
//!
//! Where the specification leaves a choice, it is made as Synapse makes it, since rooms of this
//! version were nearly all made by it: members are resolved one by one against the state as it was
//! before the first of them, and where no event passes, the one of least depth is taken.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ruma::{EventId, OwnedEventId};
use sha1::{Digest, Sha1};

use crate::{Conflict, Pdu, ResolveError, RoomRules, StateKey, check_state};

/// The events of the keys on which the states disagree. In this version a key that only some of
/// the states have is no conflict: its event stays.
pub(crate) fn resolve(
    conflict: &Conflict,
    rules: &RoomRules,
) -> Result<BTreeMap<StateKey, OwnedEventId>, ResolveError> {
    let mut candidates: BTreeMap<&StateKey, BTreeSet<&EventId>> = BTreeMap::new();
    for (key, id) in conflict.forks.iter().flatten() {
        candidates.entry(key).or_default().insert(id);
    }
    let mut resolution = Resolution {
        conflict,
        rules,
        state: BTreeMap::new(),
    };
    let mut conflicts = Vec::new();
    for (key, ids) in candidates {
        let pdus = resolution.by_depth(ids)?;
        match &pdus[..] {
            [only] => {
                resolution
                    .state
                    .insert(key.clone(), only.event_id().to_owned());
            }
            _ => conflicts.push((key, pdus)),
        }
    }
    for pass in [
        Pass::PowerLevels,
        Pass::JoinRules,
        Pass::Members,
        Pass::Rest,
    ] {
        let mut chosen = Vec::new();
        for (key, pdus) in conflicts.iter().filter(|(key, _)| Pass::of(key) == pass) {
            let event = match pass {
                Pass::Rest => resolution.newest_allowed(pdus),
                _ => resolution.last_of_the_allowed(key, pdus),
            };
            chosen.extend(event.map(|pdu| ((*key).clone(), pdu.event_id().to_owned())));
        }
        resolution.state.extend(chosen);
    }
    Ok(resolution.state)
}

/// The passes in their order: what authorises comes before what it authorises.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    PowerLevels,
    JoinRules,
    Members,
    Rest,
}

impl Pass {
    fn of((kind, state_key): &StateKey) -> Self {
        match (kind.as_str(), state_key.as_str()) {
            ("m.room.power_levels", "") => Self::PowerLevels,
            ("m.room.join_rules", _) => Self::JoinRules,
            ("m.room.member", _) => Self::Members,
            _ => Self::Rest,
        }
    }
}

struct Resolution<'a> {
    conflict: &'a Conflict,
    rules: &'a RoomRules,
    /// *R* of the specification, without the entries on which all states agree.
    state: BTreeMap<StateKey, OwnedEventId>,
}

impl<'a> Resolution<'a> {
    /// By ascending depth and then descending `sha1(event_id)`.
    fn by_depth(&self, ids: BTreeSet<&EventId>) -> Result<Vec<&'a Pdu>, ResolveError> {
        let mut pdus = ids
            .into_iter()
            .map(|id| {
                let pdu = self.conflict.events.get(id);
                pdu.ok_or_else(|| ResolveError::Missing(id.to_owned()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        pdus.sort_by_cached_key(|pdu| (pdu.depth(), Reverse(sha1(pdu.event_id()))));
        Ok(pdus)
    }

    /// Of events that authorise others: each that the one before it allows takes its place, up to
    /// the first that isn't allowed.
    fn last_of_the_allowed(&self, key: &StateKey, pdus: &[&'a Pdu]) -> Option<&'a Pdu> {
        let (&first, rest) = pdus.split_first()?;
        let mut last = first;
        for &pdu in rest {
            if !self.allows(pdu, Some((key, last))) {
                break;
            }
            last = pdu;
        }
        Some(last)
    }

    /// Of all other events: the one of greatest depth that is allowed.
    fn newest_allowed(&self, pdus: &[&'a Pdu]) -> Option<&'a Pdu> {
        let allowed = pdus.iter().rev().find(|pdu| self.allows(pdu, None));
        allowed.or(pdus.first()).copied()
    }

    /// Whether the auth rules allow an event in *R*, with one more entry laid over it.
    fn allows(&self, pdu: &Pdu, over: Option<(&StateKey, &Pdu)>) -> bool {
        let find = |kind: &str, state_key: &str| {
            let key = (kind.to_owned(), state_key.to_owned());
            if let Some((_, pdu)) = over.filter(|(over, _)| **over == key) {
                return Some(pdu.clone());
            }
            let id = self.state.get(&key).or(self.conflict.base.get(&key))?;
            self.conflict.events.get(id).cloned()
        };
        check_state(pdu, self.rules, find).is_ok()
    }
}

fn sha1(id: &EventId) -> [u8; 20] {
    Sha1::digest(id.as_str().as_bytes()).into()
}

#[cfg(test)]
mod tests;
