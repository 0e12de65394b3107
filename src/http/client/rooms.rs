//! What the endpoints about rooms share.

use resuni_accounts::{Accounts, Session};
use resuni_rooms::{Form, MemberProfile, RoomView, Rooms, TimelineToken};
use ruma::{OwnedUserId, RoomId, UserId};

use crate::error::ApiError;

/// The answer to whoever asks about a room that they may not know: the same whether or not it
/// exists.
pub fn not_in_room() -> ApiError {
    ApiError::forbidden("You are not in this room, or it does not exist.")
}

/// The room, for reading.
pub async fn view(rooms: &Rooms, room: &RoomId) -> Result<RoomView, ApiError> {
    rooms.view(room).await?.ok_or_else(not_in_room)
}

/// The room, for somebody who is joined to it.
pub async fn view_joined(
    rooms: &Rooms,
    room: &RoomId,
    user: &UserId,
) -> Result<RoomView, ApiError> {
    let view = view(rooms, room).await?;
    if view.joined(user).await? {
        Ok(view)
    } else {
        Err(not_in_room())
    }
}

/// How this caller gets events.
pub fn form<'a>(rooms: &Rooms, caller: &'a Session) -> Form<'a> {
    Form {
        now_ms: rooms.now_ms(),
        device: caller.device_id.as_deref().map(|device| device.as_str()),
        ..Form::default()
    }
}

/// What a membership event says about one of our users.
pub async fn profile(accounts: &Accounts, user: &UserId) -> Result<MemberProfile, ApiError> {
    let mut profile = accounts
        .profile(user.localpart())
        .await?
        .unwrap_or_default();
    let mut text = |key| match profile.remove(key) {
        Some(serde_json::Value::String(text)) => Some(text),
        _ => None,
    };
    Ok(MemberProfile {
        displayname: text("displayname"),
        avatar_url: text("avatar_url"),
    })
}

/// The profile of a user of this server, or none of another one: their server adds it.
pub async fn profile_if_local(
    accounts: &Accounts,
    user: &OwnedUserId,
) -> Result<MemberProfile, ApiError> {
    if user.server_name() == accounts.server_name() {
        profile(accounts, user).await
    } else {
        Ok(MemberProfile::default())
    }
}

/// A pagination token that a client sends.
pub fn token(text: &str) -> Result<TimelineToken, ApiError> {
    text.parse()
        .map_err(|_| ApiError::invalid_param("This is not a pagination token."))
}
