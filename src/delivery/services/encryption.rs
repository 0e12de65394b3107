//! What the users of a service need for end-to-end encryption, as `/sync` tells it to others: messages to their devices
//! (MSC4203), whose keys changed, and which of their own keys are left (MSC3202).

use std::collections::{BTreeMap, BTreeSet};

use resuni_accounts::{
    AccountNum, Accounts,
    e2e::{DEVICE_LISTS_TOPIC, DeviceKeysChanged, DeviceListChanged, KEYS, TO_DEVICE_TOPIC},
};
use resuni_rooms::{RoomView, tables::EventLog};
use resuni_store::{Batch, LogEntry, Position};
use ruma::{DeviceId, OwnedUserId, UserId};
use serde_json::{Map, Value, json};

use super::Worker;
use crate::error::DeliveryError;

/// The part of a transaction that is about encryption.
#[derive(Default)]
pub(super) struct Encryption {
    to_device: Vec<Value>,
    /// Messages that are told here and nowhere else.
    taken: Vec<(AccountNum, String, Position)>,
    /// Devices whose one-time or fallback keys changed.
    keys: BTreeSet<(AccountNum, String)>,
    changed: BTreeSet<OwnedUserId>,
    left: BTreeSet<OwnedUserId>,
}

impl Encryption {
    pub fn is_empty(&self) -> bool {
        self.to_device.is_empty()
            && self.keys.is_empty()
            && self.changed.is_empty()
            && self.left.is_empty()
    }

    /// How many messages to devices there are.
    pub fn messages(&self) -> usize {
        self.to_device.len()
    }

    /// What is deleted once the transaction is written down.
    pub fn take(&self, batch: &mut Batch, accounts: &Accounts) {
        for (account, device, position) in &self.taken {
            accounts.take_message(batch, *account, device, *position);
        }
    }

    fn change(&mut self, user: OwnedUserId) {
        self.left.remove(&user);
        self.changed.insert(user);
    }

    fn leave(&mut self, user: OwnedUserId) {
        self.changed.remove(&user);
        self.left.insert(user);
    }

    /// The members of the transaction, under the names that the proposals give them until they are accepted.
    pub async fn parts(
        &self,
        accounts: &Accounts,
    ) -> Result<Vec<(&'static str, String)>, DeliveryError> {
        let mut parts = Vec::new();
        if !self.to_device.is_empty() {
            let messages = json!(self.to_device).to_string();
            parts.push(("de.sorunome.msc2409.to_device", messages));
        }
        if !self.changed.is_empty() || !self.left.is_empty() {
            let lists = json!({ "changed": self.changed, "left": self.left });
            parts.push(("org.matrix.msc3202.device_lists", lists.to_string()));
        }
        let (mut counts, mut fallback) = (ByDevice::default(), ByDevice::default());
        let snapshot = accounts.store().snapshot();
        for (account, device) in &self.keys {
            let Some(user) = accounts.user_of(*account).await? else {
                continue;
            };
            let id: &DeviceId = device.as_str().into();
            let keys = accounts.one_time_keys(&snapshot, *account, id).await?;
            let device = || (user.clone(), device.clone());
            counts.add(device(), json!(keys.counts));
            fallback.add(device(), json!(keys.unused_fallback));
        }
        for (name, part) in [
            ("org.matrix.msc3202.device_one_time_keys_count", counts),
            (
                "org.matrix.msc3202.device_unused_fallback_key_types",
                fallback,
            ),
        ] {
            if !part.0.is_empty() {
                parts.push((name, json!(part.0).to_string()));
            }
        }
        Ok(parts)
    }
}

/// Something by user and device.
#[derive(Default)]
struct ByDevice(BTreeMap<OwnedUserId, Map<String, Value>>);

impl ByDevice {
    fn add(&mut self, (user, device): (OwnedUserId, String), value: Value) {
        self.0.entry(user).or_default().insert(device, value);
    }
}

impl Worker<'_> {
    /// What an entry of the log means for the keys and devices of the service's users.
    pub(super) async fn keys(
        &mut self,
        encryption: &mut Encryption,
        entry: &LogEntry,
    ) -> Result<(), DeliveryError> {
        let account = AccountNum(entry.scope);
        match entry.topic {
            TO_DEVICE_TOPIC => {
                if let Some(log) = DeviceKeysChanged::from_bytes(&entry.payload)
                    && let Some(user) = self.own(account).await?
                {
                    let message = (account, log.device_id, entry.position);
                    self.message(encryption, &user, message).await?;
                }
            }
            KEYS => {
                if let Some(log) = DeviceKeysChanged::from_bytes(&entry.payload)
                    && self.own(account).await?.is_some()
                {
                    encryption.keys.insert((account, log.device_id));
                }
            }
            DEVICE_LISTS_TOPIC => {
                let log = DeviceListChanged::from_bytes(&entry.payload);
                if let Some(user) = log.and_then(|log| UserId::parse(log.user_id).ok())
                    && self.interest.sees_keys(&user).await?
                {
                    encryption.change(user);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The user of an account, if it is one of the service's.
    async fn own(&self, account: AccountNum) -> Result<Option<OwnedUserId>, DeliveryError> {
        let user = self.services.accounts.user_of(account).await?;
        Ok(user.filter(|user| self.interest.owns(user)))
    }

    /// A message to a device of the service. Where nobody else may act as the user, nobody else waits for it; where
    /// others may, it stays until a sync has told it, as MSC4203 suggests.
    async fn message(
        &mut self,
        encryption: &mut Encryption,
        user: &UserId,
        (account, device, position): (AccountNum, String, Position),
    ) -> Result<(), DeliveryError> {
        let accounts = &self.services.accounts;
        // Gone when the device is, or when a sync was faster.
        let Some(event) = accounts.message_at(account, &device, position).await? else {
            return Ok(());
        };
        let Ok(Value::Object(mut event)) = serde_json::from_str(event.get()) else {
            return Ok(());
        };
        event.insert("to_user_id".to_owned(), user.as_str().into());
        event.insert("to_device_id".to_owned(), device.as_str().into());
        encryption.to_device.push(Value::Object(event));
        if self.service.keeps_user(user) {
            encryption.taken.push((account, device, position));
        }
        Ok(())
    }

    /// Who came to share an encrypted room with the service by an event, or shares none with it any more.
    pub(super) async fn met(
        &mut self,
        encryption: &mut Encryption,
        view: &RoomView,
        log: &EventLog,
    ) -> Result<(), DeliveryError> {
        let Some(target) = log.target else {
            return Ok(());
        };
        if view.state("m.room.encryption", "").await?.is_none() {
            return Ok(());
        }
        let user = view.user_id(target).await?;
        let joined = view.joined(&user).await?;
        if self.interest.owns(&user) {
            // Only the first who comes and the last who goes change who is seen.
            if self.interest.has_others(view, &user).await? {
                return Ok(());
            }
            return self.meet_all(encryption, view).await;
        }
        if joined && self.interest.in_room(view).await? {
            encryption.change(user);
        } else if !joined
            && self.interest.in_room(view).await?
            && !self.interest.sees_keys(&user).await?
        {
            encryption.leave(user);
        }
        Ok(())
    }

    /// Everybody in a room comes to be seen, or, where the service is not in it any more, may not be.
    pub(super) async fn meet_all(
        &mut self,
        encryption: &mut Encryption,
        view: &RoomView,
    ) -> Result<(), DeliveryError> {
        let here = self.interest.in_room(view).await?;
        for (_, user) in view.joined_users(None, usize::MAX).await? {
            if here || self.interest.sees_keys(&user).await? {
                encryption.change(user);
            } else {
                encryption.leave(user);
            }
        }
        Ok(())
    }
}
