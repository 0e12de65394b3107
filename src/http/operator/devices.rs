//! Devices and pushers of an account, in the form of Synapse's admin API.

use std::sync::Arc;

use axum::extract::State;
use http::Method;
use resuni_accounts::{Accounts, DeviceInfo};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Named, Operator, Sent, given};
use crate::{error::ApiError, extract::RawJson, routes::Routes};

/// The most devices that are removed by one request.
const MOST: usize = 1_000;

/// The table of these endpoints.
pub fn routes() -> Routes {
    const ALL: &str = "/_synapse/admin/v2/users/{user}/devices";
    const ONE: &str = "/_synapse/admin/v2/users/{user}/devices/{device}";
    Routes::new()
        .operator(Method::GET, ALL, list)
        .operator(Method::POST, ALL, create)
        .operator(Method::GET, ONE, show)
        .operator(Method::PUT, ONE, rename)
        .operator(Method::DELETE, ONE, delete)
        .operator(
            Method::POST,
            "/_synapse/admin/v2/users/{user}/delete_devices",
            delete_some,
        )
        .operator(
            Method::GET,
            "/_synapse/admin/v1/users/{user}/pushers",
            pushers,
        )
}

fn described(device: &DeviceInfo, user: &UserId) -> Value {
    json!({
        "device_id": device.device_id,
        "display_name": device.display_name,
        "last_seen_ip": device.last_seen_ip,
        "last_seen_user_agent": device.user_agent,
        "last_seen_ts": device.last_seen_ms,
        "user_id": user,
    })
}

async fn list(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    let devices = accounts.devices(account).await?;
    let devices: Vec<Value> = devices
        .iter()
        .map(|device| {
            let mut device = described(device, &user);
            device["dehydrated"] = false.into();
            device
        })
        .collect();
    let total = devices.len();
    Ok(RawJson::of(&json!({ "devices": devices, "total": total })))
}

#[derive(Deserialize)]
struct New {
    device_id: OwnedDeviceId,
}

async fn create(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
    Sent(new): Sent<New>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    if accounts.device(account, &new.device_id).await?.is_none() {
        accounts.put_device(account, &new.device_id, None).await?;
    }
    Ok(RawJson::of(&json!({})))
}

async fn show(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named((user, device)): Named<(OwnedUserId, OwnedDeviceId)>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    let device = accounts.device(account, &device).await?;
    let device = device.ok_or_else(|| ApiError::not_found("There is no such device."))?;
    Ok(RawJson::of(&described(&device, &user)))
}

#[derive(Deserialize)]
struct Rename {
    #[serde(default, deserialize_with = "given")]
    display_name: Option<Option<String>>,
}

async fn rename(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named((user, device)): Named<(OwnedUserId, OwnedDeviceId)>,
    Sent(wanted): Sent<Rename>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    match wanted.display_name {
        Some(name) => accounts.rename_device(account, &device, name).await?,
        None if accounts.device(account, &device).await?.is_some() => {}
        None => return Err(ApiError::not_found("There is no such device.")),
    }
    Ok(RawJson::of(&json!({})))
}

async fn delete(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named((user, device)): Named<(OwnedUserId, OwnedDeviceId)>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    accounts.delete_devices(account, &[&device]).await?;
    Ok(RawJson::of(&json!({})))
}

#[derive(Deserialize)]
struct Several {
    devices: Vec<OwnedDeviceId>,
}

async fn delete_some(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
    Sent(Several { devices }): Sent<Several>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    if devices.len() > MOST {
        let message = format!("At most {MOST} devices are removed at a time.");
        return Err(ApiError::invalid_param(message));
    }
    accounts.delete_devices(account, &devices).await?;
    Ok(RawJson::of(&json!({})))
}

async fn pushers(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    let pushers = accounts.pushers(account).await?;
    let pushers: Vec<_> = pushers.into_iter().map(|stored| stored.pusher).collect();
    let total = pushers.len();
    Ok(RawJson::of(&json!({ "pushers": pushers, "total": total })))
}
