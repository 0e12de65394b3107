//! `/keys/upload`.

use std::collections::BTreeMap;

use resuni_store::{Batch, Snapshot};
use ruma::{DeviceId, UserId};
use serde_json::Value;

use super::{
    Object, bounded, copy_signatures,
    cross_signing::public_key,
    is_same_key,
    one_time_keys::Ids,
    parse,
    tables::{CROSS_SIGNING, DEVICE_KEYS, DeviceKeysChanged, KEYS, Usage},
};
use crate::{AccountNum, Accounts, error::AccountError, tables::DEVICE};

/// The body of `/keys/upload`.
#[derive(Clone, Debug, Default)]
pub struct KeyUpload {
    /// The identity keys of the device.
    pub device_keys: Option<Object>,
    /// One-time keys by `<algorithm>:<id>`.
    pub one_time_keys: Object,
    /// Fallback keys by `<algorithm>:<id>`; one for each algorithm.
    pub fallback_keys: Object,
}

/// An upload whose form is right.
pub(super) struct Checked<'a> {
    pub device_keys: Option<&'a Object>,
    one_time: Ids,
    fallback: Ids,
}

impl KeyUpload {
    /// The keys, if they are in order and those of this device.
    pub(super) fn checked(
        &self,
        user: &UserId,
        device: &DeviceId,
    ) -> Result<Checked<'_>, AccountError> {
        if let Some(keys) = &self.device_keys {
            check_owner(keys, user, device)?;
        }
        Ok(Checked {
            device_keys: self.device_keys.as_ref(),
            one_time: Ids::of(&self.one_time_keys)?,
            fallback: Ids::of(&self.fallback_keys)?,
        })
    }
}

impl Accounts {
    /// Keeps the keys of a device; answers how many one-time keys it has, by algorithm.
    pub async fn upload_keys(
        &self,
        account: AccountNum,
        device: &DeviceId,
        upload: &KeyUpload,
    ) -> Result<BTreeMap<String, u64>, AccountError> {
        let user = self.user_id(&self.active(account).await?.localpart)?;
        let keys = upload.checked(&user, device)?;
        let key = (account, device.to_string());
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let snapshot = self.snapshot();
            if !snapshot.contains(&DEVICE, &key).await? {
                return Err(AccountError::UnknownDevice);
            }
            let mut batch = Batch::new();
            batch.guard_exists(&DEVICE, &key);
            if self
                .put_keys(&snapshot, &mut batch, &key, &user, keys)
                .await?
            {
                let devices = vec![(key.1.clone(), false)];
                self.keys_changed(&snapshot, &mut batch, account, &user, devices)
                    .await?;
            }
            if batch.is_empty() {
                None
            } else {
                Some(self.store.commit(batch).await?)
            }
        };
        if let Some(applied) = applied {
            applied.durable().await?;
        }
        let keys = self
            .one_time_keys(&self.snapshot(), account, device)
            .await?;
        Ok(keys.counts)
    }

    /// Adds keys to a batch. Answers whether the identity keys are others than before: then the caller says so, once
    /// for the batch.
    pub(super) async fn put_keys(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        key: &(AccountNum, String),
        user: &UserId,
        keys: Checked<'_>,
    ) -> Result<bool, AccountError> {
        let new_one_time = keys.one_time.add(snapshot, batch, key).await?;
        let new_fallback = keys.fallback.replace(snapshot, batch, key).await?;
        let changed = match keys.device_keys {
            Some(keys) => {
                self.put_device_keys(snapshot, batch, key, user, keys)
                    .await?
            }
            None => false,
        };
        if new_one_time || new_fallback {
            let payload = DeviceKeysChanged {
                device_id: key.1.clone(),
            };
            self.announce(batch, KEYS, key.0, &payload)?;
        }
        Ok(changed)
    }

    async fn put_device_keys(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        key: &(AccountNum, String),
        user: &UserId,
        keys: &Object,
    ) -> Result<bool, AccountError> {
        for usage in Usage::ALL {
            let row = snapshot.get(&CROSS_SIGNING, &(key.0, usage)).await?;
            let cross_signing = row.as_deref().map(parse).transpose()?;
            if cross_signing.is_some_and(|row| public_key(&row) == Some(&key.1)) {
                return Err(AccountError::InvalidParam(
                    "A device id may not be the same as a cross-signing key.".into(),
                ));
            }
        }
        let mut new = keys.clone();
        new.remove("unsigned");
        keep_own_signatures(&mut new, user);
        let stored = snapshot.get(&DEVICE_KEYS, key).await?;
        if let Some(stored) = &stored {
            let stored = parse(stored)?;
            // The same keys again keep the signatures that others gave them meanwhile.
            if is_same_key(&stored, &new) {
                copy_signatures(&stored, &mut new, user);
            }
        }
        let json = bounded(&Value::Object(new), "Device keys")?;
        if stored.as_ref() == Some(&json) {
            return Ok(false);
        }
        batch.put(&DEVICE_KEYS, key, &json);
        Ok(true)
    }
}

/// The keys must be those of the device that uploads them.
fn check_owner(keys: &Object, user: &UserId, device: &DeviceId) -> Result<(), AccountError> {
    let is = |name: &str, value: &str| keys.get(name).and_then(Value::as_str) == Some(value);
    if !is("user_id", user.as_str()) || !is("device_id", device.as_str()) {
        return Err(AccountError::InvalidParam(
            "The device keys are not those of the user and the device of this session.".into(),
        ));
    }
    if !keys.get("keys").is_some_and(Value::is_object)
        || !keys.get("algorithms").is_some_and(Value::is_array)
    {
        return Err(AccountError::InvalidParam(
            "Device keys have an object \"keys\" and a list \"algorithms\".".into(),
        ));
    }
    Ok(())
}

fn keep_own_signatures(keys: &mut Object, user: &UserId) {
    if let Some(Value::Object(all)) = keys.get_mut("signatures") {
        all.retain(|signer, _| signer == user.as_str());
    }
}
