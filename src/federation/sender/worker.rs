//! Emptying the queue of one destination: one transaction at a time, in order.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use resuni_dag::Pdu;
use resuni_rooms::RoomView;
use resuni_store::Position;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedTransactionId, UInt,
    api::federation::discovery::get_server_version::v1 as get_server_version, serde::Raw,
};
use serde_json::value::RawValue;

use super::{
    Shared, catch_up,
    outbox::Stored,
    queue::{Ephemeral, Item, Queue, Work},
};
use crate::{
    backoff::pause_ms,
    client::Terms,
    divergence::wire::{Hashes, Told, transaction},
    error::FederationError,
};

/// Events of one transaction (server-server API, "Transactions").
const MAX_PDUS: usize = 50;
/// Ephemeral messages of one transaction, and as many more from the disk: a hundred in all.
const MAX_EDUS: usize = 50;
/// After this many failures what was taken is dropped and found again from the log later.
const HOLD_FOR: u32 = 8;
const PROBE: Terms = Terms::BACKGROUND
    .within(Duration::from_secs(15))
    .up_to(64 << 10);
const TERMS: Terms = Terms::BACKGROUND
    .within(Duration::from_secs(60))
    .up_to(1 << 20);

/// Works until there is nothing left or the server stops.
pub(super) async fn run(shared: Arc<Shared>, queue: Arc<Queue>) {
    let mut worker = Worker {
        shared,
        queue,
        backlog: VecDeque::new(),
        floor: None,
        refusals: 0,
    };
    while worker.round().await {}
}

struct Worker {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    /// What the destination missed, found again.
    backlog: VecDeque<Item>,
    /// Where the backlog began.
    floor: Option<Position>,
    /// Failures in a row, of whatever kind.
    refusals: u32,
}

impl Worker {
    /// One step. Whether there may be another.
    async fn round(&mut self) -> bool {
        if self.shared.stop.is_cancelled() {
            return false;
        }
        if !self.backlog.is_empty() {
            let count = self.backlog.len().min(MAX_PDUS);
            let items: Vec<Item> = self.backlog.drain(..count).collect();
            return self.deliver(items, Vec::new(), false).await;
        }
        match self
            .queue
            .next(self.shared.dispatched(), MAX_PDUS, MAX_EDUS)
        {
            Work::Nothing => false,
            Work::Send {
                items,
                edus,
                stored,
            } => {
                self.floor = None;
                self.deliver(items, edus, stored).await
            }
            Work::CatchUp { after, up_to } => {
                // Not before it is likely to answer: until then more may come, and be found with it.
                if !self.pause().await {
                    return false;
                }
                if !self.is_there().await {
                    self.refusals += 1;
                    self.queue.fall_behind();
                    return true;
                }
                match catch_up::missed(&self.shared, &self.queue.server, after, up_to).await {
                    Ok(items) => {
                        tracing::info!(server = %self.queue.server, events = items.len(), "catching up");
                        self.floor = Some(after);
                        self.backlog = items.into();
                        if self.backlog.is_empty() {
                            self.queue.delivered(None);
                        }
                        true
                    }
                    Err(error) => {
                        tracing::error!(server = %self.queue.server, %error, "cannot find what a server missed");
                        self.queue.fall_behind();
                        self.refusals += 1;
                        self.pause().await
                    }
                }
            }
        }
    }

    /// Whether the server answers at all, where it did not before: cheaper to ask than to look through
    /// the log in vain.
    async fn is_there(&self) -> bool {
        if self.refusals == 0 {
            return true;
        }
        let request = get_server_version::Request::new();
        let answer = self
            .shared
            .client
            .send_unsigned(&self.queue.server, request, PROBE)
            .await;
        match answer {
            Ok(_) => true,
            // Any answer of its own will do.
            Err(error) => !error.is_unreachable(),
        }
    }

    /// Sends one transaction until it was taken, or given up to be found again.
    async fn deliver(&mut self, items: Vec<Item>, edus: Vec<Ephemeral>, stored: bool) -> bool {
        let stored = self.stored(stored).await;
        let number = self.shared.next_transaction.fetch_add(1, Ordering::Relaxed);
        let id = OwnedTransactionId::from(format!("r{number}"));
        loop {
            if !self.pause().await {
                return false;
            }
            match self.send(&id, &items, &edus, &stored).await {
                Ok(()) => {
                    self.refusals = 0;
                    self.delivered(&items);
                    self.took(&stored).await;
                    return true;
                }
                Err(FederationError::NotAdmitted(_)) => {
                    // Left out since it was queued. It is sent nothing more.
                    self.backlog.clear();
                    self.delivered(&items);
                    self.took(&stored).await;
                    return true;
                }
                Err(error) if is_refusal(&error) => {
                    return self.isolate(items, stored, &error).await;
                }
                Err(error) => {
                    self.refusals += 1;
                    tracing::debug!(server = %self.queue.server, %error, failures = self.refusals, "a transaction was not delivered");
                    if self.refusals >= HOLD_FOR && !items.is_empty() {
                        self.backlog.clear();
                        self.queue.fall_behind();
                        return true;
                    }
                }
            }
        }
    }

    /// The destination refuses this transaction as such. What is in it is sent one by one, so that what
    /// it can't take is found and left out, and blocks nothing.
    async fn isolate(
        &mut self,
        items: Vec<Item>,
        stored: Vec<Stored>,
        error: &FederationError,
    ) -> bool {
        if items.len() + stored.len() > 1 {
            let singles = items
                .iter()
                .map(|item| (std::slice::from_ref(item), &[][..]));
            let stored = stored
                .iter()
                .map(|row| (&[][..], std::slice::from_ref(row)));
            for (item, row) in singles.chain(stored) {
                if !self.alone(item, row).await {
                    return false;
                }
            }
        } else {
            self.leave_out(&items, &stored, error);
        }
        self.delivered(&items);
        self.took(&stored).await;
        true
    }

    /// Sends one thing by itself until it was taken or refused. False when the server stops.
    async fn alone(&mut self, item: &[Item], row: &[Stored]) -> bool {
        let number = self.shared.next_transaction.fetch_add(1, Ordering::Relaxed);
        let id = OwnedTransactionId::from(format!("r{number}"));
        loop {
            if !self.pause().await {
                return false;
            }
            match self.send(&id, item, &[], row).await {
                Ok(()) => self.refusals = 0,
                Err(error) if is_refusal(&error) => self.leave_out(item, row, &error),
                Err(_) => {
                    self.refusals += 1;
                    continue;
                }
            }
            return true;
        }
    }

    fn leave_out(&self, items: &[Item], rows: &[Stored], error: &FederationError) {
        let event = items.first();
        let message = rows.first().map(|row| &row.0);
        tracing::warn!(server = %self.queue.server, %error, ?event, ?message, "left out: the server does not take it");
    }

    /// The oldest messages on disk.
    async fn stored(&self, any: bool) -> Vec<Stored> {
        if !any {
            return Vec::new();
        }
        match self.shared.stored(&self.queue.server, MAX_EDUS).await {
            Ok(rows) => {
                if rows.is_empty() {
                    self.queue.took_stored(None);
                }
                rows
            }
            Err(error) => {
                tracing::error!(server = %self.queue.server, %error, "stored messages can't be read");
                self.queue.took_stored(None);
                Vec::new()
            }
        }
    }

    async fn took(&self, rows: &[Stored]) {
        if rows.is_empty() {
            return;
        }
        match self.shared.forget(rows).await {
            Ok(()) => self.queue.took_stored(Some(rows.len())),
            Err(error) => {
                tracing::error!(server = %self.queue.server, %error, "sent messages can't be deleted");
                // They are sent again after a restart; not again and again now.
                self.queue.took_stored(None);
            }
        }
    }

    /// Notes how far the destination has everything.
    fn delivered(&self, items: &[Item]) {
        let floor = match (self.backlog.front(), self.floor) {
            // The rest of the backlog lies ahead. It is in the order of the log, so that everything
            // before its first event has been delivered.
            (Some(next), Some(_)) => Some(Position(next.position.0.saturating_sub(1))),
            _ => None,
        };
        self.queue.delivered(floor);
        metrics::counter!("resuni_federation_pdus_out_total").increment(items.len() as u64);
    }

    /// Waits out the back-off, or until traffic comes from the server. Whether to go on.
    async fn pause(&self) -> bool {
        loop {
            let own = (self.refusals > 0
                && self.shared.backoff.wait_ms(&self.queue.server).is_none())
            .then(|| pause_ms(self.refusals - 1));
            let Some(wait) = self.shared.backoff.wait_ms(&self.queue.server).or(own) else {
                return true;
            };
            let wait = Duration::from_millis(wait);
            tokio::select! {
                () = self.shared.stop.cancelled() => return false,
                () = self.queue.returned.notified() => return true,
                () = tokio::time::sleep(wait) => {
                    if own.is_some() {
                        return true;
                    }
                }
            }
        }
    }

    async fn send(
        &self,
        id: &OwnedTransactionId,
        items: &[Item],
        edus: &[Ephemeral],
        stored: &[Stored],
    ) -> Result<(), FederationError> {
        let (pdus, state_hashes) = self.read(items).await?;
        if pdus.is_empty() && edus.is_empty() && stored.is_empty() {
            return Ok(());
        }
        let now = MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.shared.clock.now_ms()));
        let mut request = transaction::Request::new(id.clone(), self.shared.origin.clone(), now);
        request.pdus = pdus;
        request.state_hashes = state_hashes;
        let ephemeral = edus.iter().map(|edu| edu.edu.clone());
        request.edus = stored
            .iter()
            .map(|row| row.1.clone())
            .chain(ephemeral)
            .collect();
        let answer = self
            .shared
            .client
            .send(&self.queue.server, request, TERMS)
            .await?;
        for (event_id, outcome) in answer.pdus {
            if let Some(error) = outcome.error {
                tracing::info!(server = %self.queue.server, %event_id, error, "the server refused an event");
            } else if let Some(mismatch) = outcome.mismatch {
                tracing::info!(server = %self.queue.server, %event_id, ?mismatch, "the server has another state");
            }
        }
        Ok(())
    }

    /// The events as JSON, in their order. One that can't be read is left out: it must not keep the
    /// others back.
    async fn read(&self, items: &[Item]) -> Result<(Vec<Box<RawValue>>, Hashes), FederationError> {
        let mut pdus = Vec::with_capacity(items.len());
        let mut hashes = Hashes::new();
        let mut rest = items;
        while let Some(first) = rest.first() {
            let count = rest
                .iter()
                .take_while(|item| item.room == first.room)
                .count();
            let (run, after) = rest.split_at(count);
            rest = after;
            let Some(view) = self.shared.rooms.view_num(first.room).await? else {
                continue;
            };
            let nums: Vec<_> = run.iter().map(|item| item.event).collect();
            let mut found = Vec::with_capacity(nums.len());
            match view.pdus(&nums).await {
                Ok(all) => found = all,
                Err(error) => {
                    tracing::error!(%error, "an event that is to be sent can't be read");
                    for num in nums {
                        found.extend(view.pdus(&[num]).await.into_iter().flatten());
                    }
                }
            }
            for pdu in &found {
                pdus.extend(raw(pdu));
                hashes.extend(told(&view, pdu).await);
            }
        }
        Ok((pdus, hashes))
    }
}

/// The states around an event, for comparing (MSC4500). Without them it is sent all the same.
async fn told(view: &RoomView, pdu: &Pdu) -> Option<(OwnedEventId, Raw<Told>)> {
    let hashes = view.state_hashes(pdu.event_id()).await.ok().flatten()?;
    let told = Raw::new(&Told::of(&hashes)).ok()?;
    Some((pdu.event_id().to_owned(), told))
}

fn raw(pdu: &resuni_dag::Pdu) -> Option<Box<RawValue>> {
    RawValue::from_string(pdu.json().to_owned()).ok()
}

/// The server is there and says that the transaction itself can't be taken: trying again would be in
/// vain. Not so an answer that means us (401, 403) or its own state (404 while it is set up, 429, 5xx).
fn is_refusal(error: &FederationError) -> bool {
    match error {
        FederationError::Remote(remote) => matches!(remote.status.as_u16(), 400 | 413 | 414 | 422),
        _ => false,
    }
}
