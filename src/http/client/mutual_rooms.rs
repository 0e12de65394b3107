//! Rooms that two people share (Client-Server API, "Mutual Rooms"; MSC2666 under its unstable name).

use std::sync::Arc;

use axum::extract::State;
use resuni_rooms::{RoomNum, Rooms};
use serde_json::json;

use crate::{
    error::ApiError,
    extract::{Policy, RawJson, Ruma},
    routes::Routes,
};

/// Rooms of one answer.
const PAGE: usize = 100;

/// `GET /_matrix/client/v1/mutual_rooms`; ruma has the unstable form only.
mod get_mutual_rooms {
    use ruma::api::{auth_scheme::AccessToken, metadata, request, response};

    metadata! {
        method: GET,
        rate_limited: true,
        authentication: AccessToken,
        path: "/_matrix/client/v1/mutual_rooms",
    }

    /// Which rooms somebody shares with the caller.
    #[request]
    pub struct Request {
        /// Who else.
        #[ruma_api(query)]
        pub user_id: String,
        /// `next_batch` of the page before.
        #[ruma_api(query)]
        #[serde(skip_serializing_if = "Option::is_none")]
        pub from: Option<String>,
    }

    /// Written by hand.
    #[response]
    pub struct Response {}
}

/// The table of this section.
pub fn routes() -> Routes {
    let unstable = ["/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"];
    Routes::new()
        .on(mutual)
        .at(&unstable, Policy::CLIENT, mutual)
}

async fn mutual(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<get_mutual_rooms::Request>,
) -> Result<RawJson, ApiError> {
    let other = ruma::OwnedUserId::try_from(body.user_id)
        .map_err(|_| ApiError::invalid_param("`user_id` is not the id of a user."))?;
    if other == caller.user_id {
        return Err(ApiError::invalid_param(
            "You share all of your rooms with yourself.",
        ));
    }
    let after = body.from.map(|from| from.parse().map(RoomNum)).transpose();
    let after = after.map_err(|_| ApiError::invalid_param("`from` is not a token of a page."))?;
    let mutual = rooms
        .mutual_rooms(&caller.user_id, &other, after, PAGE)
        .await?;
    let mut answer = json!({ "joined": mutual.rooms, "count": mutual.count });
    if let Some(next) = mutual.next {
        answer["next_batch"] = next.0.to_string().into();
    }
    Ok(RawJson::of(&answer))
}
