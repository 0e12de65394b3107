//! Events that are sent later (MSC4140, cancellable delayed events, in its unstable form).
//!
//! What is to be sent is on disk from the moment it was promised. It is sent as any event of its
//! sender, judged by the room as it is then, under its delay id as the transaction: a crash between
//! sending and forgetting sends nothing twice.

use std::{sync::Arc, time::Duration};

use resuni_accounts::{AccountNum, Accounts};
use resuni_rooms::{NewEvent, RoomError, Rooms, TxnKey};
use resuni_store::{Batch, Direction, ScanRange, Store};
use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::{Value, json, value::RawValue};
use tokio::sync::{Mutex, Notify};

use crate::{
    error::DeliveryError,
    follow::ended,
    tables::{DELAYED, DELAYED_DUE, DELAYED_OWNERS, DELAYED_TXNS, DelayedRow},
};

/// The longest delay: thirty days, in milliseconds.
pub const MAX_DELAY_MS: u64 = 30 * 24 * 3_600_000;
/// Events that somebody may have waiting.
pub const MAX_DELAYED: usize = 100;
/// Events sent before anybody else may change one.
const AT_ONCE: usize = 50;

/// What is done with an event that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DelayedAction {
    /// It is sent now.
    Send,
    /// It is never sent.
    Cancel,
    /// Its delay begins anew.
    Restart,
}

/// Why an event is not kept for later, or not changed.
#[derive(Debug, thiserror::Error)]
pub enum DelayedError {
    /// There is no such event, or it was sent or cancelled.
    #[error("There is no such delayed event.")]
    NotFound,
    /// The delay is too long.
    #[error("An event can be delayed by thirty days at most.")]
    TooLong,
    /// There are too many.
    #[error("You have too many delayed events.")]
    TooMany {
        /// In so many milliseconds there is one less.
        retry_after_ms: u64,
    },
    /// The room does not take it.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The store failed, or an account could not be read.
    #[error(transparent)]
    Other(#[from] DeliveryError),
}

impl From<resuni_store::StoreError> for DelayedError {
    fn from(error: resuni_store::StoreError) -> Self {
        Self::Other(error.into())
    }
}

impl From<resuni_store::CommitError> for DelayedError {
    fn from(error: resuni_store::CommitError) -> Self {
        Self::Other(error.into())
    }
}

/// An event to be sent later.
#[derive(Debug, Clone)]
pub struct Delayed {
    /// Whose.
    pub account: AccountNum,
    /// Where.
    pub room: OwnedRoomId,
    /// Its type.
    pub kind: String,
    /// Of a state event.
    pub state_key: Option<String>,
    /// A JSON object.
    pub content: Box<RawValue>,
    /// What it redacts.
    pub redacts: Option<OwnedEventId>,
    /// In how many milliseconds.
    pub delay_ms: u64,
    /// The device and the transaction that ask for it.
    pub txn: Option<TxnKey>,
    /// For how many milliseconds it will be sticky, from when it is sent (MSC4354).
    pub sticky_ms: Option<u64>,
}

/// Sends events later. Share it in an `Arc`, and let [`DelayedEvents::run`] run.
pub struct DelayedEvents {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    store: Store,
    /// Held by whoever adds, changes or sends one.
    lane: Mutex<()>,
    changed: Notify,
    ids: Box<dyn Fn() -> [u8; 16] + Send + Sync>,
}

type TxnName = (AccountNum, String, String, String);

/// Transactions are a device's, by room as those of events that are sent at once.
fn txn_name(account: AccountNum, room: &str, txn: &TxnKey) -> TxnName {
    (
        account,
        txn.device.clone(),
        room.to_owned(),
        txn.txn.clone(),
    )
}

impl DelayedEvents {
    /// Over these rooms and accounts; `ids` makes ids that nobody guesses.
    pub fn new(
        rooms: Arc<Rooms>,
        accounts: Arc<Accounts>,
        ids: impl Fn() -> [u8; 16] + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            store: rooms.store().clone(),
            rooms,
            accounts,
            lane: Mutex::default(),
            changed: Notify::new(),
            ids: Box::new(ids),
        })
    }

    /// Keeps an event for later. The answer is its id; the same transaction gets the same.
    ///
    /// # Errors
    /// When the delay is too long or there are too many.
    pub async fn add(&self, event: Delayed) -> Result<String, DelayedError> {
        if event.delay_ms > MAX_DELAY_MS {
            return Err(DelayedError::TooLong);
        }
        let _lane = self.lane.lock().await;
        let snapshot = self.store.snapshot();
        let txn = event
            .txn
            .as_ref()
            .map(|txn| txn_name(event.account, event.room.as_str(), txn));
        if let Some(txn) = &txn
            && let Some(id) = snapshot.get(&DELAYED_TXNS, txn).await?
        {
            return Ok(id);
        }
        let now = self.rooms.now_ms();
        let waiting = self.rows(event.account).await?;
        if waiting.len() >= MAX_DELAYED {
            let next = waiting.iter().map(|(_, row)| row.due_ms()).min();
            return Err(DelayedError::TooMany {
                retry_after_ms: next.unwrap_or(now).saturating_sub(now),
            });
        }
        let id: String = (self.ids)().iter().map(|b| format!("{b:02x}")).collect();
        let row = DelayedRow {
            account: event.account,
            room: event.room.to_string(),
            kind: event.kind,
            state_key: event.state_key,
            content: event.content.get().to_owned(),
            redacts: event.redacts.map(|id| id.to_string()),
            delay_ms: event.delay_ms,
            since_ms: now,
            txn: txn.clone(),
            sticky_ms: event.sticky_ms,
        };
        let mut batch = Batch::new();
        if let Some(txn) = &txn {
            batch.put(&DELAYED_TXNS, txn, &id);
        }
        put(&mut batch, &id, &row);
        self.store.commit_durable(batch).await?;
        self.changed.notify_one();
        Ok(id)
    }

    async fn rows(&self, account: AccountNum) -> Result<Vec<(String, DelayedRow)>, DelayedError> {
        let range = ScanRange::prefix(&account);
        let rows = self
            .store
            .snapshot()
            .scan(&DELAYED, range, Direction::Forward, MAX_DELAYED)
            .await?;
        Ok(rows.into_iter().map(|((_, id), row)| (id, row)).collect())
    }

    /// What of somebody waits, in the order in which it will be sent.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list(&self, account: AccountNum) -> Result<Vec<Value>, DelayedError> {
        let mut rows = self.rows(account).await?;
        rows.sort_by_key(|(_, row)| row.due_ms());
        let shown = rows.into_iter().map(|(id, row)| {
            let content: Value = serde_json::from_str(&row.content).unwrap_or_default();
            let mut event = json!({
                "delay_id": id, "room_id": row.room, "type": row.kind, "content": content,
                "delay": row.delay_ms, "running_since": row.since_ms,
            });
            if let Some(key) = row.state_key {
                event["state_key"] = json!(key);
            }
            event
        });
        Ok(shown.collect())
    }

    /// Changes an event that waits. Who knows its id may do so.
    ///
    /// # Errors
    /// When there is none, or when it is to be sent now and the room does not take it: then it waits on.
    pub async fn act(&self, id: &str, action: DelayedAction) -> Result<(), DelayedError> {
        let _lane = self.lane.lock().await;
        let Some((account, row)) = self.find(id).await? else {
            return Err(DelayedError::NotFound);
        };
        let mut batch = Batch::new();
        match action {
            DelayedAction::Cancel => remove(&mut batch, id, &row),
            DelayedAction::Send => {
                self.send(id, &row).await?;
                remove(&mut batch, id, &row);
            }
            DelayedAction::Restart => {
                batch.delete(&DELAYED_DUE, &(row.due_ms(), id.to_owned()));
                let row = DelayedRow {
                    account,
                    since_ms: self.rooms.now_ms(),
                    ..row
                };
                put(&mut batch, id, &row);
            }
        }
        self.store.commit_durable(batch).await?;
        self.changed.notify_one();
        Ok(())
    }

    async fn find(&self, id: &str) -> Result<Option<(AccountNum, DelayedRow)>, DelayedError> {
        let snapshot = self.store.snapshot();
        let id = id.to_owned();
        let Some(account) = snapshot.get(&DELAYED_OWNERS, &id).await?.map(AccountNum) else {
            return Ok(None);
        };
        let row = snapshot.get(&DELAYED, &(account, id)).await?;
        Ok(row.map(|row| (account, row)))
    }

    async fn send(&self, id: &str, row: &DelayedRow) -> Result<(), DelayedError> {
        let gone = || RoomError::Forbidden("the account or the room is gone".into());
        let user = self.accounts.user_of(row.account).await;
        let user = user.map_err(DeliveryError::from)?.ok_or_else(gone)?;
        let room = OwnedRoomId::try_from(row.room.as_str()).map_err(|_| gone())?;
        let content = RawValue::from_string(row.content.clone()).unwrap_or_default();
        let event = NewEvent {
            state_key: row.state_key.clone(),
            redacts: row.redacts.as_deref().and_then(|id| id.try_into().ok()),
            sticky_ms: row.sticky_ms,
            ..NewEvent::message(row.kind.clone(), content)
        };
        let txn = TxnKey {
            device: "\u{0}delayed".to_owned(),
            txn: id.to_owned(),
        };
        self.rooms.send(&room, &user, event, Some(txn)).await?;
        Ok(())
    }

    /// Sends what is due until the store is closed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run(&self) -> Result<(), DelayedError> {
        loop {
            let next = self.send_due().await?;
            let wait = next.map_or(Duration::from_secs(3_600), |due| {
                Duration::from_millis(due.saturating_sub(self.rooms.now_ms()).max(1))
            });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.changed.notified() => {}
                reason = self.store.ended() => return Ok(ended(reason)?),
            }
        }
    }

    /// Sends what is due, and says when the next one is.
    async fn send_due(&self) -> Result<Option<u64>, DelayedError> {
        loop {
            let _lane = self.lane.lock().await;
            let now = self.rooms.now_ms();
            let rows = self
                .store
                .snapshot()
                .scan(&DELAYED_DUE, ScanRange::all(), Direction::Forward, AT_ONCE)
                .await?;
            let Some(((first, _), ())) = rows.first() else {
                return Ok(None);
            };
            if *first > now {
                return Ok(Some(*first));
            }
            for ((due, id), ()) in rows.into_iter().filter(|((due, _), ())| *due <= now) {
                let mut batch = Batch::new();
                match self.find(&id).await? {
                    Some((_, row)) => {
                        match self.send(&id, &row).await {
                            Err(DelayedError::Other(error)) => return Err(error.into()),
                            Err(DelayedError::Room(RoomError::Store(error))) => {
                                return Err(error.into());
                            }
                            // It was judged at its time, and is not tried again.
                            Err(error) => tracing::info!(%error, "a delayed event was not taken"),
                            Ok(()) => {}
                        }
                        remove(&mut batch, &id, &row);
                    }
                    None => batch.delete(&DELAYED_DUE, &(due, id)),
                }
                drop(self.store.commit(batch).await?);
            }
        }
    }
}

fn put(batch: &mut Batch, id: &str, row: &DelayedRow) {
    batch.put(&DELAYED, &(row.account, id.to_owned()), row);
    batch.put(&DELAYED_OWNERS, &id.to_owned(), &row.account.0);
    batch.put(&DELAYED_DUE, &(row.due_ms(), id.to_owned()), &());
}

fn remove(batch: &mut Batch, id: &str, row: &DelayedRow) {
    batch.delete(&DELAYED, &(row.account, id.to_owned()));
    batch.delete(&DELAYED_OWNERS, &id.to_owned());
    batch.delete(&DELAYED_DUE, &(row.due_ms(), id.to_owned()));
    if let Some(txn) = &row.txn {
        batch.delete(&DELAYED_TXNS, txn);
    }
}
