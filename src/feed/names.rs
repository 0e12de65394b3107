//! The identifiers of MSC4501. The stable and the unstable ones mean the same.

/// Where the names begin, stable first.
const PREFIXES: [&str; 2] = ["m.social.", "org.matrix.msc4501.social."];

/// The profile field that names a user's profile room; the first one that is set counts.
pub(crate) const PROFILE_ROOM_ID: [&str; 2] = [
    "m.social.profile_room_id",
    "org.matrix.msc4501.social.profile_room_id",
];
/// The state event that names the user of a profile room; the first one that is there counts.
pub(crate) const PROFILE_USER_ID: [&str; 2] = [
    "m.social.profile_user_id",
    "org.matrix.msc4501.social.profile_user_id",
];
/// The block of a post that refers to a post elsewhere.
pub(crate) const RELATES_TO: [&str; 2] = [
    "m.social.relates_to",
    "org.matrix.msc4501.social.relates_to",
];
/// What is shown in place of `body`.
pub(crate) const BODY: [&str; 2] = ["m.social.body", "org.matrix.msc4501.social.body"];

/// The part of a name that tells what it is, if it is one of MSC4501.
pub(crate) fn social(name: &str) -> Option<&str> {
    PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))
}

/// What a room is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RoomKind {
    /// One person's page.
    Profile,
    /// A page of several.
    Group,
}

impl RoomKind {
    /// From `type` in the create event.
    pub fn from_room_type(name: &str) -> Option<Self> {
        match social(name)? {
            "profile" => Some(Self::Profile),
            "group" => Some(Self::Group),
            _ => None,
        }
    }
}

/// Whether events of this type are posts in a profile or a group. `m.room.message` is one for as long as MSC4501
/// is in its phases 1 and 2 ("Handling `m.room.message` in social rooms").
pub(crate) fn is_post(kind: &str) -> bool {
    kind == "m.room.message" || social(kind) == Some("post")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings() {
        for prefix in PREFIXES {
            let kind = RoomKind::from_room_type(&format!("{prefix}profile"));
            assert_eq!(kind, Some(RoomKind::Profile));
            let kind = RoomKind::from_room_type(&format!("{prefix}group"));
            assert_eq!(kind, Some(RoomKind::Group));
            assert!(is_post(&format!("{prefix}post")));
        }
        assert_eq!(RoomKind::from_room_type("m.space"), None);
        assert_eq!(RoomKind::from_room_type("m.social.profiles"), None);
        assert!(is_post("m.room.message"));
        assert!(!is_post("m.social.profile_user_id"));
        assert!(!is_post("m.reaction"));
    }
}
