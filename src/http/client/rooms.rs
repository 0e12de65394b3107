//! What the endpoints about rooms share.

use std::{collections::HashSet, sync::Arc, time::Duration};

use axum::{extract::FromRef, http::StatusCode};
use resuni_accounts::{Accounts, Session};
use resuni_rooms::{
    Form, MemberProfile, RoomView, Rooms, TimelineToken, Viewer, WholeRoom, fields::EventFields,
};
use resuni_store::Direction;
use ruma::{
    OwnedUserId, RoomId, UInt, UserId,
    api::{self, error::ErrorCode},
};

use crate::{AppState, error::ApiError};

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

/// What reading rooms takes.
#[derive(Clone)]
pub struct Reading {
    /// The rooms.
    pub rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
}

impl FromRef<AppState> for Reading {
    fn from_ref(state: &AppState) -> Self {
        Self {
            rooms: state.rooms.clone(),
            accounts: state.accounts.clone(),
        }
    }
}

impl Reading {
    /// The caller's eyes on a room.
    pub async fn viewer(&self, view: &RoomView, caller: &Session) -> Result<Viewer, ApiError> {
        let ignored = self.ignored(caller).await?;
        Ok(view.viewer(&caller.user_id).await?.ignoring(ignored))
    }

    /// Whom the caller ignores: of their events only state is told (Client-Server API, "Ignoring Users").
    pub async fn ignored(&self, caller: &Session) -> Result<HashSet<OwnedUserId>, ApiError> {
        Ok(self.accounts.ignored_users(caller.account).await?)
    }

    /// The same, of a room by its id. One that does not exist is one of which they see nothing.
    pub async fn of_room(&self, room: &RoomId, caller: &Session) -> Result<Viewer, ApiError> {
        let view = self.rooms.view(room).await?.ok_or_else(unknown_event)?;
        self.viewer(&view, caller).await
    }
}

/// Whether an event is of somebody who is ignored, and no state.
pub fn is_ignored(ignored: &HashSet<OwnedUserId>, event: &EventFields<'_>) -> bool {
    !ignored.is_empty()
        && event.state_key.is_none()
        && <&UserId>::try_from(event.sender_str()).is_ok_and(|sender| ignored.contains(sender))
}

/// What the caller may not see doesn't exist, as far as they can tell.
pub fn unknown_event() -> ApiError {
    ApiError::not_found("There is no such event that you may see.")
}

/// The most events of one answer.
const MOST: usize = 1_000;

/// How many events a client gets that asks for so many.
pub fn limit(asked: UInt) -> usize {
    usize::try_from(u64::from(asked))
        .unwrap_or(MOST)
        .clamp(1, MOST)
}

/// Which way a client reads.
pub fn direction(dir: api::Direction) -> Direction {
    match dir {
        api::Direction::Backward => Direction::Backward,
        api::Direction::Forward => Direction::Forward,
    }
}

/// How long a request waits for the members of a room that was joined just now.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);

/// The room once all of its members are here (MSC3902), for what lists them. Who may read it is asked before.
pub async fn whole(rooms: &Rooms, room: &RoomId) -> Result<WholeRoom, ApiError> {
    let whole = tokio::time::timeout(WHOLE_WITHIN, rooms.whole(room)).await;
    whole
        .map_err(|_| {
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::Unknown,
                "The members of this room are still arriving from another server; try again.",
            )
        })?
        .map_err(ApiError::from)
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
