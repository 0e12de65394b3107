//! Devices (Client-Server API, "Device Management").

use std::sync::Arc;

use axum::extract::State;
use http::{Method, StatusCode};
use resuni_accounts::{Accounts, DeviceInfo};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::device::{
        Device, delete_device, delete_devices, get_device, get_devices, update_device,
    },
};

use super::uia::Unconfirmed;
use crate::{
    error::ApiError,
    extract::{Answer, Policy, Reply, Ruma, Sparse},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .guest(all)
        .guest(one)
        .guest(update)
        .with(Policy::CLIENT.confirmed(), delete)
        .with(Policy::CLIENT.confirmed(), delete_many)
}

fn translate(info: DeviceInfo) -> Device {
    let mut device = Device::new(info.device_id);
    device.display_name = info.display_name;
    device.last_seen_ip = info.last_seen_ip;
    device.last_seen_ts = info
        .last_seen_ms
        .and_then(|ms| UInt::try_from(ms).ok())
        .map(MilliSecondsSinceUnixEpoch);
    device
}

fn unknown() -> ApiError {
    ApiError::not_found("You have no such device.")
}

async fn all(
    State(accounts): State<Arc<Accounts>>,
    Ruma { caller, .. }: Ruma<get_devices::v3::Request>,
) -> Result<Sparse<get_devices::v3::Response>, ApiError> {
    let devices = accounts.devices(caller.account).await?;
    let devices = devices.into_iter().map(translate).collect();
    Ok(Sparse(get_devices::v3::Response::new(devices)))
}

async fn one(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<get_device::v3::Request>,
) -> Result<Sparse<get_device::v3::Response>, ApiError> {
    let device = accounts
        .device(caller.account, &body.device_id)
        .await?
        .ok_or_else(unknown)?;
    Ok(Sparse(get_device::v3::Response::new(translate(device))))
}

async fn update(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<update_device::v3::Request>,
) -> Result<(StatusCode, Reply<update_device::v3::Response>), ApiError> {
    let id = &body.device_id;
    let mut new = false;
    if caller.appservice.is_some() {
        new = accounts
            .put_device(caller.account, id, body.display_name)
            .await?;
    } else if accounts.device(caller.account, id).await?.is_none() {
        return Err(unknown());
    } else if body.display_name.is_some() {
        accounts
            .rename_device(caller.account, id, body.display_name)
            .await?;
    }
    let status = if new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Reply(update_device::v3::Response::new())))
}

async fn delete(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        body,
        caller,
        raw,
        uri,
        ..
    }: Ruma<delete_device::v3::Request>,
) -> Answer<delete_device::v3::Response> {
    let request = Unconfirmed {
        method: Method::DELETE,
        uri: &uri,
        raw: &raw,
    };
    request.confirm_password(&accounts, &caller).await?;
    accounts
        .delete_devices(caller.account, &[&body.device_id])
        .await?;
    Ok(Reply(delete_device::v3::Response::new()))
}

async fn delete_many(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        body,
        caller,
        raw,
        uri,
        ..
    }: Ruma<delete_devices::v3::Request>,
) -> Answer<delete_devices::v3::Response> {
    let request = Unconfirmed {
        method: Method::POST,
        uri: &uri,
        raw: &raw,
    };
    request.confirm_password(&accounts, &caller).await?;
    let devices: Vec<_> = body.devices.iter().map(|device| &**device).collect();
    accounts.delete_devices(caller.account, &devices).await?;
    Ok(Reply(delete_devices::v3::Response::new()))
}
