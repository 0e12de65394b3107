//! Room versions as one table of flags.
//!
//! A room version never has code of its own: everything that differs between versions is a flag
//! here, and one code path reads it. The flags that the auth rules, redaction and signatures need
//! are ruma's; a further version is one more row of [`TABLE`].

use ruma::RoomVersionId;
use ruma::room_version_rules::{
    RoomIdFormatVersion, RoomVersionRules, StateResolutionV2Rules, StateResolutionVersion,
};

/// The identifiers of the room versions that this server can create, join and resolve.
pub const SUPPORTED: &[&str] = &["10", "11", "12"];

static TABLE: &[RoomRules] = &[
    RoomRules::new(RoomVersionId::V10, RoomVersionRules::V10),
    RoomRules::new(RoomVersionId::V11, RoomVersionRules::V11),
    RoomRules::new(RoomVersionId::V12, RoomVersionRules::V12),
];

/// What a room version asks for.
#[derive(Debug)]
pub struct RoomRules {
    /// The version that these rules belong to.
    pub version: RoomVersionId,
    rules: RoomVersionRules,
}

impl RoomRules {
    const fn new(version: RoomVersionId, rules: RoomVersionRules) -> Self {
        Self { version, rules }
    }

    /// The rules of a version, or `None` if this server doesn't support it.
    pub fn of(version: &RoomVersionId) -> Option<&'static Self> {
        TABLE.iter().find(|row| row.version == *version)
    }

    /// All rows of the table, oldest version first.
    pub fn all() -> &'static [Self] {
        TABLE
    }

    /// The flags in ruma's form.
    pub fn ruma(&self) -> &RoomVersionRules {
        &self.rules
    }

    /// The room id is the reference hash of the create event, which carries no `room_id` and is
    /// never listed in `auth_events` (v12).
    pub fn room_id_is_create_hash(&self) -> bool {
        self.rules.room_id_format == RoomIdFormatVersion::V2
    }

    /// The creators of the room stand above every power level (v12).
    pub fn creators_are_privileged(&self) -> bool {
        self.rules.authorization.explicitly_privilege_room_creators
    }

    /// `content.additional_creators` of the create event names further creators (v12).
    pub fn additional_creators(&self) -> bool {
        self.rules.authorization.additional_room_creators
    }

    /// The creator is the `sender` of the create event and not `content.creator` (v11).
    pub fn creator_is_sender(&self) -> bool {
        self.rules.authorization.use_room_create_sender
    }

    /// A redaction names its target in `content.redacts` and not at the top level (v11).
    pub fn redacts_in_content(&self) -> bool {
        self.rules.redaction.content_field_redacts
    }

    /// Power levels must be integers; before, strings that hold one were accepted too (v10).
    pub fn integer_power_levels(&self) -> bool {
        self.rules.authorization.integer_power_levels
    }

    /// Users may knock (v7).
    pub fn knocking(&self) -> bool {
        self.rules.authorization.knocking
    }

    /// The join rule `restricted` is known (v8).
    pub fn restricted_joins(&self) -> bool {
        self.rules.authorization.restricted_join_rule
    }

    /// The join rule `knock_restricted` is known (v10).
    pub fn knock_restricted_joins(&self) -> bool {
        self.rules.authorization.knock_restricted_join_rule
    }

    /// A signature counts only if its key was valid at `origin_server_ts` (v5).
    pub fn enforce_key_validity(&self) -> bool {
        self.rules.enforce_key_validity
    }

    /// The flags of state resolution v2; `None` for v1.
    pub fn state_res(&self) -> Option<&StateResolutionV2Rules> {
        match &self.rules.state_res {
            StateResolutionVersion::V2(rules) => Some(rules),
            _ => None,
        }
    }

    /// State resolution v2.1: it starts from the empty state and takes in the conflicted state
    /// subgraph (v12).
    pub fn resolves_from_empty(&self) -> bool {
        self.state_res()
            .is_some_and(|r| r.begin_iterative_auth_checks_with_empty_state_map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_list_agree() {
        let rows: Vec<_> = RoomRules::all()
            .iter()
            .map(|row| row.version.as_str())
            .collect();
        assert_eq!(rows, SUPPORTED);
        assert!(RoomRules::of(&RoomVersionId::V9).is_none());
    }

    #[test]
    fn only_version_12_is_hydra() {
        let hydra = |v: &RoomVersionId| {
            RoomRules::of(v).is_some_and(|r| {
                r.resolves_from_empty() && r.creators_are_privileged() && r.room_id_is_create_hash()
            })
        };
        assert!(hydra(&RoomVersionId::V12));
        assert!(!hydra(&RoomVersionId::V11));
    }
}
