//! Reports to the operator (Client-Server API, "Reporting Content").

use std::sync::Arc;

use axum::extract::State;
use resuni_rooms::Rooms;
use ruma::api::client::{
    reporting::report_user,
    room::{report_content, report_room},
};

use crate::{
    extract::{Answer, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().on(event).on(room).on(user)
}

async fn event(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<report_content::v3::Request>,
) -> Answer<report_content::v3::Response> {
    let reason = body.reason.unwrap_or_default();
    rooms
        .report_event(&caller.user_id, &body.room_id, &body.event_id, &reason)
        .await?;
    Ok(Reply(report_content::v3::Response::new()))
}

async fn room(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<report_room::v3::Request>,
) -> Answer<report_room::v3::Response> {
    rooms
        .report_room(&caller.user_id, &body.room_id, &body.reason)
        .await?;
    Ok(Reply(report_room::v3::Response::new()))
}

async fn user(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<report_user::v3::Request>,
) -> Answer<report_user::v3::Response> {
    rooms
        .report_user(&caller.user_id, &body.user_id, &body.reason)
        .await?;
    Ok(Reply(report_user::v3::Response::new()))
}
