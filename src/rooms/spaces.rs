//! Spaces: what a room tells of itself and of its children to those who might join it.
//!
//! Spec: client-server API, "Spaces" and `GET /room_summary`; server-server API, "Spaces".

mod walk;

use std::collections::HashMap;

use resuni_dag::{JoinRule, Pdu};
use resuni_store::{Direction, ScanRange};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use walk::{Step, Walk, Walks};

use crate::{
    directory::RoomSummary,
    error::RoomError,
    fields::{member, string_member},
    rooms::Rooms,
    tables::{MEMBERS, SPACE_CHILDREN},
    types::{Membership, server_of},
    view::RoomView,
};

/// Children of one space that are looked at.
pub const MAX_CHILDREN: usize = 500;
/// Children of one space that another server is told of.
const MAX_SERVED: usize = 50;
/// Servers to ask for a child that are kept of its link.
const MAX_VIA: usize = 10;
/// Rooms of a restricted rule that are looked at.
const MAX_ALLOWED: usize = 20;
/// Invited users among whom one of a server is looked for.
const MAX_INVITED: usize = 1_000;
/// The longest `order` that counts (`m.space.child`).
const MAX_ORDER: usize = 50;

/// A room as its summary and the space hierarchy show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomDetails {
    /// What the directory shows too.
    #[serde(flatten)]
    pub summary: RoomSummary,
    /// The algorithm in `m.room.encryption`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// The room's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_version: Option<String>,
    /// The rooms whose members may join, for a restricted rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_room_ids: Vec<OwnedRoomId>,
}

/// A room of the hierarchy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SpaceRoom {
    /// The room.
    #[serde(flatten)]
    pub details: RoomDetails,
    /// The links to its children, in their order. Empty for rooms that are no spaces.
    #[serde(default)]
    pub children_state: Vec<SpaceChild>,
}

/// A link to a child: stripped state, and when it was sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SpaceChild {
    /// `m.space.child`
    #[serde(rename = "type")]
    pub kind: String,
    /// The child.
    pub state_key: OwnedRoomId,
    /// Who linked it.
    pub sender: String,
    /// When, in milliseconds.
    pub origin_server_ts: u64,
    /// The rest.
    pub content: Box<RawValue>,
}

/// What a server answers about a space (`GET /_matrix/federation/v1/hierarchy/{roomId}`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hierarchy {
    /// The space.
    pub room: SpaceRoom,
    /// Its children that the other server may know of.
    #[serde(default)]
    pub children: Vec<RoomDetails>,
    /// Those that it may not.
    #[serde(default)]
    pub inaccessible_children: Vec<OwnedRoomId>,
}

impl SpaceChild {
    /// Servers that may know the child; none at all for a link that is none ("omitting the `via` key").
    pub fn via(&self) -> Vec<OwnedServerName> {
        #[derive(Deserialize)]
        struct Content {
            via: Vec<String>,
        }
        let content: Option<Content> = serde_json::from_str(self.content.get()).ok();
        let via = content.map(|content| content.via).unwrap_or_default();
        via.into_iter()
            .filter_map(|server| ServerName::parse(server).ok())
            .take(MAX_VIA)
            .collect()
    }

    /// Whether the child is suggested.
    pub fn suggested(&self) -> bool {
        member(self.content.get(), "suggested") == Some("true")
    }

    /// The valid `order`: printable ASCII, not too long.
    fn order(&self) -> Option<String> {
        string_member(self.content.get(), "order").filter(|order| {
            order.len() <= MAX_ORDER && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
        })
    }

    fn of(event: &Pdu) -> Option<Self> {
        let child = Self {
            kind: event.kind().to_owned(),
            state_key: event.state_key()?.try_into().ok()?,
            sender: event.sender().to_string(),
            origin_server_ts: event.origin_server_ts(),
            content: RawValue::from_string(event.content().get().to_owned()).ok()?,
        };
        (!child.via().is_empty()).then_some(child)
    }
}

/// "Ordering of children within a space".
fn sort(children: &mut [SpaceChild]) {
    children.sort_by_cached_key(|child| {
        let order = child.order();
        (
            order.is_none(),
            order,
            child.origin_server_ts,
            child.state_key.clone(),
        )
    });
}

impl RoomView {
    /// The room in some more detail.
    pub async fn details(&self) -> Result<RoomDetails, RoomError> {
        let encryption = self.state("m.room.encryption", "").await?;
        let allowed = self.join_rule().await?;
        let allowed = allowed.allowed_rooms().unwrap_or_default();
        Ok(RoomDetails {
            summary: self.summary().await?,
            encryption: encryption
                .and_then(|event| string_member(event.content().get(), "algorithm")),
            room_version: Some(self.version().to_owned()),
            allowed_room_ids: allowed.iter().take(MAX_ALLOWED).cloned().collect(),
        })
    }

    /// The room with its children.
    pub async fn space_room(&self, suggested_only: bool) -> Result<SpaceRoom, RoomError> {
        let details = self.details().await?;
        let mut children_state = match details.is_space() {
            true => self.space_children().await?,
            false => Vec::new(),
        };
        children_state.retain(|child| !suggested_only || child.suggested());
        Ok(SpaceRoom {
            details,
            children_state,
        })
    }

    /// The valid links to children, in their order.
    async fn space_children(&self) -> Result<Vec<SpaceChild>, RoomError> {
        let range = ScanRange::prefix(&self.num());
        let rows = self
            .snapshot()
            .scan(&SPACE_CHILDREN, range, Direction::Forward, MAX_CHILDREN)
            .await?;
        let nums: Vec<_> = rows.into_iter().map(|(_, event)| event).collect();
        let shown = self.shown(&nums).await?;
        let mut children: Vec<SpaceChild> = shown
            .iter()
            .filter_map(|shown| SpaceChild::of(&shown.pdu))
            .collect();
        sort(&mut children);
        Ok(children)
    }

    async fn invites_from(&self, server: &ServerName) -> Result<bool, RoomError> {
        let range = ScanRange::prefix(&(self.num(), Membership::Invite));
        let invited = self
            .snapshot()
            .scan(&MEMBERS, range, Direction::Forward, MAX_INVITED)
            .await?;
        for ((_, _, user), _) in invited {
            if server_of(&self.user_id(user).await?) == server.as_str() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl RoomDetails {
    /// Whether the room is a space.
    pub fn is_space(&self) -> bool {
        self.summary.room_type.as_deref() == Some("m.space")
    }

    /// Whether anybody may know of the room: the world reads it, or it can be joined or knocked on.
    pub fn is_open(&self) -> bool {
        self.summary.world_readable
            || matches!(
                self.summary.join_rule.as_str(),
                "public" | "knock" | "knock_restricted"
            )
    }
}

impl Rooms {
    /// Whether a user may know of a room that this server is in: a member or invited, or it is there to be read, joined
    /// or knocked on. Nobody who is banned may, but where the world may read.
    pub async fn may_preview(&self, view: &RoomView, user: &UserId) -> Result<bool, RoomError> {
        let membership = view.member(user).await?;
        if matches!(membership, Some(Membership::Join | Membership::Invite))
            || view.world_readable().await?
        {
            return Ok(true);
        }
        if membership == Some(Membership::Ban) {
            return Ok(false);
        }
        match view.join_rule().await? {
            JoinRule::Public => Ok(true),
            rule if rule.knockable() => Ok(true),
            rule => {
                let allowed = rule.allowed_rooms().unwrap_or_default();
                self.is_in_one_of(allowed, user).await
            }
        }
    }

    /// Whether a user may know of a room that another server told us of. That server knows no more of the user than that
    /// they are of ours.
    pub async fn may_preview_remote(
        &self,
        room: &RoomDetails,
        user: &UserId,
    ) -> Result<bool, RoomError> {
        if room.is_open() || self.is_in_one_of(&room.allowed_room_ids, user).await? {
            return Ok(true);
        }
        let membership = self.membership(&room.summary.room_id, user).await?;
        Ok(membership == Some(Membership::Invite))
    }

    /// What one of our users is to a room, whether or not this server is in it.
    pub async fn membership(
        &self,
        room: &RoomId,
        user: &UserId,
    ) -> Result<Option<Membership>, RoomError> {
        let row = self.out_of_band(room, user).await?;
        Ok(row.map(|row| row.membership))
    }

    async fn is_in_one_of(&self, rooms: &[OwnedRoomId], user: &UserId) -> Result<bool, RoomError> {
        for room in rooms.iter().take(MAX_ALLOWED) {
            if let Some(view) = self.participating(room).await?
                && view.joined(user).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether another server may know of a room that this server is in.
    pub async fn may_preview_from(
        &self,
        view: &RoomView,
        server: &ServerName,
    ) -> Result<bool, RoomError> {
        let rule = view.join_rule().await?;
        if rule == JoinRule::Public
            || rule.knockable()
            || view.world_readable().await?
            || view.has_server(server).await?
            || view.invites_from(server).await?
        {
            return Ok(true);
        }
        for room in rule
            .allowed_rooms()
            .unwrap_or_default()
            .iter()
            .take(MAX_ALLOWED)
        {
            if let Some(view) = self.participating(room).await?
                && view.has_server(server).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A space for another server, which may know of it.
    pub async fn hierarchy_for(
        &self,
        view: &RoomView,
        server: &ServerName,
        suggested_only: bool,
    ) -> Result<Hierarchy, RoomError> {
        let room = view.space_room(suggested_only).await?;
        let (mut children, mut inaccessible_children) = (Vec::new(), Vec::new());
        for child in room.children_state.iter().take(MAX_SERVED) {
            let Some(child) = self.participating(&child.state_key).await? else {
                continue;
            };
            if self.may_preview_from(&child, server).await? {
                children.push(child.details().await?);
            } else {
                inaccessible_children.push(child.room_id().to_owned());
            }
        }
        Ok(Hierarchy {
            room,
            children,
            inaccessible_children,
        })
    }
}

/// What is known of rooms from other servers' answers: `None` for those that nobody may know of.
type Told = HashMap<OwnedRoomId, Option<RoomDetails>>;

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the spec.
    #[test]
    fn children_have_an_order() {
        let child = |room: &str, order: Option<&str>, ts: u64| {
            let content = serde_json::json!({"via": ["example.org"], "order": order});
            SpaceChild {
                kind: "m.space.child".to_owned(),
                state_key: room.try_into().unwrap(),
                sender: "@a:example.org".to_owned(),
                origin_server_ts: ts,
                content: serde_json::value::to_raw_value(&content).unwrap(),
            }
        };
        let long = "x".repeat(51);
        let mut children = [
            child("!long:h", Some(&long), 1_640_441_000_000),
            child("!e:h", None, 1_640_641_000_000),
            child("!d:h", None, 1_640_741_000_000),
            child("!c:h", Some("first"), 1_640_841_000_000),
            child("!a:h", Some("aaaa"), 1_640_141_000_000),
            child("!b:h", Some(" "), 1_640_341_000_000),
        ];
        sort(&mut children);
        let order: Vec<&str> = children.iter().map(|c| c.state_key.as_str()).collect();
        assert_eq!(order, ["!b:h", "!a:h", "!c:h", "!long:h", "!e:h", "!d:h"]);
    }
}
