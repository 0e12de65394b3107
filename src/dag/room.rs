//! What a room's state says about the room, read with the defaults of the specification.

use ruma::OwnedRoomId;
use serde::Deserialize;

use crate::Pdu;

/// Who sees events sent before they joined (client-server API, "Room history visibility").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HistoryVisibility {
    /// Members, from their join on.
    Joined,
    /// Members, from their invite on.
    Invited,
    /// Members, all of it. The default.
    Shared,
    /// Anyone.
    WorldReadable,
}

impl HistoryVisibility {
    /// From the value of `content.history_visibility`; an unknown one counts as none.
    pub fn parse(value: &str) -> Option<Self> {
        Some(match value {
            "joined" => Self::Joined,
            "invited" => Self::Invited,
            "shared" => Self::Shared,
            "world_readable" => Self::WorldReadable,
            _ => return None,
        })
    }

    /// From the `m.room.history_visibility` event of a state; without a valid one it is shared.
    pub fn of(event: Option<&Pdu>) -> Self {
        #[derive(Deserialize)]
        struct Content {
            history_visibility: String,
        }
        event
            .and_then(|pdu| pdu.content_as::<Content>().ok())
            .and_then(|content| Self::parse(&content.history_visibility))
            .unwrap_or(Self::Shared)
    }

    /// The value in the event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Invited => "invited",
            Self::Shared => "shared",
            Self::WorldReadable => "world_readable",
        }
    }
}

/// How one gets into a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinRule {
    /// Anyone may join.
    Public,
    /// By invite. The default.
    Invite,
    /// By invite, for which one may knock.
    Knock,
    /// By invite, or as a member of one of these rooms.
    Restricted(Vec<OwnedRoomId>),
    /// By invite, for which one may knock, or as a member of one of these rooms.
    KnockRestricted(Vec<OwnedRoomId>),
    /// Reserved; nobody joins.
    Private,
    /// A rule of a future version; nobody joins.
    Unknown(String),
}

impl JoinRule {
    /// From the `m.room.join_rules` event of a state; without a valid one it is by invite.
    pub fn of(event: Option<&Pdu>) -> Self {
        #[derive(Deserialize)]
        struct Content {
            join_rule: String,
            #[serde(default)]
            allow: serde_json::Value,
        }
        let Some(content) = event.and_then(|pdu| pdu.content_as::<Content>().ok()) else {
            return Self::Invite;
        };
        match content.join_rule.as_str() {
            "public" => Self::Public,
            "invite" => Self::Invite,
            "knock" => Self::Knock,
            "restricted" => Self::Restricted(allowed_rooms(&content.allow)),
            "knock_restricted" => Self::KnockRestricted(allowed_rooms(&content.allow)),
            "private" => Self::Private,
            _ => Self::Unknown(content.join_rule),
        }
    }

    /// The value in the event.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Public => "public",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Restricted(_) => "restricted",
            Self::KnockRestricted(_) => "knock_restricted",
            Self::Private => "private",
            Self::Unknown(rule) => rule,
        }
    }

    /// The rooms whose members may join, for a restricted rule.
    pub fn allowed_rooms(&self) -> Option<&[OwnedRoomId]> {
        match self {
            Self::Restricted(rooms) | Self::KnockRestricted(rooms) => Some(rooms),
            _ => None,
        }
    }

    /// Whether one may knock.
    pub fn knockable(&self) -> bool {
        matches!(self, Self::Knock | Self::KnockRestricted(_))
    }
}

/// The conditions of type `m.room_membership`; others are for future versions and allow nobody.
fn allowed_rooms(allow: &serde_json::Value) -> Vec<OwnedRoomId> {
    let conditions = allow.as_array().map(Vec::as_slice).unwrap_or_default();
    conditions
        .iter()
        .filter(|condition| {
            condition
                .get("type")
                .is_some_and(|t| t == "m.room_membership")
        })
        .filter_map(|condition| condition.get("room_id")?.as_str()?.try_into().ok())
        .collect()
}

#[cfg(test)]
mod tests;
