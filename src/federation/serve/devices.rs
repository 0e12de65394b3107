//! Devices and keys of our people (server-server API, "Device Management", "End-to-End Encryption").
//! Only of ours: what is known of others would tell whom our people talk to.

use resuni_accounts::AccountNum;
use ruma::{
    OwnedDeviceId, UInt, UserId,
    api::federation::{
        device::get_devices::v1 as get_devices,
        keys::{claim_keys::v1 as claim_keys, get_keys::v1 as get_keys},
    },
    serde::Raw,
};

use serde_json::Value;

use super::Serve;
use crate::{error::FederationError, tables::DEVICE_STREAMS};

/// Users or keys of one request.
const MAX_ASKED: usize = 1_000;

impl Serve {
    /// `GET /v1/user/devices/{userId}`.
    ///
    /// # Errors
    /// 404 when there is no such user.
    pub async fn user_devices(
        &self,
        request: get_devices::Request,
    ) -> Result<get_devices::Response, FederationError> {
        let unknown = || FederationError::NotFound("there is no such user".to_owned());
        let account = self.account(&request.user_id).await?.ok_or_else(unknown)?;
        let snapshot = self.rooms.store().snapshot();
        let stream = snapshot
            .get(&DEVICE_STREAMS, &request.user_id.to_string())
            .await?;
        let stream = UInt::new_saturating(stream.unwrap_or_default());
        let keys = self.accounts.query_keys(account, &[], None).await?;
        let mut response = get_devices::Response::new(request.user_id, stream);
        for (device, mut keys) in keys.devices {
            let name = keys.remove("unsigned").and_then(|unsigned| {
                Some(unsigned.get("device_display_name")?.as_str()?.to_owned())
            });
            let mut device = get_devices::UserDevice::new(device.into(), raw(&keys)?);
            device.device_display_name = name;
            response.devices.push(device);
        }
        response.master_key = keys.master.as_ref().map(raw).transpose()?;
        response.self_signing_key = keys.self_signing.as_ref().map(raw).transpose()?;
        Ok(response)
    }

    /// `POST /v1/user/keys/query`.
    ///
    /// # Errors
    /// 400 when too much is asked for.
    pub async fn query_keys(
        &self,
        request: get_keys::Request,
    ) -> Result<get_keys::Response, FederationError> {
        let asked = request
            .device_keys
            .values()
            .map(|devices| devices.len().max(1))
            .sum();
        bounded(asked)?;
        let mut response = get_keys::Response::default();
        for (user, devices) in request.device_keys {
            let Some(account) = self.account(&user).await? else {
                continue;
            };
            let devices: Vec<_> = devices.iter().map(AsRef::as_ref).collect();
            let keys = self.accounts.query_keys(account, &devices, None).await?;
            let mut by_device = std::collections::BTreeMap::new();
            for (device, keys) in &keys.devices {
                by_device.insert(OwnedDeviceId::from(device.as_str()), raw(keys)?);
            }
            response.device_keys.insert(user.clone(), by_device);
            if let Some(master) = &keys.master {
                response.master_keys.insert(user.clone(), raw(master)?);
            }
            if let Some(key) = &keys.self_signing {
                response.self_signing_keys.insert(user, raw(key)?);
            }
        }
        Ok(response)
    }

    /// `POST /v1/user/keys/claim`.
    ///
    /// # Errors
    /// 400 when too much is asked for.
    pub async fn claim_keys(
        &self,
        request: claim_keys::Request,
    ) -> Result<claim_keys::Response, FederationError> {
        bounded(
            request
                .one_time_keys
                .values()
                .map(|devices| devices.len())
                .sum(),
        )?;
        let mut claimed = claim_keys::OneTimeKeys::new();
        for (user, devices) in request.one_time_keys {
            let Some(account) = self.account(&user).await? else {
                continue;
            };
            let wanted: Vec<_> = devices
                .iter()
                .map(|(device, kind)| (&**device, kind.as_str()))
                .collect();
            let found = self.accounts.claim_keys(account, &wanted).await?;
            if found.is_empty() {
                continue;
            }
            let found = serde_json::to_value(found).and_then(serde_json::from_value);
            let found = found.map_err(|e| FederationError::Internal(e.to_string()))?;
            claimed.insert(user, found);
        }
        Ok(claim_keys::Response::new(claimed))
    }

    async fn account(&self, user: &UserId) -> Result<Option<AccountNum>, FederationError> {
        if user.server_name() != self.own {
            return Ok(None);
        }
        // Only an active account has a profile.
        match self.accounts.profile(user.localpart()).await? {
            Some(_) => Ok(self.accounts.find(user.localpart()).await?),
            None => Ok(None),
        }
    }
}

fn bounded(asked: usize) -> Result<(), FederationError> {
    if asked <= MAX_ASKED {
        return Ok(());
    }
    Err(FederationError::invalid(format!(
        "at most {MAX_ASKED} devices can be asked for at once"
    )))
}

fn raw<T>(keys: &serde_json::Map<String, Value>) -> Result<Raw<T>, FederationError> {
    let json = serde_json::value::to_raw_value(keys)
        .map_err(|e| FederationError::Internal(e.to_string()))?;
    Ok(Raw::from_json(json))
}
