//! Redacting what somebody has said, and one event wherever it is, in the form of Synapse's admin API.

use std::sync::Arc;

use axum::extract::State;
use http::Method;
use resuni_rooms::{Form, JobStatus, Redaction, RedactionJob, Rooms};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Named, Operator, Sent};
use crate::{error::ApiError, extract::RawJson, routes::Routes};

/// Events of each room, if the tool names no number, and at most.
const EVENTS: usize = 1_000;
const MOST: usize = 100_000;

/// The table of these endpoints.
pub fn routes() -> Routes {
    Routes::new()
        .operator(
            Method::POST,
            "/_synapse/admin/v1/user/{user}/redact",
            redact,
        )
        .operator(
            Method::GET,
            "/_synapse/admin/v1/user/redact_status/{id}",
            status,
        )
        .operator(
            Method::GET,
            "/_synapse/admin/v1/fetch_event/{event}",
            fetch_event,
        )
}

#[derive(Deserialize)]
struct Wanted {
    rooms: Vec<OwnedRoomId>,
    reason: Option<String>,
    limit: Option<usize>,
    after_ts: Option<u64>,
    #[serde(default)]
    use_admin: bool,
}

/// Our own users redact for themselves, unless the operator is to do it; for others the operator does, where they may.
async fn redact(
    Operator(by): Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(user): Named<OwnedUserId>,
    Sent(wanted): Sent<Wanted>,
) -> Result<RawJson, ApiError> {
    if wanted.limit == Some(0) {
        return Err(ApiError::invalid_param("The limit has to be positive."));
    }
    let by_operator = wanted.use_admin || !rooms.is_local(&user);
    let how = Redaction {
        by: by_operator.then_some(by.user_id),
        rooms: wanted.rooms,
        reason: wanted.reason,
        after_ms: wanted.after_ts.unwrap_or_default(),
        limit: wanted.limit.unwrap_or(EVENTS).min(MOST),
    };
    let id = rooms.begin_redaction(&user, how).await?;
    Ok(RawJson::of(&json!({ "redact_id": id })))
}

fn described(job: &RedactionJob) -> Value {
    let (status, error) = match &job.status {
        JobStatus::Active => ("active", None),
        JobStatus::Complete => ("complete", None),
        JobStatus::Failed(error) => ("failed", Some(error)),
    };
    let mut described = json!({
        "status": status,
        "successful_redactions": job.report.redacted,
        "failed_redactions": job.report.failed,
    });
    if let Some(error) = error {
        described["error"] = error.as_str().into();
    }
    described
}

async fn status(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(id): Named<String>,
) -> Result<RawJson, ApiError> {
    let job = rooms.redactions().of_id(&id).ok_or_else(|| {
        ApiError::not_found(
            "There is no such redaction, or it was a day ago, or before the last restart.",
        )
    })?;
    Ok(RawJson::of(&described(&job)))
}

/// Whatever is known of the event: in a timeline, or only because others refer to it.
async fn fetch_event(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(event): Named<OwnedEventId>,
) -> Result<RawJson, ApiError> {
    let unknown = || ApiError::not_found("There is no such event here.");
    let (view, num) = rooms.event_anywhere(&event).await?.ok_or_else(unknown)?;
    let form = Form {
        now_ms: rooms.now_ms(),
        ..Form::default()
    };
    let mut shown = view.state_json(&[num], &form).await?;
    let event = shown.pop().ok_or_else(unknown)?;
    Ok(RawJson(format!(r#"{{"event":{event}}}"#).into()))
}
