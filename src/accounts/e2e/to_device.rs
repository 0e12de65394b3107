//! Messages from device to device: kept until the device has them, then deleted.
//!
//! A request is one batch for all its recipients together with the row that remembers it, so that
//! a repeated request delivers nothing twice and a crash delivers all of it or nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use quick_cache::sync::Cache;
use resuni_store::{Batch, Direction, Position, ScanRange, Snapshot};
use ruma::{DeviceId, UserId};
use serde_json::{Value, json, value::RawValue};

use super::{
    bounded,
    tables::{DeviceKeysChanged, TO_DEVICE, TO_DEVICE_SENT, TO_DEVICE_TOPIC},
};
use crate::{
    AccountNum, Accounts,
    error::AccountError,
    secrets,
    tables::{DEVICE, EXPIRY, ShortTokenKind, TokenHash},
    users::lost_race,
};

/// Messages of one request (a `*` counts as many as there are devices).
const MESSAGES_PER_REQUEST: usize = 5_000;
/// Messages that may wait for a device. Beyond it the oldest are dropped: a device that is away
/// for so long has to ask for keys anew anyway.
const QUEUE: usize = 10_000;
/// Messages sent to a device after which its queue is measured.
const MEASURE_EVERY: u32 = 1_000;
/// Devices whose messages are counted at a time.
const COUNTED: usize = 16_384;
/// How long a request is remembered. Clients repeat theirs within minutes, servers within a day.
const REMEMBERED_MS: u64 = 24 * 60 * 60_000;
/// How often a request is tried that meets devices being removed.
const ATTEMPTS: usize = 4;

/// What tells one request from another.
#[derive(Clone, Copy, Debug)]
pub enum MessageId<'a> {
    /// The transaction of a local device.
    Transaction {
        /// The device.
        device: &'a str,
        /// The type of its event.
        kind: &'a str,
        /// Its transaction id.
        txn: &'a str,
    },
    /// The `message_id` of an EDU from another server.
    Edu(&'a str),
}

impl MessageId<'_> {
    fn hash(&self, sender: &UserId) -> TokenHash {
        secrets::hash(&match self {
            Self::Transaction { device, kind, txn } => {
                format!("txn\0{sender}\0{device}\0{kind}\0{txn}")
            }
            Self::Edu(message) => format!("edu\0{}\0{message}", sender.server_name()),
        })
    }

    /// The `message_id` of the EDU that carries the message on: the same for the same message, and
    /// no longer than the 32 characters that the specification allows.
    pub fn for_other_servers(&self, sender: &UserId) -> String {
        URL_SAFE_NO_PAD.encode(&self.hash(sender).0[..24])
    }
}

/// A message that waits for a device.
#[derive(Clone, Debug)]
pub struct ToDeviceMessage {
    /// Its place in the log.
    pub position: Position,
    /// The event: `type`, `sender` and `content`.
    pub event: Box<RawValue>,
}

/// Messages for one sync.
#[derive(Clone, Debug, Default)]
pub struct ToDevicePage {
    /// The messages in the order of their arrival.
    pub messages: Vec<ToDeviceMessage>,
    /// There are more after the last one. Then the sync token has to carry the position of the
    /// last one, and the next sync should not wait.
    pub more: bool,
}

fn raw(event: String) -> Result<Box<RawValue>, AccountError> {
    RawValue::from_string(event)
        .map_err(|error| AccountError::Internal(format!("A stored message is not JSON: {error}")))
}

/// How many messages were sent to each device since its queue was measured. Forgetting one only
/// delays a measurement.
pub(crate) struct SentCounts(Cache<(AccountNum, String), Arc<AtomicU32>>);

impl Default for SentCounts {
    fn default() -> Self {
        Self(Cache::new(COUNTED))
    }
}

impl SentCounts {
    /// Counts one; answers whether it is time to measure.
    fn count(&self, device: &(AccountNum, String)) -> bool {
        let counter = self
            .0
            .get_or_insert_with(device, || Ok::<_, ()>(Arc::default()))
            .unwrap_or_default();
        if counter.fetch_add(1, Relaxed) + 1 < MEASURE_EVERY {
            return false;
        }
        counter.store(0, Relaxed);
        true
    }
}

impl Accounts {
    /// Sends messages of one type to devices of this server: contents by account and device id
    /// (`*`: all devices of the account). A request that was accepted before is accepted again and
    /// changes nothing. Devices that do not exist are passed over.
    pub async fn send_to_device(
        &self,
        sender: &UserId,
        id: MessageId<'_>,
        kind: &str,
        messages: &BTreeMap<AccountNum, BTreeMap<String, Value>>,
    ) -> Result<(), AccountError> {
        let sent = id.hash(sender);
        for _ in 0..ATTEMPTS {
            if self.snapshot().contains(&TO_DEVICE_SENT, &sent).await? {
                return Ok(());
            }
            let (batch, recipients) = self.plan_messages(sender, kind, messages, sent).await?;
            match self.store.commit(batch).await {
                Ok(applied) => {
                    applied.durable().await?;
                    return self.measure(&recipients).await;
                }
                // A device went, or the same request came twice at once: look again.
                Err(error)
                    if lost_race(&error, DEVICE.name())
                        || lost_race(&error, TO_DEVICE_SENT.name()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(AccountError::Raced(DEVICE.name()))
    }

    async fn plan_messages(
        &self,
        sender: &UserId,
        kind: &str,
        messages: &BTreeMap<AccountNum, BTreeMap<String, Value>>,
        sent: TokenHash,
    ) -> Result<(Batch, Vec<(AccountNum, String)>), AccountError> {
        let snapshot = self.snapshot();
        let mut batch = Batch::new();
        let mut recipients = Vec::new();
        for (account, by_device) in messages {
            for (device, content) in self.recipients(&snapshot, *account, by_device).await? {
                let event = json!({"type": kind, "sender": sender, "content": content});
                let event = bounded(&event, "A message to a device")?;
                let key = (*account, device);
                batch.guard_exists(&DEVICE, &key);
                let payload = DeviceKeysChanged {
                    device_id: key.1.clone(),
                };
                let position = self.announce(&mut batch, TO_DEVICE_TOPIC, *account, &payload)?;
                batch.put(&TO_DEVICE, &(key.0, key.1.clone(), position), &event);
                recipients.push(key);
                if recipients.len() > MESSAGES_PER_REQUEST {
                    return Err(AccountError::InvalidParam(format!(
                        "At most {MESSAGES_PER_REQUEST} messages can be sent in one request."
                    )));
                }
            }
        }
        let forget_at = self.now_ms().saturating_add(REMEMBERED_MS);
        batch.guard_absent(&TO_DEVICE_SENT, &sent);
        batch.put(&TO_DEVICE_SENT, &sent, &forget_at);
        batch.put(&EXPIRY, &(forget_at, sent), &ShortTokenKind::Sent);
        Ok((batch, recipients))
    }

    /// The devices of an account that get a message, each once. What is said to a device by name
    /// goes before what is said to all.
    async fn recipients<'a>(
        &self,
        snapshot: &Snapshot,
        account: AccountNum,
        by_device: &'a BTreeMap<String, Value>,
    ) -> Result<Vec<(String, &'a Value)>, AccountError> {
        let mut found = Vec::new();
        for (device, content) in by_device.iter().filter(|(device, _)| *device != "*") {
            let key = (account, device.clone());
            if snapshot.contains(&DEVICE, &key).await? {
                found.push((key.1, content));
            }
        }
        if let Some(content) = by_device.get("*") {
            let named: BTreeSet<_> = found.iter().map(|(device, _)| device.clone()).collect();
            let all = snapshot
                .scan(
                    &DEVICE,
                    ScanRange::prefix(&account),
                    Direction::Forward,
                    MESSAGES_PER_REQUEST + 1,
                )
                .await?;
            let others = all.into_iter().map(|((_, device), _)| device);
            found.extend(
                others
                    .filter(|device| !named.contains(device))
                    .map(|device| (device, content)),
            );
        }
        Ok(found)
    }

    /// Drops what is too much in the queues of devices that many messages were sent to.
    async fn measure(&self, recipients: &[(AccountNum, String)]) -> Result<(), AccountError> {
        for device in recipients {
            if !self.sent_counts.count(device) {
                continue;
            }
            let newest = self
                .snapshot()
                .scan(
                    &TO_DEVICE,
                    ScanRange::prefix(device),
                    Direction::Backward,
                    QUEUE,
                )
                .await?;
            if let (true, Some(((_, _, oldest_kept), _))) = (newest.len() == QUEUE, newest.last()) {
                let before = Position(oldest_kept.0.saturating_sub(1));
                self.delete_to_device(device.0, device.1.as_str().into(), before)
                    .await?;
            }
        }
        Ok(())
    }

    /// Up to `limit` messages for a device after `since`, up to and including `up_to`.
    pub async fn to_device(
        &self,
        snapshot: &Snapshot,
        account: AccountNum,
        device: &DeviceId,
        since: Position,
        up_to: Position,
        limit: usize,
    ) -> Result<ToDevicePage, AccountError> {
        let device = device.to_string();
        let from = Position(since.0.saturating_add(1));
        let end = Position(up_to.0.saturating_add(1));
        if from >= end {
            return Ok(ToDevicePage::default());
        }
        let range = ScanRange::between(&(account, device.clone(), from), &(account, device, end));
        let mut rows = snapshot
            .scan(&TO_DEVICE, range, Direction::Forward, limit + 1)
            .await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let messages = rows
            .into_iter()
            .map(|((_, _, position), event)| {
                let event = raw(event)?;
                Ok(ToDeviceMessage { position, event })
            })
            .collect::<Result<_, AccountError>>()?;
        Ok(ToDevicePage { messages, more })
    }

    /// The message that came to a device at this position, if it still waits.
    pub async fn message_at(
        &self,
        account: AccountNum,
        device: &str,
        position: Position,
    ) -> Result<Option<Box<RawValue>>, AccountError> {
        let key = (account, device.to_owned(), position);
        let event = self.snapshot().get(&TO_DEVICE, &key).await?;
        event.map(raw).transpose()
    }

    /// Deletes a message with a batch of whoever hands it on.
    pub fn take_message(
        &self,
        batch: &mut Batch,
        account: AccountNum,
        device: &str,
        position: Position,
    ) {
        batch.delete(&TO_DEVICE, &(account, device.to_owned(), position));
    }

    /// Deletes the messages up to and including `up_to`: the device has come back with the token
    /// that was given with them. Costs one look-up when there are none. Nothing waits for the disk:
    /// after a crash the device comes back with the same token.
    pub async fn delete_to_device(
        &self,
        account: AccountNum,
        device: &DeviceId,
        up_to: Position,
    ) -> Result<(), AccountError> {
        let device = device.to_string();
        let end = Position(up_to.0.saturating_add(1));
        loop {
            let start = (account, device.clone(), Position(0));
            let range = ScanRange::between(&start, &(account, device.clone(), end));
            let rows = self
                .snapshot()
                .scan(&TO_DEVICE, range, Direction::Forward, 500)
                .await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new();
            for (key, _) in rows {
                batch.delete(&TO_DEVICE, &key);
            }
            drop(self.store.commit(batch).await?);
        }
    }
}
