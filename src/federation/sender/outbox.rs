//! Messages that must arrive although they are no events: to-device messages and changes of device
//! lists. They are kept on disk, by destination, until it has taken them.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use resuni_store::{Batch, Direction, ScanRange, Store};
use ruma::{
    OwnedServerName, OwnedUserId, ServerName, UserId, api::federation::transactions::edu::Edu,
    serde::Raw,
};
use serde_json::{Value, json};

use super::{Sender, Shared};
use crate::{error::FederationError, tables::OUTBOX};

/// Messages that are kept for one destination. When there are more, new ones are dropped: a server that
/// is gone for so long asks for device lists anew, and encrypted sessions are set up anew.
const MAX_STORED: usize = 10_000;

/// A row of the outbox.
pub(super) type Stored = ((String, u64), Raw<Edu>);

/// Content of messages to devices: by user, then by device id (or `*`).
pub type DeviceMessages = BTreeMap<OwnedUserId, BTreeMap<String, Value>>;

/// How many messages are stored for each destination.
pub(super) async fn counts(
    store: &Store,
) -> Result<(BTreeMap<OwnedServerName, usize>, u64), FederationError> {
    let rows = store
        .snapshot()
        .scan(&OUTBOX, ScanRange::all(), Direction::Forward, usize::MAX)
        .await?;
    let mut counts: BTreeMap<OwnedServerName, usize> = BTreeMap::new();
    let mut next = 0;
    for ((server, number), _) in rows {
        next = next.max(number + 1);
        if let Ok(server) = OwnedServerName::try_from(server) {
            *counts.entry(server).or_default() += 1;
        }
    }
    Ok((counts, next))
}

impl Sender {
    /// Sends messages of one type to devices of users of other servers. When this returns they are on
    /// disk and will arrive. The same `id` again is the same message to the receiver.
    ///
    /// # Errors
    /// When they can't be written.
    pub async fn send_to_device(
        &self,
        sender: &UserId,
        kind: &str,
        id: &str,
        messages: DeviceMessages,
    ) -> Result<(), FederationError> {
        let mut by_server: BTreeMap<OwnedServerName, DeviceMessages> = BTreeMap::new();
        for (user, devices) in messages {
            let server = user.server_name().to_owned();
            by_server.entry(server).or_default().insert(user, devices);
        }
        let edus = by_server.into_iter().map(|(server, messages)| {
            let content = json!({
                "sender": sender, "type": kind, "message_id": id, "messages": messages,
            });
            (
                server,
                json!({ "edu_type": "m.direct_to_device", "content": content }),
            )
        });
        self.shared.store_edus(edus.collect(), true).await
    }
}

impl Shared {
    /// Keeps messages for their destinations and starts to send them.
    pub(super) async fn store_edus(
        self: &Arc<Self>,
        edus: Vec<(OwnedServerName, Value)>,
        durable: bool,
    ) -> Result<(), FederationError> {
        let mut batch = Batch::new();
        let mut queues = Vec::new();
        for (server, edu) in edus {
            if !self.is_destination(&server) {
                continue;
            }
            let queue = self.queue(&server);
            if queue.stored() >= MAX_STORED {
                tracing::warn!(%server, "a message was dropped: too many wait for this server");
                continue;
            }
            let number = self.next_stored.fetch_add(1, Ordering::Relaxed);
            batch.put(&OUTBOX, &(server.to_string(), number), &edu.to_string());
            queues.push(queue);
        }
        if queues.is_empty() {
            return Ok(());
        }
        let applied = self.store.commit(batch).await?;
        if durable {
            applied.durable().await?;
        }
        for queue in queues {
            if queue.push_stored() {
                self.spawn(queue);
            }
        }
        Ok(())
    }

    /// The oldest stored messages for a destination.
    pub(super) async fn stored(
        &self,
        server: &ServerName,
        limit: usize,
    ) -> Result<Vec<Stored>, FederationError> {
        let range = ScanRange::prefix(&server.to_string());
        let rows = self
            .store
            .snapshot()
            .scan(&OUTBOX, range, Direction::Forward, limit)
            .await?;
        let mut stored = Vec::with_capacity(rows.len());
        for (key, edu) in rows {
            let edu = serde_json::value::RawValue::from_string(edu)
                .map_err(|e| FederationError::Internal(e.to_string()))?;
            stored.push((key, Raw::from_json(edu)));
        }
        Ok(stored)
    }

    /// Forgets messages that were taken.
    pub(super) async fn forget(&self, rows: &[Stored]) -> Result<(), FederationError> {
        let mut batch = Batch::new();
        for (key, _) in rows {
            batch.delete(&OUTBOX, key);
        }
        // Not waited for: what a crash brings back is the same message again.
        let _applied = self.store.commit(batch).await?;
        Ok(())
    }
}
