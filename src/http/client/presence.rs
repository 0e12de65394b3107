//! Who is there (Client-Server API, "Presence").

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use resuni_accounts::Accounts;
use resuni_rooms::{PresenceState, Rooms, presence::MAX_STATUS_BYTES};
use ruma::{
    api::client::presence::{get_presence, set_presence},
    presence::PresenceState as Named,
};

use crate::{
    error::ApiError,
    extract::{Answer, Policy, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(status)
        .with(Policy::CLIENT.public(), set_status)
}

async fn status(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<get_presence::v3::Request>,
) -> Answer<get_presence::v3::Response> {
    let user = &body.user_id;
    if *user != caller.user_id && !rooms.share_a_room(&caller.user_id, user).await? {
        return Err(ApiError::forbidden("You share no room with this user."));
    }
    let known = rooms.presence().of(user);
    if known.is_none()
        && user.server_name() == accounts.server_name()
        && accounts.find_user(user).await?.is_none()
    {
        return Err(ApiError::not_found("There is no such user."));
    }
    let now = known.unwrap_or_default();
    let mut response = get_presence::v3::Response::new(Named::from(now.state.as_str()));
    response.status_msg = now.status;
    response.currently_active = Some(now.currently_active);
    response.last_active_ago = now.last_active_ago.map(Duration::from_millis);
    Ok(Reply(response))
}

async fn set_status(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<set_presence::v3::Request>,
) -> Answer<set_presence::v3::Response> {
    if body.user_id != caller.user_id {
        return Err(ApiError::forbidden("You can only say how you are."));
    }
    let state = PresenceState::from_name(body.presence.as_str())
        .ok_or_else(|| ApiError::invalid_param("There is no such presence."))?;
    let status = body.status_msg.filter(|status| !status.is_empty());
    if status
        .as_ref()
        .is_some_and(|status| status.len() > MAX_STATUS_BYTES)
    {
        return Err(ApiError::too_large(format!(
            "A status has at most {MAX_STATUS_BYTES} bytes."
        )));
    }
    rooms.presence().set(&caller.user_id, state, status);
    Ok(Reply(set_presence::v3::Response::new()))
}
