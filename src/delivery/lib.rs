//! What people are told of: unread counts, the list of notifications, push gateways.
//!
//! A follower of the log judges each event by the push rules of those it concerns ([`Push`]). What it
//! writes is proportional to the sets of rules in the room and to the people an event names, never
//! to the members; see "Unread counts" in `docs/architecture.md`. A second one sends what has to be sent.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod audience;
mod counts;
mod delayed;
mod digest;
mod error;
mod follow;
mod gateway;
mod letter;
mod mail;
mod notices;
mod notifications;
mod rules;
mod services;
mod tables;
#[cfg(test)]
mod tests;
mod threads;
mod upgrades;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex as Lock;
use resuni_accounts::{AccountNum, Accounts, PusherId};
use resuni_federation::net::WebClient;
use resuni_rooms::{RoomView, Rooms};
use resuni_store::{Follower, Position, Store, StoreError};
use ruma::{OwnedUserId, UserId};
use tokio::sync::{Mutex, Notify, watch};

pub use counts::{RoomUnread, Unread};
pub use delayed::{Delayed, DelayedAction, DelayedError, DelayedEvents, MAX_DELAY_MS, MAX_DELAYED};
pub use digest::Digests;
pub use error::DeliveryError;
pub use letter::escaped;
pub use mail::{MailConfig, MailTls, Mailer};
pub use notices::{Notice, NoticeError, Notices, NoticesConfig};
pub use notifications::{MAX_NOTIFICATIONS, Notification, NotificationsPage};
pub use services::{Ping, PingError, ServiceClient, Services};
pub use tables::TABLES;
pub use threads::ThreadError;
pub use upgrades::Upgrades;

use crate::{
    audience::Audiences,
    counts::{ReadUpTo, subjects},
    gateway::Badges,
    rules::Defaults,
};

/// How long a sync waits for the counts of an event. They are there within milliseconds; if not,
/// the event is told with the counts as they were rather than not at all.
const COUNTED_WITHIN: Duration = Duration::from_secs(2);

/// On which ways notifications leave the server.
#[derive(Clone, Default)]
pub struct Ways {
    /// What push gateways are reached through, guarded as all outgoing requests to addresses that others name; without
    /// it they are not.
    pub gateways: Option<Arc<WebClient>>,
    /// What mails them; without it none are.
    pub mail: Option<Digests>,
}

/// What people are told of. Share it in an `Arc`, and let [`Push::run`] run.
pub struct Push {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    store: Store,
    defaults: Defaults,
    /// For whom an event is judged where it is nobody in particular.
    nobody: OwnedUserId,
    follower: Mutex<(Follower, Audiences)>,
    /// Up to here the counts are right.
    counted: watch::Sender<Position>,
    ways: Ways,
    /// There may be something to send.
    to_send: Notify,
    /// Pushers that have something before them since the last time anybody looked.
    pending: Lock<HashSet<PusherId>>,
    badges: Lock<HashMap<AccountNum, Badges>>,
}

impl Push {
    /// Over these rooms and accounts.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(
        rooms: Arc<Rooms>,
        accounts: Arc<Accounts>,
        ways: Ways,
    ) -> Result<Arc<Self>, DeliveryError> {
        let store = rooms.store().clone();
        let follower = store.follower("push").await?;
        // Nobody is told apart by this name: the rules that name a person are not asked for it.
        let nobody = UserId::parse_with_server_name("_", rooms.server_name());
        let nobody = nobody.map_err(|error| {
            StoreError::Engine(format!("the server name makes no user ids: {error}").into())
        })?;
        let audiences = Audiences::new(rooms.clone(), accounts.clone());
        Ok(Arc::new(Self {
            defaults: Defaults::new(&accounts, &nobody),
            nobody,
            counted: watch::Sender::new(follower.cursor()),
            follower: Mutex::new((follower, audiences)),
            rooms,
            accounts,
            store,
            ways,
            to_send: Notify::new(),
            pending: Lock::default(),
            badges: Lock::default(),
        }))
    }

    /// Waits until everything up to `position` is counted.
    pub async fn counted(&self, position: Position) {
        let mut counted = self.counted.subscribe();
        let reached = counted.wait_for(|up_to| *up_to >= position);
        if tokio::time::timeout(COUNTED_WITHIN, reached).await.is_err() {
            tracing::warn!(position = position.0, "unread counts are late");
        }
    }

    /// What one of our users has not read of a room; nothing unless they are joined.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn unread(
        &self,
        view: &RoomView,
        account: AccountNum,
        user: &UserId,
        now: Position,
    ) -> Result<RoomUnread, DeliveryError> {
        let (Some(read), Some(num)) = (ReadUpTo::of(view, user).await?, view.user_num(user).await?)
        else {
            return Ok(RoomUnread::default());
        };
        let subjects = subjects(&self.accounts, &self.defaults, view, account, num).await?;
        counts::unread(&self.store, view, &read, &subjects, now).await
    }
}
