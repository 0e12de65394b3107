//! Application services: events on their way to bridges and bots (Application Service API).
//!
//! Each service has a row with the place it has got to in the log and the transaction it has not
//! taken yet, word for word: a repetition is the same under the same id, after a restart too.

mod encryption;
mod interest;
mod requests;

use std::{sync::Arc, time::Duration};

use resuni_accounts::{Accounts, AppService};
use resuni_rooms::{
    RoomNum, RoomView, Rooms, Typing,
    client_format::{Unsigned, client_event},
    receipts::{RECEIPTS_IN_ORDER, ReceiptLog, TOPIC_RECEIPT, receipt_contents},
    tables::{EventLog, TOPIC_EVENT, flags},
};
use resuni_store::{Batch, LogEntry, Position, Store};
use serde_json::{Value, json, value::RawValue};
use tokio::task::JoinSet;

pub use requests::{Ping, PingError, ServiceClient};

use crate::{
    error::DeliveryError,
    follow::ended,
    tables::{Pending, SERVICES, ServiceRow},
};
use encryption::Encryption;
use interest::Interest;

/// Log entries read at once, and events of a transaction at most.
const READ_LIMIT: usize = 256;
const EVENTS: usize = 100;
/// People and rooms of one transaction whose presence and typing is told.
const EPHEMERAL: usize = 100;
/// The pauses after failures: doubled from the first to the longest. A bridge that was restarted
/// is back soon.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Positions that are passed without effect before the place is written nevertheless.
const PASSED: u64 = 10_000;

/// Sends events to application services. Share it in an `Arc`, and let [`Services::run`] run.
pub struct Services {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    store: Store,
    client: Arc<ServiceClient>,
}

/// One service at work.
struct Worker<'a> {
    services: &'a Services,
    service: Arc<AppService>,
    interest: Interest,
    /// Up to here it was told who types and who is there.
    serial: u64,
}

/// What goes into one transaction.
#[derive(Default)]
struct Transaction {
    events: Vec<String>,
    ephemeral: Vec<String>,
    encryption: Encryption,
}

impl Transaction {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.ephemeral.is_empty() && self.encryption.is_empty()
    }

    fn is_full(&self) -> bool {
        self.events.len() + self.encryption.messages() >= EVENTS
    }

    fn body(&self, encryption: &[(&str, String)]) -> String {
        let mut body = format!("{{\"events\":[{}]", self.events.join(","));
        if !self.ephemeral.is_empty() {
            body.push_str(&format!(",\"ephemeral\":[{}]", self.ephemeral.join(",")));
        }
        for (name, part) in encryption {
            body.push_str(&format!(",\"{name}\":{part}"));
        }
        body.push('}');
        body
    }
}

impl Services {
    /// For the services that `accounts` knows.
    pub fn new(
        rooms: Arc<Rooms>,
        accounts: Arc<Accounts>,
        client: Arc<ServiceClient>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store: rooms.store().clone(),
            rooms,
            accounts,
            client,
        })
    }

    /// Sends until the store is closed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run(self: Arc<Self>) -> Result<(), DeliveryError> {
        let mut workers = JoinSet::new();
        for service in self.accounts.appservices().iter() {
            // Without an address a service only acts, and is told nothing.
            if service.registration().url.is_some() {
                let (services, service) = (Arc::clone(&self), Arc::clone(service));
                workers.spawn(async move { services.serve(service).await });
            }
        }
        while let Some(ended) = workers.join_next().await {
            if let Ok(Err(error)) = ended {
                return Err(error);
            }
        }
        ended(self.store.ended().await)
    }

    async fn serve(&self, service: Arc<AppService>) -> Result<(), DeliveryError> {
        let mut worker = Worker {
            interest: Interest::new(self.rooms.clone(), service.clone()),
            serial: self.rooms.typing().serial(),
            services: self,
            service,
        };
        tokio::select! {
            done = worker.work() => done,
            reason = self.store.ended() => ended(reason),
        }
    }

    async fn row(&self, id: &str) -> Result<ServiceRow, DeliveryError> {
        let row = self.store.snapshot().get(&SERVICES, &id.to_owned()).await?;
        // A service that is new is not told what was before it.
        Ok(row.unwrap_or(ServiceRow {
            cursor: self.store.log().watermark(),
            next: 1,
            pending: None,
        }))
    }

    async fn save(&self, id: &str, row: &ServiceRow) -> Result<(), DeliveryError> {
        self.save_with(Batch::new(), id, row).await
    }

    async fn save_with(
        &self,
        mut batch: Batch,
        id: &str,
        row: &ServiceRow,
    ) -> Result<(), DeliveryError> {
        batch.put(&SERVICES, &id.to_owned(), row);
        Ok(self.store.commit_durable(batch).await?)
    }
}

impl Worker<'_> {
    async fn work(&mut self) -> Result<(), DeliveryError> {
        let id = self.service.id().to_owned();
        let services = self.services;
        let mut row = services.row(&id).await?;
        services.save(&id, &row).await?;
        let mut saved = row.cursor;
        let mut watermark = services.store.log().watch();
        let mut ephemeral = services.rooms.typing().watch();
        loop {
            if let Some(pending) = row.pending.take() {
                self.deliver(&pending).await;
                row.next = pending.id + 1;
                services.save(&id, &row).await?;
                saved = row.cursor;
            }
            let (up_to, transaction) = self.gather(row.cursor).await?;
            row.cursor = up_to;
            if !transaction.is_empty() {
                let encryption = &transaction.encryption;
                row.pending = Some(Pending {
                    id: row.next,
                    body: transaction.body(&encryption.parts(&services.accounts).await?),
                });
                // Written before it is sent, so that a crash changes nothing about it; and the messages that are in it
                // go from their queues with the same batch, so that each is told once.
                let mut batch = Batch::new();
                encryption.take(&mut batch, &services.accounts);
                services.save_with(batch, &id, &row).await?;
                continue;
            }
            if row.cursor.0.saturating_sub(saved.0) >= PASSED {
                services.save(&id, &row).await?;
                saved = row.cursor;
            }
            let after = row.cursor;
            tokio::select! {
                moved = watermark.wait_for(|up_to| *up_to > after) => if moved.is_err() {
                    return Ok(());
                },
                _ = ephemeral.changed(), if self.wants_ephemeral() => {}
            }
        }
    }

    fn wants_ephemeral(&self) -> bool {
        self.service.receives_ephemeral()
    }

    /// Sends a transaction until it is taken.
    async fn deliver(&self, pending: &Pending) {
        let mut pause = FIRST_PAUSE;
        loop {
            let client = &self.services.client;
            match client.transaction(&self.service, pending).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(service = self.service.id(), %error, "not taken; tried again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// What the service is to be told next, and up to where that is.
    async fn gather(
        &mut self,
        mut seen: Position,
    ) -> Result<(Position, Transaction), DeliveryError> {
        let store = &self.services.store;
        let up_to = store.log().watermark();
        let mut transaction = Transaction::default();
        while seen < up_to && !transaction.is_full() {
            let entries = store.log().read(seen, up_to, READ_LIMIT).await?;
            if entries.is_empty() {
                seen = up_to;
            }
            for entry in entries {
                if let Err(error) = self.entry(&mut transaction, &entry).await {
                    if !error.is_of_one_event() {
                        return Err(error);
                    }
                    tracing::warn!(position = entry.position.0, %error, "passed over");
                }
                seen = entry.position;
                if transaction.is_full() {
                    break;
                }
            }
        }
        if self.wants_ephemeral() {
            self.ephemeral(&mut transaction).await?;
        }
        Ok((seen, transaction))
    }

    async fn entry(
        &mut self,
        transaction: &mut Transaction,
        entry: &LogEntry,
    ) -> Result<(), DeliveryError> {
        let room = RoomNum(entry.scope);
        if self.service.receives_encryption() {
            self.keys(&mut transaction.encryption, entry).await?;
        }
        match entry.topic {
            TOPIC_EVENT => {
                if let Some(log) = EventLog::from_bytes(&entry.payload) {
                    let event = self.event(transaction, room, &log).await?;
                    transaction.events.extend(event);
                }
            }
            TOPIC_RECEIPT if self.wants_ephemeral() => {
                if let Some(log) = ReceiptLog::from_bytes(&entry.payload) {
                    let receipt = self.receipt(room, entry.position, &log).await?;
                    transaction.ephemeral.extend(receipt);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// An event as the service gets it, if it is interested.
    async fn event(
        &mut self,
        transaction: &mut Transaction,
        room: RoomNum,
        log: &EventLog,
    ) -> Result<Option<String>, DeliveryError> {
        let rooms = self.services.rooms.clone();
        self.interest.moved(room, log).await?;
        if log.flags & flags::OUT_OF_BAND != 0 {
            return self.invite(room, log).await;
        }
        let Some(view) = rooms.view_num(room).await? else {
            return Ok(None);
        };
        if self.service.receives_encryption() {
            self.met(&mut transaction.encryption, &view, log).await?;
        }
        if !self.interest.in_event(&view, log).await? {
            return Ok(None);
        }
        let shown = view.shown(&[log.event]).await?.into_iter().next();
        let Some(shown) = shown else { return Ok(None) };
        if self.service.receives_encryption() && shown.pdu.kind() == "m.room.encryption" {
            self.meet_all(&mut transaction.encryption, &view).await?;
        }
        let unsigned = Unsigned {
            now_ms: rooms.now_ms(),
            ..Unsigned::default()
        };
        Ok(Some(client_event(
            shown.pdu.event_id(),
            Some(view.room_id()),
            shown.pdu.json(),
            &unsigned,
        )))
    }

    /// An invite to a room that we are not in.
    async fn invite(&self, room: RoomNum, log: &EventLog) -> Result<Option<String>, DeliveryError> {
        let rooms = &self.services.rooms;
        let Some(target) = log.target else {
            return Ok(None);
        };
        let target = rooms.user_id(target).await?;
        if !self.interest.owns(&target) {
            return Ok(None);
        }
        let Some(invite) = rooms.invite_event(&target, room).await? else {
            return Ok(None);
        };
        let unsigned = Unsigned {
            now_ms: rooms.now_ms(),
            ..Unsigned::default()
        };
        let (id, room) = (invite.event_id(), invite.room_id());
        Ok(Some(client_event(id, Some(room), invite.json(), &unsigned)))
    }

    async fn receipt(
        &mut self,
        room: RoomNum,
        position: Position,
        log: &ReceiptLog,
    ) -> Result<Vec<String>, DeliveryError> {
        let Some(view) = self.services.rooms.view_num(room).await? else {
            return Ok(Vec::new());
        };
        let snapshot = view.snapshot();
        let receipt = snapshot.get(&RECEIPTS_IN_ORDER, &(room, position)).await?;
        let Some(receipt) = receipt else {
            return Ok(Vec::new()); // A newer one has an entry of its own.
        };
        let private = log.kind != resuni_rooms::ReceiptKind::Read;
        if private && !self.interest.owns(&receipt.user_id) || !self.interest.in_room(&view).await?
        {
            return Ok(Vec::new());
        }
        let contents = receipt_contents(&[receipt]);
        let events = contents
            .iter()
            .map(|content| in_room(&view, "m.receipt", content));
        Ok(events.collect())
    }

    /// Who types and who is there, as far as it changed.
    async fn ephemeral(&mut self, transaction: &mut Transaction) -> Result<(), DeliveryError> {
        let rooms = self.services.rooms.clone();
        let typing: &Typing = rooms.typing();
        let now = typing.serial();
        if now == self.serial {
            return Ok(());
        }
        for room in typing
            .changed_since(self.serial)
            .into_iter()
            .take(EPHEMERAL)
        {
            let Some(view) = rooms.view_num(room).await? else {
                continue;
            };
            if self.interest.in_room(&view).await? {
                let content = json!({ "user_ids": typing.now(room).users }).to_string();
                let event = in_room(&view, "m.typing", &content);
                transaction.ephemeral.push(event);
            }
        }
        for user in rooms.presence().changed_since(self.serial, EPHEMERAL) {
            let shares = self.interest.owns(&user)
                || rooms.share_a_room(self.service.sender(), &user).await?;
            if let (true, Some(now)) = (shares, rooms.presence().of(&user)) {
                let content = now.content();
                let event = json!({ "type": "m.presence", "sender": user, "content": content });
                transaction.ephemeral.push(event.to_string());
            }
        }
        self.serial = now;
        Ok(())
    }
}

fn in_room(view: &RoomView, kind: &str, content: &str) -> String {
    let content: Box<RawValue> = RawValue::from_string(content.to_owned()).unwrap_or_default();
    let event: Value = json!({ "type": kind, "room_id": view.room_id(), "content": content });
    event.to_string()
}
