//! `/.well-known/matrix/*` (Client-Server API, "Well-known URIs"; Server-Server API, "Resolving
//! server names"). What the operator has not told is not found.

use std::sync::Arc;

use axum::extract::State;
use ruma::api::{
    client::discovery::{
        discover_homeserver,
        discover_support::{self, Contact, ContactRole},
    },
    federation::discovery::discover_homeserver as discover_server,
};

use serde_json::json;

use crate::{
    client::rtc_transports,
    error::ApiError,
    extract::{Answer, RawJson, Reply, Ruma},
    routes::Routes,
    state::Settings,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().on(client).on(server).on(support)
}

fn untold() -> ApiError {
    ApiError::not_found("The operator of this server has not told.")
}

async fn client(
    State(settings): State<Arc<Settings>>,
    _: Ruma<discover_homeserver::Request>,
) -> Result<RawJson, ApiError> {
    let url = settings.public_baseurl.as_ref().ok_or_else(untold)?;
    let mut answer = json!({ "m.homeserver": { "base_url": url } });
    if !settings.livekit_services.is_empty() {
        // MSC4143, for clients from before its endpoint.
        answer["org.matrix.msc4143.rtc_foci"] = rtc_transports(&settings);
    }
    Ok(RawJson::of(&answer))
}

async fn server(
    State(settings): State<Arc<Settings>>,
    _: Ruma<discover_server::Request>,
) -> Answer<discover_server::Response> {
    let server = settings.well_known_server.clone().ok_or_else(untold)?;
    Ok(Reply(discover_server::Response::new(server)))
}

async fn support(
    State(settings): State<Arc<Settings>>,
    _: Ruma<discover_support::Request>,
) -> Answer<discover_support::Response> {
    let support = &settings.support;
    let mut response = discover_support::Response::with_contacts(Vec::new());
    response.support_page = support.page.clone();
    for email in &support.emails {
        response.contacts.push(Contact::with_email_address(
            ContactRole::Admin,
            email.clone(),
        ));
    }
    for user in &support.users {
        response
            .contacts
            .push(Contact::with_matrix_id(ContactRole::Admin, user.clone()));
    }
    if response.support_page.is_none() && response.contacts.is_empty() {
        return Err(untold());
    }
    Ok(Reply(response))
}
