//! Events and states (Server-Server API, "Retrieving events", "Backfilling and retrieving missing
//! events", "Authorization rules").

use std::sync::Arc;

use axum::extract::State;
use resuni_federation::{
    divergence::wire::accumulator,
    relationships::{Relationships, wire as event_relationships},
};
use ruma::api::federation::{
    authorization::get_event_authorization,
    backfill::get_backfill,
    event::{
        get_event, get_event_by_timestamp, get_missing_events, get_room_state, get_room_state_ids,
    },
};

use super::On;
use crate::{
    error::ApiError,
    extract::{Answer, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(event)
        .on(state)
        .on(state_ids)
        .on(state_accumulator)
        .on(event_auth)
        .on(backfill)
        .on(missing)
        .on(at_time)
        .on(relationships)
}

async fn event(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<get_event::v1::Request>,
) -> Answer<get_event::v1::Response> {
    Ok(Reply(federation.serve.event(&caller, body).await?))
}

async fn state(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<get_room_state::v1::Request>,
) -> Answer<get_room_state::v1::Response> {
    Ok(Reply(federation.serve.state(&caller, body).await?))
}

async fn state_ids(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<get_room_state_ids::v1::Request>,
) -> Answer<get_room_state_ids::v1::Response> {
    Ok(Reply(federation.serve.state_ids(&caller, body).await?))
}

async fn state_accumulator(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<accumulator::Request>,
) -> Answer<accumulator::Response> {
    let accumulator = federation.serve.state_accumulator(&caller, body).await?;
    Ok(Reply(accumulator))
}

async fn event_auth(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<get_event_authorization::v1::Request>,
) -> Answer<get_event_authorization::v1::Response> {
    Ok(Reply(federation.serve.event_auth(&caller, body).await?))
}

async fn backfill(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<get_backfill::v1::Request>,
) -> Answer<get_backfill::v1::Response> {
    Ok(Reply(federation.serve.backfill(&caller, body).await?))
}

async fn missing(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<get_missing_events::v1::Request>,
) -> Answer<get_missing_events::v1::Response> {
    Ok(Reply(federation.serve.missing_events(&caller, body).await?))
}

async fn at_time(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<get_event_by_timestamp::v1::Request>,
) -> Answer<get_event_by_timestamp::v1::Response> {
    Ok(Reply(federation.serve.event_at_time(&caller, body).await?))
}

/// Threads of any depth (MSC2836), where the operator has switched that on.
async fn relationships(
    On(federation): On,
    State(on): State<Option<Arc<Relationships>>>,
    Ruma { body, caller, .. }: Ruma<event_relationships::Request>,
) -> Answer<event_relationships::Response> {
    on.ok_or_else(ApiError::unrecognized)?;
    let answer = federation.serve.relationships(&caller, &body.asked).await?;
    Ok(Reply(answer))
}
