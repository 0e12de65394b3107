//! What users have reported, in the form of Synapse's admin API.

use std::sync::Arc;

use axum::extract::State;
use http::Method;
use resuni_rooms::{
    Rooms,
    reports::{FiledReport, Reported, ReportsQuery},
};
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Asked, Dir, Named, Next, Operator, Span};
use crate::{error::ApiError, extract::RawJson, routes::Routes};

/// The table of these endpoints.
pub fn routes() -> Routes {
    const ONE: &str = "/_synapse/admin/v1/event_reports/{id}";
    Routes::new()
        .operator(Method::GET, "/_synapse/admin/v1/event_reports", list)
        .operator(Method::GET, ONE, one)
        .operator(Method::DELETE, ONE, delete)
}

#[derive(Deserialize)]
struct Which {
    user_id: Option<OwnedUserId>,
    room_id: Option<OwnedRoomId>,
    event_sender_user_id: Option<OwnedUserId>,
}

async fn list(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Asked(which): Asked<Which>,
    Asked(span): Asked<Span>,
) -> Result<RawJson, ApiError> {
    let query = ReportsQuery {
        by: which.user_id,
        room: which.room_id,
        sender: which.event_sender_user_id,
        oldest_first: span.dir == Some(Dir::Forward),
        from: span.from,
        limit: span.limit(),
    };
    let (found, total) = rooms.event_reports(&query).await?;
    let mut reports = Vec::with_capacity(found.len());
    for report in &found {
        reports.push(described(&rooms, report, false).await?);
    }
    Ok(span.answer("event_reports", reports, total, Next::Number))
}

async fn described(rooms: &Rooms, filed: &FiledReport, whole: bool) -> Result<Value, ApiError> {
    let Reported::Event(room, event) = &filed.report.what else {
        return Err(ApiError::internal("a report is not about an event"));
    };
    let mut described = json!({
        "id": filed.id,
        "received_ts": filed.received_ms,
        "room_id": room,
        "event_id": event,
        "user_id": filed.report.by,
        "reason": filed.report.reason,
        // The specification has no scores any more.
        "score": null,
        "sender": filed.sender,
        "name": null,
        "canonical_alias": null,
    });
    let Some(view) = rooms.view(room).await? else {
        return Ok(described);
    };
    let summary = view.summary().await?;
    described["name"] = json!(summary.name);
    described["canonical_alias"] = json!(summary.canonical_alias);
    if whole && let Some(event) = view.event(event).await? {
        let json = serde_json::from_str(event.pdu.json()).map_err(ApiError::internal)?;
        described["event_json"] = json;
    }
    Ok(described)
}

fn unknown() -> ApiError {
    ApiError::not_found("There is no such report.")
}

async fn one(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(id): Named<u64>,
) -> Result<RawJson, ApiError> {
    let report = rooms.event_report(id).await?.ok_or_else(unknown)?;
    Ok(RawJson::of(&described(&rooms, &report, true).await?))
}

async fn delete(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(id): Named<u64>,
) -> Result<RawJson, ApiError> {
    if !rooms.delete_event_report(id).await? {
        return Err(unknown());
    }
    Ok(RawJson::of(&json!({})))
}
