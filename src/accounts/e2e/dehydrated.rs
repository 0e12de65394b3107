//! The dehydrated device of an account (MSC3814): a device that nobody holds. Its private keys are here, encrypted
//! by a key that the server doesn't know, so that messages to it wait for the next device that its owner logs in.
//!
//! It is an ordinary device with a row beside it. It has no tokens and gets none.

use resuni_store::{Batch, Snapshot, StoreError};
use ruma::DeviceId;
use serde_json::Value;

use super::{
    KeyUpload, Object, bounded,
    tables::{DEHYDRATED, Dehydrated},
};
use crate::{
    AccountNum, Accounts,
    devices::{Leaving, checked_name},
    error::AccountError,
    sessions::checked_device_id,
    tables::{DEVICE, DEVICES, Device, DeviceChange, DevicesChanged},
};

/// What becomes a dehydrated device.
#[derive(Clone, Debug)]
pub struct NewDehydrated<'a> {
    /// Its id.
    pub device_id: &'a DeviceId,
    /// Its name.
    pub display_name: Option<String>,
    /// Its private keys, encrypted; kept as it is.
    pub data: Object,
    /// Its public keys; identity keys have to be among them.
    pub keys: KeyUpload,
}

impl Accounts {
    /// Makes this the dehydrated device of an account, in one batch with its keys. The one before it goes, with the
    /// messages that waited for it. The same device again keeps its messages and its one-time keys.
    pub async fn put_dehydrated(
        &self,
        account: AccountNum,
        new: NewDehydrated<'_>,
    ) -> Result<(), AccountError> {
        checked_device_id(new.device_id)?;
        let display_name = checked_name(new.display_name)?;
        let data = bounded(&Value::Object(new.data), "A dehydrated device")?;
        let user = self.user_id(&self.active(account).await?.localpart)?;
        let keys = new.keys.checked(&user, new.device_id)?;
        if keys.device_keys.is_none() {
            return Err(AccountError::MissingParam(
                "A dehydrated device needs its device_keys.",
            ));
        }
        let key = (account, new.device_id.to_string());
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let snapshot = self.snapshot();
            let old = snapshot.get(&DEHYDRATED, &account).await?;
            let again = old.as_ref().is_some_and(|old| old.device == key.1);
            let device = snapshot.get(&DEVICE, &key).await?;
            if device.is_some() && !again {
                return Err(AccountError::InvalidParam(
                    "There is a device with this id that is not dehydrated.".into(),
                ));
            }
            let mut batch = Batch::new();
            let mut leaving = Leaving::default();
            if let Some(old) = old.filter(|_| !again) {
                let old = (account, old.device);
                self.remove_device(&snapshot, &mut batch, &old, &mut leaving)
                    .await?;
            }
            let created_ms = device.map_or(self.now_ms(), |device| device.created_ms);
            let device = Device {
                display_name,
                created_ms,
            };
            batch.put(&DEVICE, &key, &device);
            let row = Dehydrated {
                device: key.1.clone(),
                data,
            };
            batch.put(&DEHYDRATED, &account, &row);
            if self
                .put_keys(&snapshot, &mut batch, &key, &user, keys)
                .await?
            {
                leaving.known.push((key.1.clone(), false));
            }
            let revoked = self
                .announce_leaving(&snapshot, &mut batch, account, leaving)
                .await?;
            if !again {
                let payload = DevicesChanged {
                    device_id: key.1,
                    change: DeviceChange::Added,
                };
                self.announce(&mut batch, DEVICES, account, &payload)?;
            }
            let applied = self.store.commit(batch).await?;
            self.tokens.forget(revoked);
            applied
        };
        Ok(applied.durable().await?)
    }

    /// The id of the dehydrated device, and what its owner stored of it; none if there is none.
    pub async fn dehydrated(
        &self,
        account: AccountNum,
    ) -> Result<Option<(String, Object)>, AccountError> {
        match self.snapshot().get(&DEHYDRATED, &account).await? {
            Some(row) => Ok(Some((row.device, super::parse(&row.data)?))),
            None => Ok(None),
        }
    }

    /// Removes the dehydrated device; answers its id, or none if there was none.
    pub async fn delete_dehydrated(
        &self,
        account: AccountNum,
    ) -> Result<Option<String>, AccountError> {
        let Some(row) = self.snapshot().get(&DEHYDRATED, &account).await? else {
            return Ok(None);
        };
        let device: &DeviceId = row.device.as_str().into();
        self.delete_devices(account, &[device]).await?;
        Ok(Some(row.device))
    }

    /// Whether a device is a dehydrated one: nobody acts as such a device.
    pub(crate) async fn is_dehydrated(
        &self,
        snapshot: &Snapshot,
        device: &(AccountNum, String),
    ) -> Result<bool, StoreError> {
        let row = snapshot.get(&DEHYDRATED, &device.0).await?;
        Ok(row.is_some_and(|row| row.device == device.1))
    }
}
