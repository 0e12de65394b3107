//! Giving somebody the power of the mightiest of our users in a room.

use resuni_dag::Power;
use ruma::{OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value};

use crate::error::RoomError;
use crate::events::NewEvent;
use crate::rooms::Rooms;
use crate::types::Membership;

/// Our users who are looked at for the mightiest.
const LOOKED_AT: usize = 10_000;
/// What the power of a creator is worth to somebody else (room version 12): more than every level that is there, and at
/// least this.
const CREATORS_LEVEL: i64 = 100;

/// How somebody was given power.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeAdmin {
    /// In whose name.
    pub by: OwnedUserId,
    /// Whether they can't get in without an invite.
    pub needs_invite: bool,
}

impl Rooms {
    /// Gives somebody the power of the mightiest of our users who are in the room, in that user's name.
    ///
    /// # Errors
    /// [`RoomError::BadRequest`] when none of them may change the levels.
    pub async fn make_admin(&self, room: &RoomId, user: &UserId) -> Result<MadeAdmin, RoomError> {
        let view = self.view_known(room).await?;
        let levels = view.power_levels().await?;
        let kind = "m.room.power_levels";
        let ours = view.local_members(LOOKED_AT).await?;
        let able = ours
            .into_iter()
            .filter(|ours| levels.may_send(ours, kind, Some("")));
        let by = able.max_by_key(|ours| levels.user(ours)).ok_or_else(|| {
            RoomError::bad(
                "M_UNKNOWN",
                "no user of this server in the room has the power to give it to others",
            )
        })?;
        let event = view.state(kind, "").await?;
        let mut content: Map<String, Value> = match &event {
            Some(event) => event
                .content_as()
                .map_err(|error| RoomError::Inconsistent(error.to_string()))?,
            None => Map::new(),
        };
        let users = content
            .entry("users")
            .or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(users) = users else {
            return Err(RoomError::bad("M_UNKNOWN", "the power levels are broken"));
        };
        if event.is_none() {
            // Without the event its creator has 100; with it they have what it says.
            users.insert(by.to_string(), levels.user(&by).as_int().into());
        }
        let level = match levels.user(&by) {
            Power::Level(level) => level,
            Power::Infinite => users
                .values()
                .filter_map(Value::as_i64)
                .chain([CREATORS_LEVEL, levels.required(kind, Some(""))])
                .max()
                .unwrap_or(CREATORS_LEVEL),
        };
        if !levels.user(user).reaches(level) {
            users.insert(user.to_string(), level.into());
            let content = serde_json::value::to_raw_value(&content)
                .map_err(|error| RoomError::Inconsistent(error.to_string()))?;
            let event = NewEvent::state(kind, "", content);
            self.send(room, &by, event, None).await?;
        }
        let is_in = matches!(
            view.member(user).await?,
            Some(Membership::Join | Membership::Invite)
        );
        let open = view.text_of("m.room.join_rules", "join_rule").await?;
        Ok(MadeAdmin {
            by,
            needs_invite: !is_in && open.as_deref() != Some("public"),
        })
    }
}
