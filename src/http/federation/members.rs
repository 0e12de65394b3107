//! Into rooms and out of them (Server-Server API, "Joining Rooms", "Knocking upon a room", "Inviting
//! to a room", "Leaving Rooms").

use ruma::api::federation::membership::{
    create_invite, create_join_event, create_knock_event, create_leave_event, prepare_join_event,
    prepare_knock_event, prepare_leave_event,
};

use super::On;
use crate::{
    extract::{Answer, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(make_join)
        .on(send_join)
        .on(make_leave)
        .on(send_leave)
        .on(make_knock)
        .on(send_knock)
        .on(invite)
}

async fn make_join(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<prepare_join_event::v1::Request>,
) -> Answer<prepare_join_event::v1::Response> {
    Ok(Reply(federation.serve.make_join(&caller, body).await?))
}

async fn send_join(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<create_join_event::v2::Request>,
) -> Answer<create_join_event::v2::Response> {
    Ok(Reply(federation.serve.send_join(&caller, body).await?))
}

async fn make_leave(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<prepare_leave_event::v1::Request>,
) -> Answer<prepare_leave_event::v1::Response> {
    Ok(Reply(federation.serve.make_leave(&caller, body).await?))
}

async fn send_leave(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<create_leave_event::v2::Request>,
) -> Answer<create_leave_event::v2::Response> {
    Ok(Reply(federation.serve.send_leave(&caller, body).await?))
}

async fn make_knock(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<prepare_knock_event::v1::Request>,
) -> Answer<prepare_knock_event::v1::Response> {
    Ok(Reply(federation.serve.make_knock(&caller, body).await?))
}

async fn send_knock(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<create_knock_event::v1::Request>,
) -> Answer<create_knock_event::v1::Response> {
    Ok(Reply(federation.serve.send_knock(&caller, body).await?))
}

async fn invite(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<create_invite::v2::Request>,
) -> Answer<create_invite::v2::Response> {
    Ok(Reply(federation.invites.take(&caller, body).await?))
}
