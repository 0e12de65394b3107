//! Into rooms and out of them (Server-Server API, "Joining Rooms", "Knocking upon a room", "Inviting
//! to a room", "Leaving Rooms").

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::Accounts;
use resuni_delivery::ServiceClient;
use ruma::{
    OwnedUserId, RoomVersionId,
    api::{
        OutgoingResponse, OutgoingResponseExt as _,
        federation::{
            membership::{
                create_invite, create_join_event, create_knock_event, create_leave_event,
                prepare_join_event, prepare_knock_event, prepare_leave_event,
            },
            thirdparty::{bind_callback, exchange_invite},
        },
    },
};
use serde_json::value::RawValue;

use super::On;
use crate::{
    client::bridged_user,
    error::ApiError,
    extract::{Answer, Policy, RawJson, Reply, Ruma},
    routes::Routes,
};

/// `PUT /v1/invite`, whose body is the event. ruma's type wants `origin` in it, which events have no more.
mod old_invite {
    use ruma::{
        OwnedEventId, OwnedRoomId,
        api::{
            federation::{authentication::ServerSignatures, membership::RawStrippedState},
            metadata, request, response,
        },
    };
    use serde::{Deserialize, Serialize};

    metadata! {
        method: PUT,
        rate_limited: false,
        authentication: ServerSignatures,
        path: "/_matrix/federation/v1/invite/{room_id}/{event_id}",
    }

    /// An invite.
    #[request]
    pub struct Request {
        /// The room.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
        /// The event's id.
        #[ruma_api(path)]
        pub event_id: OwnedEventId,
        /// What is not signed: the state of the room.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub unsigned: Option<Unsigned>,
    }

    /// What is not signed of an invite.
    #[derive(Clone, Debug, Default, Serialize, Deserialize)]
    pub struct Unsigned {
        /// The state of the room.
        #[serde(default)]
        pub invite_room_state: Vec<RawStrippedState>,
    }

    /// Written by hand.
    #[response]
    pub struct Response {}
}

/// The table of this section.
pub fn routes() -> Routes {
    let join_v1 = ["/_matrix/federation/v1/send_join/{room_id}/{event_id}"];
    let leave_v1 = ["/_matrix/federation/v1/send_leave/{room_id}/{event_id}"];
    Routes::new()
        .at(&join_v1, Policy::CLIENT, send_join_v1)
        .at(&leave_v1, Policy::CLIENT, send_leave_v1)
        .on(make_join)
        .on(send_join)
        .on(make_leave)
        .on(send_leave)
        .on(make_knock)
        .on(send_knock)
        .on(invite)
        .on(invite_v1)
        .on(exchange)
        .on(bound)
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

/// As servers of before v1.0 ask; taken out of the spec in v1.18 (MSC4376).
async fn send_join_v1(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<create_join_event::v2::Request>,
) -> Result<RawJson, ApiError> {
    in_v1(federation.serve.send_join(&caller, body).await?)
}

async fn send_leave_v1(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<create_leave_event::v2::Request>,
) -> Result<RawJson, ApiError> {
    in_v1(federation.serve.send_leave(&caller, body).await?)
}

/// The first version of these answers was a list of the status and the answer.
fn in_v1(answer: impl OutgoingResponse) -> Result<RawJson, ApiError> {
    let answer = answer
        .try_into_http_response::<Vec<u8>>()
        .map_err(ApiError::internal)?;
    let mut body = b"[200,".to_vec();
    body.extend_from_slice(answer.body());
    body.push(b']');
    Ok(RawJson(body.into()))
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
    State(accounts): State<Arc<Accounts>>,
    State(services): State<Arc<ServiceClient>>,
    Ruma { body, caller, .. }: Ruma<create_invite::v2::Request>,
) -> Answer<create_invite::v2::Response> {
    let target = resuni_rooms::fields::string_member(body.event.get(), "state_key");
    if let Some(Ok(target)) = target.map(OwnedUserId::try_from) {
        bridged_user(&accounts, &services, &target).await?;
    }
    Ok(Reply(federation.invites.take(&caller, body).await?))
}

/// "This API is only usable for rooms with version 1 or 2": of which of them is not said, and both have the same events.
async fn invite_v1(
    On(federation): On,
    Ruma {
        body, caller, raw, ..
    }: Ruma<old_invite::Request>,
) -> Result<RawJson, ApiError> {
    let event: Box<RawValue> = serde_json::from_slice(&raw)
        .map_err(|error: serde_json::Error| ApiError::unreadable(error.into(), &raw))?;
    let request = create_invite::v2::Request::new(
        body.room_id,
        body.event_id,
        RoomVersionId::V1,
        event,
        body.unsigned.unwrap_or_default().invite_room_state,
    );
    in_v1(federation.invites.take(&caller, request).await?)
}

/// A server whose user has the address that one of ours invited asks for the invite.
async fn exchange(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<exchange_invite::v1::Request>,
) -> Answer<exchange_invite::v1::Response> {
    federation.third_party.exchange(&caller, body).await?;
    Ok(Reply(exchange_invite::v1::Response::new()))
}

/// An identity server tells whose an address is.
async fn bound(
    On(federation): On,
    Ruma { body, .. }: Ruma<bind_callback::v1::Request>,
) -> Answer<bind_callback::v1::Response> {
    federation.third_party.bound(body).await?;
    Ok(Reply(bind_callback::v1::Response::new()))
}
