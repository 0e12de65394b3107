//! A person's profile in the rooms they are in: it is part of their member events.
//!
//! Spec: client-server API, "Profiles", "Events on Change of Profile Information".

use futures_util::stream::{self, StreamExt as _};
use ruma::{RoomId, UserId};
use serde_json::{Map, Value};

use crate::create_content::MemberProfile;
use crate::error::RoomError;
use crate::rooms::Rooms;
use crate::types::Membership;

/// How many rooms take a new profile at the same time.
const PROFILES_AT_ONCE: usize = 16;

impl Rooms {
    /// Brings a user's new profile into all rooms that they are joined to, a few at a time. Rooms that refuse it keep
    /// the old one. Returns in how many it changed.
    pub async fn propagate_profile(
        &self,
        user: &UserId,
        profile: &MemberProfile,
    ) -> Result<usize, RoomError> {
        let rooms = self.rooms_of(user, &[Membership::Join]).await?;
        let changes =
            stream::iter(rooms.into_iter().map(|room| async move {
                self.set_profile_in(&room.room_id, user, profile).await
            }));
        let outcomes: Vec<_> = changes.buffer_unordered(PROFILES_AT_ONCE).collect().await;
        let mut changed = 0;
        for outcome in outcomes {
            match outcome {
                Ok(true) => changed += 1,
                Ok(false) | Err(RoomError::Forbidden(_) | RoomError::UnknownRoom(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(changed)
    }

    async fn set_profile_in(
        &self,
        room: &RoomId,
        user: &UserId,
        profile: &MemberProfile,
    ) -> Result<bool, RoomError> {
        let view = self.view_known(room).await?;
        let Some(event) = view.state("m.room.member", user.as_str()).await? else {
            return Ok(false);
        };
        let Ok(before) = event.content_as::<Map<String, Value>>() else {
            return Ok(false);
        };
        if before.get("membership").and_then(Value::as_str) != Some("join") {
            return Ok(false);
        }
        let mut content = before.clone();
        for key in ["displayname", "avatar_url"] {
            content.remove(key);
        }
        content.extend(profile.member_content("join"));
        if content == before {
            return Ok(false);
        }
        // These were about the join, and the authorising server would have to sign again (spec v1.4).
        content.remove("join_authorised_via_users_server");
        content.remove("reason");
        self.send_member(room, user, user, content).await?;
        Ok(true)
    }
}
