//! State resolution, fed with differences: what goes in and comes out, and v2 and v2.1 by ruma.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ruma::events::StateEventType;
use ruma::state_res::utils::event_id_set::EventIdSet;
use ruma::state_res::{Error, StateMap, resolve as ruma_resolve};
use ruma::{EventId, OwnedEventId, RoomId};

use crate::{Pdu, ResolveError, RoomRules, auth_types, resolve_v1};

/// The type and key of a state event.
pub type StateKey = (String, String);

/// What state resolution needs of the states that disagree, and no more.
#[derive(Clone, Debug, Default)]
pub struct Conflict {
    /// Each state, reduced to the keys on which not all of them agree. A state that has no event
    /// for such a key leaves it out.
    pub forks: Vec<BTreeMap<StateKey, OwnedEventId>>,
    /// The entries on which all states agree, at least for [`base_keys`] of the full conflicted
    /// set. More does no harm.
    pub base: BTreeMap<StateKey, OwnedEventId>,
    /// Events that are in the auth chain of some state and not of every one
    /// (see [`auth_difference`](crate::auth_difference)); v1 needs none.
    pub auth_difference: HashSet<OwnedEventId>,
    /// The conflicted state subgraph (see [`conflicted_subgraph`](crate::conflicted_subgraph));
    /// used by v2.1 only.
    pub subgraph: HashSet<OwnedEventId>,
    /// The events that are read on the way (see [`Conflict::missing`]). Rejected ones carry
    /// [the mark](Pdu::mark_rejected).
    pub events: HashMap<OwnedEventId, Pdu>,
}

impl Conflict {
    /// The full conflicted set: what is replayed.
    pub fn full_set(&self, rules: &RoomRules) -> BTreeSet<&EventId> {
        let subgraph = self.subgraph.iter().filter(|_| rules.resolves_from_empty());
        let forks = self.forks.iter().flat_map(BTreeMap::values);
        forks
            .chain(&self.auth_difference)
            .chain(subgraph)
            .map(AsRef::as_ref)
            .collect()
    }

    /// The events that [`resolve`] needs and that are not yet in [`Conflict::events`]. What they
    /// refer to may be needed too, so the caller loads them and asks again until nothing is
    /// missing: about as often as the room's power levels changed, if it has none of them at hand.
    ///
    /// These are the full conflicted set with the auth events of each, the entries of `base` that
    /// auth may read, the create event, and the chains of power levels events, which mainline
    /// ordering walks down to the first.
    pub fn missing(&self, rules: &RoomRules) -> Vec<OwnedEventId> {
        let full = self.full_set(rules);
        let present = |id: &EventId| self.events.get(id);
        // Events whose auth events are asked for; a power levels event met on the way joins them.
        let mut opened: Vec<&EventId> = full.iter().copied().collect();
        let mut needed: BTreeSet<&EventId> = full.clone();
        let mut missing = BTreeSet::new();
        let reads = base_keys(full.iter().filter_map(|id| present(id)), rules);
        for (key, id) in &self.base {
            if reads.contains(key) && needed.insert(id) {
                opened.push(id);
            }
        }
        let mut followed: BTreeSet<&EventId> = opened.iter().copied().collect();
        while let Some(id) = opened.pop() {
            let Some(pdu) = present(id) else { continue };
            for parent in pdu.auth_events() {
                needed.insert(parent);
                let levels = present(parent).is_some_and(|p| p.is("m.room.power_levels", ""));
                if levels && followed.insert(parent) {
                    opened.push(parent);
                }
            }
            let create = create_event_id(pdu.room_id());
            missing.extend(create.filter(|create| present(create).is_none()));
        }
        let absent = needed.into_iter().filter(|id| present(id).is_none());
        missing.extend(absent.map(ToOwned::to_owned));
        missing.into_iter().collect()
    }
}

/// The keys of the unconflicted state that matter while these events (the full conflicted set)
/// are replayed: what the auth rules may ask for, and the keys of the events themselves. They must
/// be in [`Conflict::base`] as far as the states agree on an event there.
pub fn base_keys<'a>(
    events: impl IntoIterator<Item = &'a Pdu>,
    rules: &RoomRules,
) -> BTreeSet<StateKey> {
    let mut keys: BTreeSet<StateKey> = ["m.room.create", "m.room.power_levels"]
        .map(|kind| (kind.to_owned(), String::new()))
        .into();
    for pdu in events {
        keys.extend(
            pdu.state_key()
                .map(|key| (pdu.kind().to_owned(), key.to_owned())),
        );
        // An event whose content is too malformed to say what it needs is refused anyway.
        let needed = auth_types(
            pdu.kind(),
            pdu.sender(),
            pdu.state_key(),
            pdu.content(),
            rules,
        );
        keys.extend(needed.unwrap_or_default());
    }
    keys
}

/// Resolves the conflict. The resolved state is the answer together with everything that the
/// states agreed on; a conflicted key that is missing in the answer has no event.
///
/// The answer holds conflicted keys, and in rare cases a key that none of the states has: an event
/// of the auth difference whose own key got lost in an earlier resolution may come back.
pub fn resolve(
    conflict: &Conflict,
    rules: &RoomRules,
) -> Result<BTreeMap<StateKey, OwnedEventId>, ResolveError> {
    let Some(state_res) = rules.state_res() else {
        return resolve_v1::resolve(conflict, rules);
    };
    // ruma passes over events that it can't find, and would answer something else.
    if let Some(id) = conflict.missing(rules).into_iter().next() {
        return Err(ResolveError::Missing(id));
    }
    let states: Vec<StateMap<OwnedEventId>> = conflict
        .forks
        .iter()
        .map(|fork| conflict.base.iter().chain(fork).map(ruma_entry).collect())
        .collect();
    // ruma takes the auth chains and subtracts; one chain that holds the difference and one that
    // is empty subtract to the difference.
    let chains = vec![
        conflict.auth_difference.iter().cloned().collect(),
        EventIdSet::new(),
    ];
    let resolved = ruma_resolve(
        &rules.ruma().authorization,
        state_res,
        &states,
        chains,
        |id| conflict.events.get(id).cloned(),
        |_| Some(conflict.subgraph.iter().cloned().collect()),
    )
    .map_err(|error| match error {
        Error::NotFound(id) => ResolveError::Missing(id),
        other => ResolveError::Malformed(other.to_string()),
    })?;
    Ok(resolved
        .into_iter()
        .map(|((kind, key), id)| ((kind.to_string(), key), id))
        .filter(|(key, _)| !conflict.base.contains_key(key))
        .collect())
}

fn ruma_entry((key, id): (&StateKey, &OwnedEventId)) -> ((StateEventType, String), OwnedEventId) {
    (
        (StateEventType::from(key.0.as_str()), key.1.clone()),
        id.clone(),
    )
}

/// The id of the create event that makes this room id (v12); `None` for a room id with a server
/// name.
pub fn create_event_id(room_id: &RoomId) -> Option<OwnedEventId> {
    if room_id.server_name().is_some() {
        return None;
    }
    EventId::parse(format!("${}", room_id.strip_sigil())).ok()
}

#[cfg(test)]
mod tests;
