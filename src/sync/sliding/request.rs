//! What a client asks for in a sliding sync, whichever of the two forms it is written in (MSC4186).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use resuni_rooms::PresenceState;
use resuni_store::Position;
use ruma::OwnedRoomId;

const MEMBER: &str = "m.room.member";

/// How the client writes, and wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlidingForm {
    /// `/_matrix/client/v4/sync`, as MSC4186 was accepted.
    #[default]
    Accepted,
    /// `/_matrix/client/unstable/org.matrix.simplified_msc3575/sync`.
    Unstable,
}

/// One request of a connection.
#[derive(Debug, Clone, Default)]
pub struct SlidingRequest {
    /// In which form it came.
    pub form: SlidingForm,
    /// Which of the device's connections; empty is one of them.
    pub conn_id: String,
    /// From the answer before; none begins the connection anew.
    pub pos: Option<String>,
    /// Given back in the answer (unstable form).
    pub txn_id: Option<String>,
    /// How long to wait for something new.
    pub timeout: Duration,
    /// How the client says that its user is.
    pub set_presence: PresenceState,
    /// Windows on the user's rooms, by name.
    pub lists: BTreeMap<String, SlidingList>,
    /// Rooms that are always wanted.
    pub subscriptions: BTreeMap<OwnedRoomId, Arc<RoomConfig>>,
    /// What is wanted besides rooms.
    pub extensions: SlidingExtensions,
}

/// A window on the user's rooms, the one with the newest activity first.
#[derive(Debug, Clone, Default)]
pub struct SlidingList {
    /// Inclusive ranges of places in the list; none: all of it.
    pub ranges: Option<Vec<(usize, usize)>>,
    /// Which rooms are in the list.
    pub filters: RoomFilters,
    /// What is wanted of each.
    pub config: Arc<RoomConfig>,
}

/// What is wanted of a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoomConfig {
    /// Events of the timeline at most.
    pub timeline_limit: usize,
    /// Events of the state.
    pub required_state: RequiredState,
}

/// Which events of the state are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequiredState {
    /// These,
    pub include: Vec<StateRule>,
    /// but not these.
    pub exclude: Vec<StateRule>,
    /// Of the members only those that the timeline needs, and those that are included by name.
    pub lazy_members: bool,
}

/// A type and a state key; none stands for any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateRule {
    /// The type of the event.
    pub kind: Option<String>,
    /// Its state key.
    pub state_key: Option<String>,
}

/// Which rooms are in a list. What is unset lets all through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RoomFilters {
    /// Whether the user's `m.direct` names the room.
    pub is_dm: Option<bool>,
    /// Whether its messages are encrypted.
    pub is_encrypted: Option<bool>,
    /// Whether the user is invited.
    pub is_invited: Option<bool>,
    /// The children of one of these spaces.
    pub spaces: Option<Vec<OwnedRoomId>>,
    /// Of one of these types; a none among them stands for rooms without a type.
    pub room_types: Option<Vec<Option<String>>>,
    /// Of none of these types.
    pub not_room_types: Vec<Option<String>>,
    /// With one of these tags.
    pub tags: Option<Vec<String>>,
    /// With none of these tags.
    pub not_tags: Vec<String>,
    /// The name has this in it, upper or lower case (MSC3575; clients of the unstable form may still say it).
    pub name_like: Option<String>,
}

/// What is wanted besides rooms; none for what is not.
#[derive(Debug, Clone, Default)]
pub struct SlidingExtensions {
    /// Messages to the device (MSC3885).
    pub to_device: Option<ToDeviceExtension>,
    /// Keys (MSC3884).
    pub e2ee: bool,
    /// Account data (MSC3959).
    pub account_data: Option<Scope>,
    /// Receipts (MSC3960).
    pub receipts: Option<Scope>,
    /// Who types (MSC3961).
    pub typing: Option<Scope>,
    /// Sticky events (MSC4354).
    pub sticky: Option<Scope>,
    /// Subscriptions to threads (MSC4308), that many changes at most.
    pub thread_subscriptions: Option<usize>,
}

/// `to_device`.
#[derive(Debug, Clone, Default)]
pub struct ToDeviceExtension {
    /// What the client has; the messages up to it are deleted.
    pub since: Option<Position>,
    /// Messages in one answer at most.
    pub limit: Option<usize>,
}

/// Of which rooms an extension is wanted, among those that the request names. None: of all.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Those in the windows of these lists.
    pub lists: Option<Vec<String>>,
    /// These, of those that are subscribed to.
    pub rooms: Option<Vec<OwnedRoomId>>,
}

impl StateRule {
    fn matches(&self, kind: &str, state_key: &str) -> bool {
        self.kind.as_deref().is_none_or(|wanted| wanted == kind)
            && self
                .state_key
                .as_deref()
                .is_none_or(|wanted| wanted == state_key)
    }
}

impl RequiredState {
    /// Whether an event of the state is wanted, whatever the timeline holds.
    pub fn wants(&self, kind: &str, state_key: &str) -> bool {
        let lazy = self.lazy_members && kind == MEMBER;
        let included =
            |rule: &StateRule| rule.matches(kind, state_key) && !(lazy && rule.state_key.is_none());
        self.include.iter().any(included)
            && !self
                .exclude
                .iter()
                .any(|rule| rule.matches(kind, state_key))
    }

    /// Whether the events of all members are wanted.
    fn wants_all_members(&self) -> bool {
        let all = |rule: &StateRule| {
            rule.state_key.is_none() && rule.kind.as_deref().is_none_or(|kind| kind == MEMBER)
        };
        !self.lazy_members && self.include.iter().any(all) && !self.exclude.iter().any(all)
    }
}

/// All that is wanted of a room, by the lists it is in and its subscription (MSC4186, "Combining room configs"). What
/// is wanted of the state is kept apart: an event is wanted if one of them wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub limit: usize,
    configs: Vec<Arc<RoomConfig>>,
}

impl Wanted {
    pub fn add(&mut self, config: &Arc<RoomConfig>) {
        self.limit = self.limit.max(config.timeline_limit);
        let same = |known: &Arc<RoomConfig>| known.required_state == config.required_state;
        if !self.configs.iter().any(same) {
            self.configs.push(config.clone());
        }
    }

    fn states(&self) -> impl Iterator<Item = &RequiredState> {
        self.configs.iter().map(|config| &config.required_state)
    }

    pub fn state(&self, kind: &str, state_key: &str) -> bool {
        self.states().any(|state| state.wants(kind, state_key))
    }

    pub fn all_members(&self) -> bool {
        self.states().any(RequiredState::wants_all_members)
    }

    pub fn lazy_members(&self) -> bool {
        !self.all_members() && self.states().any(|state| state.lazy_members)
    }

    /// The members that are wanted by name.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        let rules = self.states().flat_map(|state| &state.include);
        rules
            .filter(|rule| rule.kind.as_deref().is_none_or(|kind| kind == MEMBER))
            .filter_map(|rule| rule.state_key.as_deref())
    }

    /// Whether the same state is wanted as by `other`.
    pub fn same_state(&self, other: &Self) -> bool {
        self.configs.len() == other.configs.len()
            && self.states().zip(other.states()).all(|(a, b)| a == b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: Option<&str>, state_key: Option<&str>) -> StateRule {
        StateRule {
            kind: kind.map(str::to_owned),
            state_key: state_key.map(str::to_owned),
        }
    }

    fn config(required_state: RequiredState) -> Arc<RoomConfig> {
        Arc::new(RoomConfig {
            timeline_limit: 1,
            required_state,
        })
    }

    #[test]
    fn lazy_members_are_no_wildcard_and_are_included_by_name() {
        let state = RequiredState {
            include: vec![rule(None, None), rule(Some(MEMBER), Some("@me:h"))],
            exclude: vec![rule(Some("m.room.create"), None)],
            lazy_members: true,
        };
        assert!(state.wants("m.room.topic", ""));
        assert!(!state.wants("m.room.create", ""));
        assert!(state.wants(MEMBER, "@me:h"));
        assert!(!state.wants(MEMBER, "@you:h"));
        assert!(!state.wants_all_members());
    }

    #[test]
    fn what_one_of_them_wants_is_wanted() {
        let lazy = RequiredState {
            lazy_members: true,
            ..RequiredState::default()
        };
        let topic = RequiredState {
            include: vec![rule(Some("m.room.topic"), Some(""))],
            ..RequiredState::default()
        };
        let everything = RequiredState {
            include: vec![rule(None, None)],
            ..RequiredState::default()
        };
        let mut wanted = Wanted::default();
        wanted.add(&config(lazy));
        wanted.add(&config(topic));
        assert!(wanted.lazy_members() && wanted.state("m.room.topic", ""));
        assert!(!wanted.state("m.room.name", ""));
        wanted.add(&config(everything));
        // Members are lazy if one says so and none wants all of them.
        assert!(!wanted.lazy_members() && wanted.all_members());
        assert!(wanted.state(MEMBER, "@you:h"));
    }
}
