//! `/keys/query` for users of this server.

use std::collections::BTreeMap;

use resuni_store::{Direction, ScanRange, Snapshot};
use ruma::DeviceId;
use serde_json::Value;

use super::{
    Object, add_signature,
    cross_signing::public_key,
    parse,
    tables::{DEVICE_KEYS, USER_SIGNATURES, Usage},
};
use crate::{AccountNum, Accounts, error::AccountError, tables::DEVICE};

/// The keys of a user.
#[derive(Clone, Debug, Default)]
pub struct UserKeys {
    /// Identity keys by device, with the device's display name in `unsigned`.
    pub devices: BTreeMap<String, Object>,
    /// The master key, with the signatures that the reader may see.
    pub master: Option<Object>,
    /// The self-signing key.
    pub self_signing: Option<Object>,
    /// The user-signing key; only for its owner.
    pub user_signing: Option<Object>,
}

impl Accounts {
    /// The keys of an account: of the devices in `devices`, or of all if it is empty. `reader` is
    /// the account that asks; none for another server.
    pub async fn query_keys(
        &self,
        account: AccountNum,
        devices: &[&DeviceId],
        reader: Option<AccountNum>,
    ) -> Result<UserKeys, AccountError> {
        let snapshot = self.snapshot();
        let mut keys = UserKeys {
            devices: self.device_keys(&snapshot, account, devices).await?,
            master: self
                .cross_signing_key(&snapshot, account, Usage::Master)
                .await?,
            self_signing: self
                .cross_signing_key(&snapshot, account, Usage::SelfSigning)
                .await?,
            user_signing: None,
        };
        if reader == Some(account) {
            keys.user_signing = self
                .cross_signing_key(&snapshot, account, Usage::UserSigning)
                .await?;
        } else if let (Some(reader), Some(master)) = (reader, keys.master.as_mut()) {
            let owner = self.active(account).await?;
            let owner = self.user_id(&owner.localpart)?;
            self.add_own_signatures(&snapshot, reader, owner.as_str(), master)
                .await?;
        }
        Ok(keys)
    }

    /// Adds what the reader's user-signing key has said about somebody's master key. Also for the
    /// master keys of users of other servers.
    pub async fn add_own_signatures(
        &self,
        snapshot: &Snapshot,
        reader: AccountNum,
        owner: &str,
        master: &mut Object,
    ) -> Result<(), AccountError> {
        let Some(public) = public_key(master) else {
            return Ok(());
        };
        let range = ScanRange::prefix(&(reader, owner.to_owned(), public.to_owned()));
        let signatures = snapshot
            .scan(&USER_SIGNATURES, range, Direction::Forward, usize::MAX)
            .await?;
        if signatures.is_empty() {
            return Ok(());
        }
        let reader = self.active(reader).await?;
        let reader = self.user_id(&reader.localpart)?;
        for ((.., key_id), signature) in signatures {
            add_signature(master, reader.as_str(), &key_id, &signature);
        }
        Ok(())
    }

    async fn device_keys(
        &self,
        snapshot: &Snapshot,
        account: AccountNum,
        wanted: &[&DeviceId],
    ) -> Result<BTreeMap<String, Object>, AccountError> {
        let rows = if wanted.is_empty() {
            let range = ScanRange::prefix(&account);
            let all = snapshot
                .scan(&DEVICE_KEYS, range, Direction::Forward, usize::MAX)
                .await?;
            all.into_iter().map(|((_, id), json)| (id, json)).collect()
        } else {
            let ids = wanted.iter().map(|id| (account, id.to_string()));
            let ids: Vec<_> = ids.collect();
            let rows = snapshot.get_many(&DEVICE_KEYS, &ids).await?;
            let rows = ids.into_iter().zip(rows);
            rows.filter_map(|((_, id), json)| Some((id, json?)))
                .collect::<Vec<_>>()
        };
        let mut devices = BTreeMap::new();
        for (id, json) in rows {
            let mut keys = parse(&json)?;
            let device = snapshot.get(&DEVICE, &(account, id.clone())).await?;
            let mut unsigned = Object::new();
            if let Some(name) = device.and_then(|device| device.display_name) {
                unsigned.insert("device_display_name".to_owned(), name.into());
            }
            keys.insert("unsigned".to_owned(), Value::Object(unsigned));
            devices.insert(id, keys);
        }
        Ok(devices)
    }
}
