//! How far people have read, and who types (Client-Server API, "Receipts", "Read and unread
//! markers", "Typing Notifications").

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::{Accounts, Session};
use resuni_rooms::{ReceiptKind, Rooms};
use ruma::{
    EventId, RoomId,
    api::client::{
        read_marker::set_read_marker,
        receipt::create_receipt::{self, v3::ReceiptType},
    },
};

use super::rooms::view_joined;
use crate::{
    error::ApiError,
    extract::{Answer, Policy, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(receipt)
        .on(markers)
        .with(Policy::CLIENT.public(), typing)
}

/// The marker is the reader's own: nobody else sees it. It may only be set in a room they are in.
async fn fully_read(
    accounts: &Accounts,
    rooms: &Rooms,
    caller: &Session,
    room: &RoomId,
    event: &EventId,
) -> Result<(), ApiError> {
    view_joined(rooms, room, &caller.user_id).await?;
    Ok(accounts
        .set_fully_read(caller.account, room.as_str(), event)
        .await?)
}

async fn receipt(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<create_receipt::v3::Request>,
) -> Answer<create_receipt::v3::Response> {
    let (room, event) = (&body.room_id, &body.event_id);
    let kind = match body.receipt_type {
        ReceiptType::Read => ReceiptKind::Read,
        ReceiptType::ReadPrivate => ReceiptKind::ReadPrivate,
        ReceiptType::FullyRead => {
            if body.thread.as_str().is_some() {
                return Err(ApiError::invalid_param(
                    "The marker of a room belongs to no thread.",
                ));
            }
            fully_read(&accounts, &rooms, &caller, room, event).await?;
            return Ok(Reply(create_receipt::v3::Response::new()));
        }
        _ => return Err(ApiError::invalid_param("There is no such type of receipt.")),
    };
    rooms
        .set_receipt(room, &caller.user_id, kind, body.thread.as_str(), event)
        .await?;
    Ok(Reply(create_receipt::v3::Response::new()))
}

async fn markers(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<set_read_marker::v3::Request>,
) -> Answer<set_read_marker::v3::Response> {
    let (room, user) = (&body.room_id, &caller.user_id);
    if let Some(event) = &body.fully_read {
        fully_read(&accounts, &rooms, &caller, room, event).await?;
    }
    if let Some(event) = &body.read_receipt {
        rooms
            .set_receipt(room, user, ReceiptKind::Read, None, event)
            .await?;
    }
    if let Some(event) = &body.private_read_receipt {
        rooms
            .set_receipt(room, user, ReceiptKind::ReadPrivate, None, event)
            .await?;
    }
    Ok(Reply(set_read_marker::v3::Response::new()))
}

async fn typing(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<typing_wire::Request>,
) -> Answer<typing_wire::Response> {
    if body.user_id != caller.user_id {
        return Err(ApiError::forbidden("You can only type for yourself."));
    }
    let view = view_joined(&rooms, &body.room_id, &caller.user_id).await?;
    let timeout = body.typing.then_some(body.timeout);
    rooms.typing().set(view.num(), &caller.user_id, timeout);
    Ok(Reply(typing_wire::Response {}))
}

/// As in ruma, but for `timeout`: the spec does not require it.
mod typing_wire {
    use ruma::{
        OwnedRoomId, OwnedUserId,
        api::{auth_scheme::AccessToken, metadata, request, response},
    };

    /// As long as a client waits for other people's typing to end, in milliseconds.
    fn timeout() -> u64 {
        30_000
    }

    metadata! {
        method: PUT,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/rooms/{room_id}/typing/{user_id}",
            1.1 => "/_matrix/client/v3/rooms/{room_id}/typing/{user_id}",
        }
    }

    /// Somebody types, or has stopped.
    #[request]
    pub struct Request {
        /// Where.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
        /// Who.
        #[ruma_api(path)]
        pub user_id: OwnedUserId,
        /// Whether they type.
        pub typing: bool,
        /// For how long that is to be believed, in milliseconds.
        #[serde(default = "timeout")]
        pub timeout: u64,
    }

    /// It is known.
    #[response]
    pub struct Response {}
}
