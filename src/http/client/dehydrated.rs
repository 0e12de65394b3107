//! Dehydrated devices (MSC3814, under its unstable names).

use std::sync::Arc;

use axum::extract::{Query, State};
use http::Uri;
use resuni_accounts::{
    AccountNum, Accounts,
    e2e::{KeyUpload, NewDehydrated},
};
use resuni_store::Position;
use ruma::DeviceId;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::keys::object;
use crate::{
    error::ApiError,
    extract::{RawJson, Ruma, json_object},
    routes::Routes,
};

/// Messages of one answer, as many as in a sync.
const MESSAGES: usize = 100;

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(put)
        .on(get)
        .on(delete)
        .on(events)
        .on(events_by_body)
}

/// An endpoint whose body and answer are read and written by hand: they are passed on as they come.
macro_rules! by_hand {
    ($name:ident, $method:ident, $path:literal $(, $(#[$meta:meta])* $field:ident)?) => {
        mod $name {
            use ruma::api::{auth_scheme::AccessToken, metadata, request, response};

            metadata! {
                method: $method,
                rate_limited: false,
                authentication: AccessToken,
                path: $path,
            }

            /// What is in the path.
            #[request]
            pub struct Request {$(
                $(#[$meta])*
                pub $field: ruma::OwnedDeviceId,
            )?}

            /// Written by hand.
            #[response]
            pub struct Response {}
        }
    };
}

by_hand!(
    put_device,
    PUT,
    "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
);
by_hand!(
    get_device,
    GET,
    "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
);
by_hand!(
    delete_device,
    DELETE,
    "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
);
by_hand!(
    get_events,
    GET,
    "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events",
    #[ruma_api(path)]
    device_id
);
by_hand!(
    post_events,
    POST,
    "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events",
    #[ruma_api(path)]
    device_id
);

fn none() -> ApiError {
    ApiError::not_found("You have no dehydrated device.")
}

async fn put(
    State(accounts): State<Arc<Accounts>>,
    Ruma { caller, raw, .. }: Ruma<put_device::Request>,
) -> Result<RawJson, ApiError> {
    let mut body = json_object(&raw)?;
    let needed = |name: &str, found: Option<Map<String, Value>>| {
        found.ok_or_else(|| ApiError::missing_param(format!("\"{name}\" is missing.")))
    };
    let device_id = match body.remove("device_id") {
        Some(Value::String(id)) => id,
        Some(_) => return Err(ApiError::bad_json("\"device_id\" is not a string.")),
        None => return Err(ApiError::missing_param("\"device_id\" is missing.")),
    };
    let data = needed("device_data", object(&mut body, "device_data")?)?;
    if !data.get("algorithm").is_some_and(Value::is_string) {
        return Err(ApiError::bad_json("\"device_data\" has no \"algorithm\"."));
    }
    let device_keys = needed("device_keys", object(&mut body, "device_keys")?)?;
    let display_name = match body.remove("initial_device_display_name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name),
        Some(_) => return Err(ApiError::bad_json("The display name is not a string.")),
    };
    let new = NewDehydrated {
        device_id: device_id.as_str().into(),
        display_name,
        data,
        keys: KeyUpload {
            device_keys: Some(device_keys),
            one_time_keys: object(&mut body, "one_time_keys")?.unwrap_or_default(),
            fallback_keys: object(&mut body, "fallback_keys")?.unwrap_or_default(),
        },
    };
    accounts.put_dehydrated(caller.account, new).await?;
    Ok(RawJson::of(&json!({ "device_id": device_id })))
}

async fn get(
    State(accounts): State<Arc<Accounts>>,
    Ruma { caller, .. }: Ruma<get_device::Request>,
) -> Result<RawJson, ApiError> {
    let found = accounts.dehydrated(caller.account).await?;
    let (device, data) = found.ok_or_else(none)?;
    Ok(RawJson::of(
        &json!({ "device_id": device, "device_data": data }),
    ))
}

async fn delete(
    State(accounts): State<Arc<Accounts>>,
    Ruma { caller, .. }: Ruma<delete_device::Request>,
) -> Result<RawJson, ApiError> {
    let deleted = accounts.delete_dehydrated(caller.account).await?;
    let device = deleted.ok_or_else(none)?;
    Ok(RawJson::of(&json!({ "device_id": device })))
}

/// The messages of the dehydrated device after `from`, and where the next ones begin if there are more. None are
/// deleted: what reads them may fail half-way, and another device begins again.
async fn page(
    accounts: &Accounts,
    account: AccountNum,
    device: &DeviceId,
    from: Option<&str>,
) -> Result<(Vec<Value>, Option<Position>, bool), ApiError> {
    let dehydrated = accounts.dehydrated(account).await?;
    if dehydrated.is_none_or(|(id, _)| id != device.as_str()) {
        return Err(ApiError::forbidden("This is not your dehydrated device."));
    }
    let since = match from {
        Some(token) => Position(token.parse().map_err(|_| {
            ApiError::invalid_param("This token did not come from a page of events.")
        })?),
        None => Position(0),
    };
    let snapshot = accounts.store().snapshot();
    let up_to = accounts.store().log().watermark();
    let page = accounts
        .to_device(&snapshot, account, device, since, up_to, MESSAGES)
        .await?;
    let last = page.messages.last().map(|message| message.position);
    let events = page.messages.iter();
    let events = events
        .map(|message| serde_json::from_str(message.event.get()).map_err(ApiError::internal))
        .collect::<Result<_, _>>()?;
    Ok((events, last, page.more))
}

/// As the proposal has it today: `next_batch` "if and only if there are more messages".
async fn events(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        body, caller, uri, ..
    }: Ruma<get_events::Request>,
) -> Result<RawJson, ApiError> {
    let from = from(&uri)?;
    let (events, last, more) =
        page(&accounts, caller.account, &body.device_id, from.as_deref()).await?;
    let mut answer = json!({ "events": events });
    if let (true, Some(last)) = (more, last) {
        answer["next_batch"] = last.0.to_string().into();
    }
    Ok(RawJson::of(&answer))
}

fn from(uri: &Uri) -> Result<Option<String>, ApiError> {
    #[derive(Deserialize)]
    struct From {
        from: Option<String>,
    }
    let query = Query::<From>::try_from_uri(uri);
    let query = query.map_err(|error| ApiError::invalid_param(error.to_string()))?;
    Ok(query.0.from)
}

/// As clients still ask: they go on with `next_batch` until a page is empty, so every other one has a token.
async fn events_by_body(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        body, caller, raw, ..
    }: Ruma<post_events::Request>,
) -> Result<RawJson, ApiError> {
    #[derive(Deserialize)]
    struct Body {
        next_batch: Option<String>,
    }
    let raw: &[u8] = if raw.is_empty() { b"{}" } else { &raw };
    let Body { next_batch: from } =
        serde_json::from_slice(raw).map_err(|error| ApiError::bad_json(error.to_string()))?;
    let (events, last, _) =
        page(&accounts, caller.account, &body.device_id, from.as_deref()).await?;
    let mut answer = json!({ "events": events });
    if let Some(token) = last.map(|last| last.0.to_string()).or(from) {
        answer["next_batch"] = token.into();
    }
    Ok(RawJson::of(&answer))
}
