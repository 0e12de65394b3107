//! The state of a room (Client-Server API, "Getting events for a room").

use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use resuni_rooms::Rooms;
use ruma::api::client::state::{
    get_state_event_for_key::{self, v3::StateEventFormat},
    get_state_events,
};

use super::rooms::{form, view, whole};
use crate::{
    error::ApiError,
    extract::{Policy, RawJson, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    // An empty state key may be left out, with or without the slash before it.
    let without_key = [
        "/_matrix/client/r0/rooms/{room_id}/state/{event_type}",
        "/_matrix/client/r0/rooms/{room_id}/state/{event_type}/",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/",
    ];
    Routes::new()
        .guest(all)
        .guest(one)
        .at(&without_key, Policy::GUEST, one)
}

async fn all(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<get_state_events::v3::Request>,
) -> Result<RawJson, ApiError> {
    let view = view(&rooms, &body.room_id).await?;
    view.readable_state(&caller.user_id).await?;
    let view = whole(&rooms, &body.room_id).await?;
    let state = view.readable_state(&caller.user_id).await?;
    let events = view
        .state_json(&state.nums().await?, &form(&rooms, &caller))
        .await?;
    Ok(RawJson(Bytes::from(format!("[{}]", events.join(",")))))
}

async fn one(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<get_state_event_for_key::v3::Request>,
) -> Result<RawJson, ApiError> {
    let view = view(&rooms, &body.room_id).await?;
    let state = view.readable_state(&caller.user_id).await?;
    let unknown = || ApiError::not_found("There is no such state in this room.");
    let kind = body.event_type.to_string();
    let mut num = state.num(&kind, &body.state_key).await?;
    if num.is_none() && kind == "m.room.member" && state.is_partial().await? {
        // Whom nobody has told of yet may still be a member.
        let view = whole(&rooms, &body.room_id).await?;
        let state = view.readable_state(&caller.user_id).await?;
        num = state.num(&kind, &body.state_key).await?;
    }
    let num = num.ok_or_else(unknown)?;
    let shown = view
        .shown(&[num])
        .await?
        .into_iter()
        .next()
        .ok_or_else(unknown)?;
    let json = match body.format {
        StateEventFormat::Event => view.shown_json(&shown, &form(&rooms, &caller)),
        _ => shown.pdu.content().get().to_owned(),
    };
    Ok(RawJson(Bytes::from(json)))
}
