//! Room versions as one table of flags.
//!
//! A room version never has code of its own: everything that differs between versions is a flag
//! here, and one code path reads it. The flags that the auth rules, redaction and signatures need
//! are ruma's; a further version is one more row of [`TABLE`].

use std::sync::LazyLock;

use ruma::RoomVersionId;
use ruma::room_version_rules::{
    EventIdFormatVersion, EventsReferenceFormatVersion, RoomIdFormatVersion, RoomVersionRules,
    StateResolutionV2Rules, StateResolutionVersion,
};

use crate::limits;

/// The identifiers of the room versions that this server can create, join and resolve: the
/// specification's, and then those of proposals.
pub const SUPPORTED: &[&str] = &[
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    "10",
    "11",
    "12",
    OWNED_STATE,
];

/// Version 10 with owned state (MSC3757).
pub(crate) const OWNED_STATE: &str = "org.matrix.msc3757.10";

static TABLE: LazyLock<Vec<RoomRules>> = LazyLock::new(|| {
    let mut table = vec![
        RoomRules::before_11(RoomVersionId::V1, RoomVersionRules::V1),
        RoomRules::before_11(RoomVersionId::V2, RoomVersionRules::V2),
        RoomRules::before_11(RoomVersionId::V3, RoomVersionRules::V3),
        RoomRules::before_11(RoomVersionId::V4, RoomVersionRules::V4),
        RoomRules::before_11(RoomVersionId::V5, RoomVersionRules::V5),
        RoomRules::before_11(RoomVersionId::V6, RoomVersionRules::V6),
        RoomRules::before_11(RoomVersionId::V7, RoomVersionRules::V7),
        RoomRules::before_11(RoomVersionId::V8, RoomVersionRules::V8),
        RoomRules::before_11(RoomVersionId::V9, RoomVersionRules::V9),
        RoomRules::before_11(RoomVersionId::V10, RoomVersionRules::V10),
        RoomRules::new(RoomVersionId::V11, RoomVersionRules::V11),
        RoomRules::new(RoomVersionId::V12, RoomVersionRules::V12),
    ];
    // The name is within the grammar of room versions, so this always adds a row.
    table.extend(
        RoomVersionId::try_from(OWNED_STATE).map(|version| RoomRules {
            stable: false,
            owned_state: true,
            ..RoomRules::new(version, RoomVersionRules::V10)
        }),
    );
    table
});

/// What a room version asks for.
#[derive(Debug)]
pub struct RoomRules {
    /// The version that these rules belong to.
    pub version: RoomVersionId,
    rules: RoomVersionRules,
    stable: bool,
    owned_state: bool,
    sizes_in_characters: bool,
}

impl RoomRules {
    fn new(version: RoomVersionId, rules: RoomVersionRules) -> Self {
        Self {
            version,
            rules,
            stable: true,
            owned_state: false,
            sizes_in_characters: false,
        }
    }

    fn before_11(version: RoomVersionId, rules: RoomVersionRules) -> Self {
        Self {
            sizes_in_characters: true,
            ..Self::new(version, rules)
        }
    }

    /// The rules of a version, or `None` if this server doesn't support it.
    pub fn of(version: &RoomVersionId) -> Option<&'static Self> {
        TABLE.iter().find(|row| row.version == *version)
    }

    /// All rows of the table, oldest version first, those of proposals last.
    pub fn all() -> &'static [Self] {
        &TABLE
    }

    /// Whether the specification has the version, and not a proposal only.
    pub fn is_stable(&self) -> bool {
        self.stable
    }

    /// A state key that begins with a user's id belongs to that user, whatever follows after an
    /// underscore, and to those with more power than they have (MSC3757).
    pub fn owned_state(&self) -> bool {
        self.owned_state
    }

    /// The limit of 255 for ids, types and state keys is one of characters and not of bytes. That
    /// is what servers enforced before v11, so that such events are in older rooms.
    pub fn sizes_in_characters(&self) -> bool {
        self.sizes_in_characters
    }

    /// The greatest size of a state key.
    pub fn state_key_size(&self) -> usize {
        if self.owned_state {
            limits::OWNED_STATE_KEY
        } else {
            limits::ID_BYTES
        }
    }

    /// The sender chooses the id of an event, `$opaque:server`, and it stands in the event (v1,
    /// v2); later it is a hash of the event.
    pub fn event_id_is_chosen(&self) -> bool {
        self.rules.event_id_format == EventIdFormatVersion::V1
    }

    /// The id of an event is its hash in base64 with `-` and `_` (v4); in v3 it has `+` and `/`.
    pub fn event_id_is_url_safe(&self) -> bool {
        self.rules.event_id_format == EventIdFormatVersion::V3
    }

    /// `prev_events` and `auth_events` hold pairs of an id and a hash, not just ids (v1, v2).
    pub fn references_have_hashes(&self) -> bool {
        self.rules.events_reference_format == EventsReferenceFormatVersion::V1
    }

    /// The auth rules say who may redact, so that a redaction that was let in applies (v1, v2).
    /// Later that is asked when it meets its target.
    pub fn redactions_are_authorised(&self) -> bool {
        self.rules.authorization.special_case_room_redaction
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
        assert!(RoomRules::of(&RoomVersionId::try_from("13").unwrap()).is_none());
    }

    #[test]
    fn event_ids_became_hashes_and_then_url_safe() {
        let formats = |version: &str| {
            let rules = crate::testing::rules(version);
            (
                rules.event_id_is_chosen(),
                rules.references_have_hashes(),
                rules.event_id_is_url_safe(),
            )
        };
        assert_eq!(formats("1"), (true, true, false));
        assert_eq!(formats("2"), (true, true, false));
        assert_eq!(formats("3"), (false, false, false));
        assert_eq!(formats("4"), (false, false, true));
        assert_eq!(formats("12"), (false, false, true));
        assert_eq!(formats(OWNED_STATE), formats("10"));
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
