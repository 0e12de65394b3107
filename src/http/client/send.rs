//! Sending events (Client-Server API, "Sending events to a room", "Redactions").

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, Uri};
use resuni_accounts::{Accounts, Session};
use resuni_delivery::{Delayed, DelayedEvents, Notices};
use resuni_rooms::{MAX_STICKY_MS, NewEvent, Rooms, TxnKey};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, TransactionId, UserId,
    api::client::{message::send_message_event, redact::redact_event, state::send_state_event},
    api::error::ErrorCode,
    serde::Raw,
};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    delayed::{delay, keep},
    membership::{check_guest, check_invite, check_leaving},
};
use crate::{
    error::ApiError,
    extract::{Answer, Policy, Reply, Ruma},
    limits::Class,
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    let sending = Policy::GUEST.public().class(Class::Send);
    // An empty state key may be left out, with or without the slash before it.
    let without_key = [
        "/_matrix/client/r0/rooms/{room_id}/state/{event_type}",
        "/_matrix/client/r0/rooms/{room_id}/state/{event_type}/",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}",
        "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/",
    ];
    Routes::new()
        .with(sending, message)
        .with(sending, state)
        .at(&without_key, sending, state)
        .with(Policy::CLIENT.class(Class::Send), redact)
}

/// A transaction is one of a device; an application service acts without one.
fn transaction(caller: &Session, txn: &TransactionId) -> TxnKey {
    let device = match (&caller.device_id, &caller.appservice) {
        (Some(device), _) => device.to_string(),
        (None, Some(service)) => format!("\u{0}{}", service.id()),
        (None, None) => String::new(),
    };
    TxnKey {
        device,
        txn: txn.to_string(),
    }
}

/// Only application services choose the time of what they send ("Timestamp massaging").
fn timestamp(caller: &Session, asked: Option<MilliSecondsSinceUnixEpoch>) -> Option<u64> {
    asked
        .filter(|_| caller.appservice.is_some())
        .map(|time| time.get().into())
}

/// The content, which has to be an object: no body at all is not an empty one here.
fn content<T>(raw: Raw<T>, body: &[u8]) -> Result<Box<RawValue>, ApiError> {
    if body.is_empty() {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::NotJson,
            "The body of the request is the content of the event.",
        ));
    }
    let json = raw.into_json();
    if json.get().starts_with('{') {
        Ok(json)
    } else {
        Err(ApiError::bad_json("The content of an event is an object."))
    }
}

async fn message(
    State(rooms): State<Arc<Rooms>>,
    State(delayed): State<Arc<DelayedEvents>>,
    Ruma {
        body,
        caller,
        raw,
        uri,
        ..
    }: Ruma<send_message_event::v3::Request>,
) -> Result<Response, ApiError> {
    let (delay_ms, sticky_ms) = (delay(&uri)?, sticky(&uri)?);
    // A delayed event that is asked for once more is known by its transaction: clients leave the body out then.
    let given: &[u8] = if delay_ms.is_some() { b"{}" } else { &raw };
    let content = content(body.body, given)?;
    let kind = body.event_type.to_string();
    let event = NewEvent {
        redacts: if kind == "m.room.redaction" {
            redacts(&content)?
        } else {
            None
        },
        timestamp: timestamp(&caller, body.timestamp),
        sticky_ms,
        ..NewEvent::message(kind, content)
    };
    let txn = transaction(&caller, &body.txn_id);
    if let Some(delay_ms) = delay_ms {
        let event = later(&caller, body.room_id, event, delay_ms, Some(txn));
        return Ok(keep(&delayed, event).await?.into_response());
    }
    let id = rooms
        .send(&body.room_id, &caller.user_id, event, Some(txn))
        .await?;
    Ok(Reply(send_message_event::v3::Response::new(id)).into_response())
}

/// An event to be sent later.
fn later(
    caller: &Session,
    room: OwnedRoomId,
    event: NewEvent,
    delay_ms: u64,
    txn: Option<TxnKey>,
) -> Delayed {
    Delayed {
        account: caller.account,
        room,
        kind: event.kind,
        state_key: event.state_key,
        content: event.content,
        redacts: event.redacts,
        delay_ms,
        txn,
        sticky_ms: event.sticky_ms,
    }
}

/// For how many milliseconds the event is to be sticky (MSC4354).
fn sticky(uri: &Uri) -> Result<Option<u64>, ApiError> {
    #[derive(Deserialize)]
    struct Query {
        #[serde(rename = "org.matrix.msc4354.sticky_duration_ms")]
        sticky_ms: Option<u64>,
    }
    let query = axum::extract::Query::<Query>::try_from_uri(uri)
        .map_err(|error| ApiError::invalid_param(error.to_string()))?;
    let sticky_ms = query.0.sticky_ms;
    if sticky_ms.is_some_and(|ms| ms > MAX_STICKY_MS) {
        return Err(ApiError::invalid_param(
            "An event can be sticky for an hour (3600000 milliseconds) at most.",
        ));
    }
    Ok(sticky_ms)
}

/// A redaction that is sent as an ordinary event names its target in its content; where that
/// stands in the event depends on the room version (v1.18, MSC4169).
fn redacts(content: &RawValue) -> Result<Option<OwnedEventId>, ApiError> {
    #[derive(Deserialize)]
    struct Redaction {
        redacts: Option<OwnedEventId>,
    }
    let redaction: Redaction = serde_json::from_str(content.get())
        .map_err(|error| ApiError::bad_json(error.to_string()))?;
    Ok(redaction.redacts)
}

/// Who authorised a restricted join is for servers to say, in the join itself (room version 8, "Restricted
/// join rules"): what a client says of it, or copies from an older event, is left out.
fn without_authoriser(content: Box<RawValue>) -> Result<Box<RawValue>, ApiError> {
    const AUTHORISER: &str = "join_authorised_via_users_server";
    if !content.get().contains(AUTHORISER) {
        return Ok(content);
    }
    let bad = |error: serde_json::Error| ApiError::bad_json(error.to_string());
    let mut object: Map<String, Value> = serde_json::from_str(content.get()).map_err(bad)?;
    object.remove(AUTHORISER);
    serde_json::value::to_raw_value(&object).map_err(bad)
}

async fn state(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    State(delayed): State<Arc<DelayedEvents>>,
    State(notices): State<Option<Arc<Notices>>>,
    Ruma {
        body,
        caller,
        raw,
        uri,
        ..
    }: Ruma<send_state_event::v3::Request>,
) -> Result<Response, ApiError> {
    let mut content = content(body.body, &raw)?;
    let kind = body.event_type.to_string();
    if kind == "m.room.member" {
        content = without_authoriser(content)?;
        let membership = resuni_rooms::fields::string_member(content.get(), "membership");
        if membership.as_deref() == Some("invite")
            && let Ok(target) = <&UserId>::try_from(body.state_key.as_str())
        {
            check_invite(&accounts, &caller.user_id, target).await?;
        }
        if membership.as_deref() == Some("leave") && body.state_key == caller.user_id.as_str() {
            check_leaving(notices.as_deref(), &caller.user_id, &body.room_id).await?;
        }
    }
    if kind == "m.room.create" {
        return Err(ApiError::bad_json("A room is created once."));
    }
    if kind == "m.room.canonical_alias" {
        // Aliases that the room newly claims have to point at it.
        rooms.check_canonical_alias(&body.room_id, &content).await?;
    }
    if kind == "m.room.member" && caller.is_guest {
        check_guest(&rooms, &caller, &body.room_id).await?;
    }
    let event = NewEvent {
        timestamp: timestamp(&caller, body.timestamp),
        sticky_ms: sticky(&uri)?,
        ..NewEvent::state(kind, body.state_key, content)
    };
    if let Some(delay_ms) = delay(&uri)? {
        let event = later(&caller, body.room_id, event, delay_ms, None);
        return Ok(keep(&delayed, event).await?.into_response());
    }
    let id = rooms
        .send(&body.room_id, &caller.user_id, event, None)
        .await?;
    Ok(Reply(send_state_event::v3::Response::new(id)).into_response())
}

async fn redact(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<redact_event::v3::Request>,
) -> Answer<redact_event::v3::Response> {
    let content = match &body.reason {
        Some(reason) => json!({ "reason": reason }),
        None => json!({}),
    };
    let content = serde_json::value::to_raw_value(&content).map_err(ApiError::internal)?;
    let event = NewEvent {
        redacts: Some(body.event_id),
        ..NewEvent::message("m.room.redaction", content)
    };
    let txn = transaction(&caller, &body.txn_id);
    let id = rooms
        .send(&body.room_id, &caller.user_id, event, Some(txn))
        .await?;
    Ok(Reply(redact_event::v3::Response::new(id)))
}
