//! The ways to follow rooms that `/sync` has replaced (Client-Server API, "Syncing", "Getting events for a room",
//! "Room previews"). They are deprecated, and bots of old still use them. ruma does not have them as they are specified.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use bytes::Bytes;
use resuni_accounts::Session;
use resuni_sync::{StreamRequest, Sync, Who};
use ruma::UInt;

use super::rooms::{Reading, form, limit, unknown_event};
use crate::{
    error::ApiError,
    extract::{RawJson, Ruma},
    routes::Routes,
};

/// `GET /events`: what is new in all rooms of the caller, or in one that they may read.
mod events {
    use ruma::api::{auth_scheme::AccessToken, metadata, request, response};
    use ruma::{OwnedRoomId, UInt};

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/events",
            1.1 => "/_matrix/client/v3/events",
        }
    }

    /// `GET /events`: what is new in all rooms of the caller, or in one that they may read.
    #[request]
    pub struct Request {
        /// Where the answer before ended; now, without it.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub from: Option<String>,
        /// How long to wait, in milliseconds.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub timeout: Option<UInt>,
        /// The room to look into; without it, all that the caller is joined to.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub room_id: Option<OwnedRoomId>,
    }

    /// Written by hand.
    #[response]
    pub struct Response {}
}

/// `GET /events/{eventId}`: an event by its id alone.
mod one_event {
    use ruma::OwnedEventId;
    use ruma::api::{auth_scheme::AccessToken, metadata, request, response};

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/events/{event_id}",
            1.1 => "/_matrix/client/v3/events/{event_id}",
        }
    }

    /// `GET /events/{eventId}`: an event by its id alone.
    #[request]
    pub struct Request {
        /// The event.
        #[ruma_api(path)]
        pub event_id: OwnedEventId,
    }

    /// Written by hand.
    #[response]
    pub struct Response {}
}

/// `GET /initialSync`: all rooms of the caller, as they are now.
mod initial {
    use ruma::UInt;
    use ruma::api::{auth_scheme::AccessToken, metadata, request, response};

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/initialSync",
            1.1 => "/_matrix/client/v3/initialSync",
        }
    }

    /// `GET /initialSync`: all rooms of the caller, as they are now.
    #[request]
    pub struct Request {
        /// Events of each room.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub limit: Option<UInt>,
        /// Whether rooms that the caller has left are among them.
        #[ruma_api(query)]
        #[serde(default)]
        pub archived: bool,
    }

    /// Written by hand.
    #[response]
    pub struct Response {}
}

/// `GET /rooms/{roomId}/initialSync`: a room as it is now.
mod room_initial {
    use ruma::OwnedRoomId;
    use ruma::api::{auth_scheme::AccessToken, metadata, request, response};

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/rooms/{room_id}/initialSync",
            1.1 => "/_matrix/client/v3/rooms/{room_id}/initialSync",
        }
    }

    /// `GET /rooms/{roomId}/initialSync`: a room as it is now.
    #[request]
    pub struct Request {
        /// The room.
        #[ruma_api(path)]
        pub room_id: OwnedRoomId,
    }

    /// Written by hand.
    #[response]
    pub struct Response {}
}

/// Events of a room when the client names no number.
const DEFAULT_LIMIT: usize = 10;

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .guest(stream)
        .guest(one)
        .on(everything)
        .guest(room)
}

fn who(caller: &Session) -> Who<'_> {
    Who {
        user: &caller.user_id,
        account: caller.account,
        device: caller.device_id.as_deref(),
    }
}

async fn stream(
    State(sync): State<Arc<Sync>>,
    Ruma { body, caller, .. }: Ruma<events::Request>,
) -> Result<RawJson, ApiError> {
    let from = body.from.as_deref().filter(|from| !from.is_empty());
    let from = from.map(StreamRequest::place).transpose();
    let request = StreamRequest {
        from: from.map_err(|_| ApiError::invalid_param("`from` is not a token of a stream."))?,
        room: body.room_id,
        timeout: Duration::from_millis(body.timeout.map_or(0, u64::from)),
    };
    Ok(RawJson(sync.stream(who(&caller), &request).await?.into()))
}

async fn one(
    State(reading): State<Reading>,
    Ruma { body, caller, .. }: Ruma<one_event::Request>,
) -> Result<RawJson, ApiError> {
    let view = reading.rooms.room_of_event(&body.event_id).await?;
    let view = view.ok_or_else(unknown_event)?;
    let mut viewer = reading.viewer(&view, &caller).await?;
    let event = viewer
        .event(&body.event_id)
        .await?
        .ok_or_else(unknown_event)?;
    let json = viewer.json(&event, &form(&reading.rooms, &caller)).await?;
    Ok(RawJson(Bytes::from(json)))
}

async fn everything(
    State(sync): State<Arc<Sync>>,
    Ruma { body, caller, .. }: Ruma<initial::Request>,
) -> Result<RawJson, ApiError> {
    // None at all may be wanted here.
    let limit = match body.limit {
        Some(UInt::MIN) => 0,
        Some(asked) => limit(asked),
        None => DEFAULT_LIMIT,
    };
    let all = sync.initial(who(&caller), limit, body.archived).await?;
    Ok(RawJson(all.into()))
}

async fn room(
    State(sync): State<Arc<Sync>>,
    Ruma { body, caller, .. }: Ruma<room_initial::Request>,
) -> Result<RawJson, ApiError> {
    let room = sync
        .initial_of_room(who(&caller), &body.room_id, DEFAULT_LIMIT)
        .await?;
    Ok(RawJson(room.into()))
}
