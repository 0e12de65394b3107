//! State resolution v2 and v2.1, fed with differences.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ruma::events::StateEventType;
use ruma::state_res::utils::event_id_set::EventIdSet;
use ruma::state_res::{Error, StateMap, resolve as ruma_resolve};
use ruma::{OwnedEventId, RoomId};

use crate::{Pdu, ResolveError, RoomRules, auth_types};

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
    /// (see [`auth_difference`](crate::auth_difference)).
    pub auth_difference: HashSet<OwnedEventId>,
    /// The conflicted state subgraph (see [`conflicted_subgraph`](crate::conflicted_subgraph));
    /// used by v2.1 only.
    pub subgraph: HashSet<OwnedEventId>,
    /// The events of all of the above, the auth events of those, and the create event. Rejected
    /// ones carry [the mark](Pdu::mark_rejected).
    ///
    /// Of the power levels events also their chain of power levels events down to the first one,
    /// which mainline ordering walks.
    pub events: HashMap<OwnedEventId, Pdu>,
}

/// The keys of the unconflicted state that the auth rules may ask for while the full conflicted
/// set is replayed: what must be in [`Conflict::base`] as far as it is there.
pub fn base_keys<'a>(
    events: impl IntoIterator<Item = &'a Pdu>,
    rules: &RoomRules,
) -> BTreeSet<StateKey> {
    let mut keys: BTreeSet<StateKey> = ["m.room.create", "m.room.power_levels"]
        .map(|kind| (kind.to_owned(), String::new()))
        .into();
    for pdu in events {
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

/// Resolves the conflict: the event that each conflicted key has in the resolved state. A key
/// that is missing in the answer has no event.
pub fn resolve(
    conflict: &Conflict,
    rules: &RoomRules,
) -> Result<BTreeMap<StateKey, OwnedEventId>, ResolveError> {
    let Some(state_res) = rules.state_res() else {
        return Err(ResolveError::Malformed(
            "this room version resolves with v1".to_owned(),
        ));
    };
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
    let conflicted: BTreeSet<&StateKey> = conflict.forks.iter().flat_map(BTreeMap::keys).collect();
    Ok(resolved
        .into_iter()
        .map(|((kind, key), id)| ((kind.to_string(), key), id))
        .filter(|(key, _)| conflicted.contains(key))
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
    ruma::EventId::parse(format!("${}", room_id.strip_sigil())).ok()
}
