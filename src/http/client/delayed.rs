//! Events that are sent later (MSC4140, in its unstable form).

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use http::Uri;
use resuni_accounts::Session;
use resuni_delivery::{Delayed, DelayedAction, DelayedError, DelayedEvents};
use ruma::api::client::delayed_events::{
    get_all_delayed_events,
    update_delayed_event::{UpdateAction, unstable_v1, unstable_v2},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    error::ApiError,
    extract::{Answer, RawJson, Reply, Ruma},
    routes::Routes,
};

/// The table of this section. Sending later has the paths of sending.
pub fn routes() -> Routes {
    Routes::new().guest(list).guest(act).guest(act_by_body)
}

/// The delay that a request to send asks for, in milliseconds.
pub fn delay(uri: &Uri) -> Result<Option<u64>, ApiError> {
    #[derive(Deserialize)]
    struct Query {
        #[serde(rename = "org.matrix.msc4140.delay")]
        delay: Option<u64>,
    }
    let query = axum::extract::Query::<Query>::try_from_uri(uri)
        .map_err(|error| ApiError::invalid_param(error.to_string()))?;
    Ok(query.0.delay)
}

/// Keeps an event for later, and answers with its id.
pub async fn keep(delayed: &DelayedEvents, event: Delayed) -> Result<RawJson, ApiError> {
    let id = delayed.add(event).await?;
    Ok(RawJson::of(&json!({ "delay_id": id })))
}

async fn list(
    State(delayed): State<Arc<DelayedEvents>>,
    Ruma { caller, .. }: Ruma<get_all_delayed_events::unstable::Request>,
) -> Result<RawJson, ApiError> {
    let Session { account, .. } = caller;
    let events = delayed.list(account).await?;
    Ok(RawJson::of(&json!({ "delayed_events": events })))
}

fn action(named: &UpdateAction) -> Result<DelayedAction, ApiError> {
    match named {
        UpdateAction::Send => Ok(DelayedAction::Send),
        UpdateAction::Cancel => Ok(DelayedAction::Cancel),
        UpdateAction::Restart => Ok(DelayedAction::Restart),
        _ => Err(ApiError::not_found("There is no such action.")),
    }
}

/// Whoever knows the id may do this: it is how a call is ended by who does not take part in it.
async fn act(
    State(delayed): State<Arc<DelayedEvents>>,
    Ruma { body, .. }: Ruma<unstable_v2::Request>,
) -> Answer<unstable_v2::Response> {
    delayed.act(&body.delay_id, action(&body.action)?).await?;
    Ok(Reply(unstable_v2::Response::new()))
}

async fn act_by_body(
    State(delayed): State<Arc<DelayedEvents>>,
    Ruma { body, .. }: Ruma<unstable_v1::Request>,
) -> Answer<unstable_v1::Response> {
    delayed.act(&body.delay_id, action(&body.action)?).await?;
    Ok(Reply(unstable_v1::Response::new()))
}

impl From<DelayedError> for ApiError {
    fn from(error: DelayedError) -> ApiError {
        let message = error.to_string();
        match error {
            DelayedError::NotFound => ApiError::not_found(message),
            DelayedError::TooLong => ApiError::forbidden(message),
            DelayedError::TooMany { retry_after_ms } => {
                ApiError::limit_exceeded(Duration::from_millis(retry_after_ms))
            }
            DelayedError::Room(error) => error.into(),
            DelayedError::Other(error) => error.into(),
        }
    }
}
