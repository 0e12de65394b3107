//! Other servers, in the form of Synapse's admin API.

use std::sync::Arc;

use axum::extract::State;
use http::{Method, StatusCode};
use resuni_federation::{Destination, Federation};
use resuni_rooms::Rooms;
use ruma::{OwnedServerName, api::error::ErrorCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Asked, Named, Next, Operator, Span};
use crate::{error::ApiError, extract::RawJson, routes::Routes};

/// The table of these endpoints.
pub fn routes() -> Routes {
    let at = |rest: &str| format!("/_synapse/admin/v1/federation/destinations{rest}");
    Routes::new()
        .operator(Method::GET, &at(""), list)
        .operator(Method::GET, &at("/{server}"), one)
        .operator(Method::GET, &at("/{server}/rooms"), rooms_of)
        .operator(Method::POST, &at("/{server}/reset_connection"), reset)
}

fn unknown() -> ApiError {
    ApiError::not_found("This server has nothing to do with ours.")
}

fn switched_on(federation: Option<Arc<Federation>>) -> Result<Arc<Federation>, ApiError> {
    federation.ok_or_else(|| ApiError::not_found("Federation is switched off."))
}

fn described(destination: &Destination) -> Value {
    let failing = destination.failing;
    json!({
        "destination": destination.server,
        "retry_last_ts": failing.map_or(0, |failing| failing.last_ms),
        "retry_interval": failing.map_or(0, |failing| failing.pause_ms),
        "failure_ts": failing.map(|failing| failing.since_ms),
        "last_successful_stream_ordering": destination.delivered_up_to.map(|at| at.0),
    })
}

#[derive(Deserialize)]
struct Order {
    order_by: Option<String>,
}

async fn list(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Asked(order): Asked<Order>,
    Asked(span): Asked<Span>,
    Asked(part): Asked<Part>,
) -> Result<RawJson, ApiError> {
    let mut found = match federation {
        Some(federation) => federation.destinations(&rooms).await?,
        None => Vec::new(),
    };
    if let Some(part) = &part.destination {
        found.retain(|destination| destination.server.as_str().contains(part.as_str()));
    }
    match order.order_by.as_deref() {
        None | Some("destination") => {}
        Some("retry_last_ts") => found.sort_by_key(|d| d.failing.map(|failing| failing.last_ms)),
        Some("retry_interval") => found.sort_by_key(|d| d.failing.map(|failing| failing.pause_ms)),
        Some("failure_ts") => found.sort_by_key(|d| d.failing.map(|failing| failing.since_ms)),
        Some("last_successful_stream_ordering") => found.sort_by_key(|d| d.delivered_up_to),
        Some(_) => return Err(ApiError::invalid_param("There is no such order_by.")),
    }
    if span.backward() {
        found.reverse();
    }
    let total = found.len();
    let page: Vec<Value> = span.cut(found).iter().map(described).collect();
    Ok(span.answer("destinations", page, total, Next::Text))
}

/// A part of the name, as Synapse lets tools search.
#[derive(Deserialize)]
struct Part {
    destination: Option<String>,
}

async fn one(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Named(server): Named<OwnedServerName>,
) -> Result<RawJson, ApiError> {
    let federation = switched_on(federation)?;
    let found = federation.destination(&rooms, &server).await?;
    Ok(RawJson::of(&described(&found.ok_or_else(unknown)?)))
}

async fn rooms_of(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Named(server): Named<OwnedServerName>,
    Asked(span): Asked<Span>,
) -> Result<RawJson, ApiError> {
    let federation = switched_on(federation)?;
    if federation.destination(&rooms, &server).await?.is_none() {
        return Err(unknown());
    }
    let mut shared = rooms.rooms_with(&server, usize::MAX).await?;
    shared.sort();
    if span.backward() {
        shared.reverse();
    }
    let total = shared.len();
    let mut page = Vec::new();
    for room in span.cut(shared) {
        let view = rooms.view(&room).await?;
        let newest = view.map(|view| view.last_position().0);
        page.push(json!({ "room_id": room, "stream_ordering": newest }));
    }
    Ok(span.answer("rooms", page, total, Next::Text))
}

async fn reset(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Named(server): Named<OwnedServerName>,
) -> Result<RawJson, ApiError> {
    let federation = switched_on(federation)?;
    if federation.destination(&rooms, &server).await?.is_none() {
        return Err(unknown());
    }
    if !federation.retry_now(&server) {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::Unknown,
            "This server answers: there is nothing to reset.",
        ));
    }
    Ok(RawJson::of(&json!({})))
}
