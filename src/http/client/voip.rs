//! What calls go through: TURN servers (Client-Server API, "Voice over IP"), and the transports of group calls
//! (MatrixRTC, MSC4143).

use std::sync::Arc;

use axum::extract::State;
use resuni_rooms::Rooms;
use ruma::api::client::voip::get_turn_server_info::v3::{Request, Response};
use serde_json::{Value, json};

use crate::{
    error::ApiError,
    extract::{Answer, RawJson, Reply, Ruma},
    routes::Routes,
    state::Settings,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().on(turn).on(transports)
}

/// `GET …/rtc/transports` (MSC4143).
mod get_transports {
    use ruma::api::{auth_scheme::AccessToken, metadata, request, response};

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        path: "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports",
    }

    /// What this server recommends for group calls.
    #[request]
    pub struct Request {}

    /// Written by hand.
    #[response]
    pub struct Response {}
}

/// The transports that this server recommends, in the form of MSC4143; LiveKit as MSC4195 describes it.
pub fn rtc_transports(settings: &Settings) -> Value {
    let services = settings.livekit_services.iter();
    services
        .map(|url| json!({ "type": "livekit", "livekit_service_url": url }))
        .collect()
}

async fn transports(
    State(settings): State<Arc<Settings>>,
    _: Ruma<get_transports::Request>,
) -> RawJson {
    RawJson::of(&json!({ "rtc_transports": rtc_transports(&settings) }))
}

/// Where the operator has none, there is nothing of the shape that the spec wants: the answer is that it is not found.
async fn turn(
    State(settings): State<Arc<Settings>>,
    State(rooms): State<Arc<Rooms>>,
    Ruma { caller, .. }: Ruma<Request>,
) -> Answer<Response> {
    let unknown = || ApiError::not_found("This server knows no TURN server.");
    let turn = settings.turn.as_ref().ok_or_else(unknown)?;
    let given = turn.credentials(&caller.user_id, rooms.now_ms())?;
    Ok(Reply(Response::new(
        given.username,
        given.password,
        turn.uris.clone(),
        turn.lifetime,
    )))
}
