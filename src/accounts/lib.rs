//! Local people: users, devices, tokens, user-interactive authentication, profiles, account data,
//! push rules, filters.
//!
//! [`Accounts`] is the only writer of these tables. Every change to one account happens inside that
//! account's *lane* (an async lock), as one batch, and is durable before it is acknowledged. Reads
//! take no lane. What an authenticated request needs is kept in bounded caches in memory.
//!
//! An account is named by its [`AccountNum`], which a [`Session`] carries; strangers ask by the
//! local part of the user id. An account's number is never given to another person: a deactivated
//! name stays taken.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod account_data;
mod administration;
mod appservices;
mod cache;
mod contacts;
mod devices;
mod doctor;
pub mod e2e;
mod error;
mod filters;
mod invites;
mod lane;
mod last_seen;
pub mod limits;
mod login_tokens;
mod moderation;
mod names;
mod passwords;
mod profiles;
mod push_rules;
mod pushers;
mod register;
mod registration_tokens;
mod rendezvous;
mod search;
mod secrets;
mod sessions;
mod shared_secret;
mod tables;
mod tags;
#[cfg(test)]
mod testing;
mod threads;
mod turn;
pub mod uia;
mod upgraded_rooms;
mod users;
mod validation;

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::RwLock;
use resuni_store::{SharedClock, Snapshot, Store, StoreError};
use ruma::{
    OwnedServerName, OwnedUserId, ServerName, UserId, api::client::filter::FilterDefinition,
};

use tokio::sync::Mutex;

pub use account_data::{AccountDataChange, AccountDataEvent};
pub use administration::OwnRate;
pub use appservices::{AppService, AppServices, AppServicesError, Proposals, ServiceFile};
pub use contacts::{ContactInfo, Medium};
pub use devices::DeviceInfo;
pub use error::{AccountError, AuthError};
pub use filters::MAX_FILTER_BYTES;
pub use invites::InviteVerdict;
pub use login_tokens::OpenIdToken;
pub use moderation::Restriction;
pub use passwords::PasswordCost;
pub use profiles::{MAX_KEY_BYTES, MAX_PROFILE_BYTES};
pub use push_rules::{OptionalRules, PushRuleChange, PushRules, every_kind};
pub use pushers::{PusherId, StoredPusher};
pub use register::{NewAccount, Registered};
pub use registration_tokens::{NewRegistrationToken, RegistrationToken};
pub use rendezvous::{MAX_RENDEZVOUS_BYTES, Rendezvous, RendezvousError, RendezvousText};
pub use search::{AccountFound, AccountOrder, AccountQuery};
pub use sessions::{DeviceRequest, Login, Session};
pub use shared_secret::SharedSecretRequest;
pub use tables::{
    ACCOUNT, ACCOUNT_DATA, Account, AccountDataChanged, AccountKind, AccountNum, AccountsChange,
    DEVICES, DeviceChange, DevicesChanged, Following, PROFILE, PUSHERS_CHANGED, ProfileChanged,
    TABLES, THREADS_CHANGED, ThreadName,
};
pub use threads::{StoppedFollowing, ThreadChange, ThreadChanges};
pub use turn::{Turn, TurnAccess, TurnCredentials};
pub use users::AccountSummary;
pub use validation::{Begun, Purpose, Validated, ValidationRequest};

use crate::{
    cache::Cached, lane::Lanes, last_seen::LastSeen, limits::Limiter, passwords::Passwords,
    sessions::TokenEntry, shared_secret::Nonces, tables::TokenHash, uia::UiaSessions,
};

/// How the accounts of this server behave.
#[derive(Clone)]
pub struct AccountsConfig {
    /// The name of this server: the part of its user ids after the colon.
    pub server_name: OwnedServerName,
    /// What a password hash costs.
    pub password_cost: PasswordCost,
    /// The secret of `/_synapse/admin/v1/register`; none: that door is shut.
    pub shared_secret: Option<String>,
    /// How long an access token lives when its client can refresh it. Access tokens of clients
    /// that can't refresh do not expire.
    pub access_token_lifetime: Duration,
    /// How long a refresh token lives unused; none: for ever.
    pub refresh_token_lifetime: Option<Duration>,
    /// Wrong passwords per account: how many at once, and how long until one is forgiven.
    pub failed_logins: limits::Rate,
    /// Predefined push rules that not every server has.
    pub optional_rules: OptionalRules,
}

impl AccountsConfig {
    /// The defaults for a server of this name.
    pub fn new(server_name: OwnedServerName) -> Self {
        Self {
            server_name,
            password_cost: PasswordCost::Normal,
            shared_secret: None,
            access_token_lifetime: Duration::from_secs(60 * 60),
            refresh_token_lifetime: None,
            failed_logins: limits::Rate {
                burst: 10,
                interval: Duration::from_secs(20),
            },
            optional_rules: OptionalRules::default(),
        }
    }
}

/// How many access tokens, and how many accounts, the caches remember. Beyond it the least used
/// are forgotten and read from the store again.
const CACHED_TOKENS: usize = 32_768;
const CACHED_ACCOUNTS: usize = 16_384;
/// How many parsed filters, and how many parsed sets of push rules.
const CACHED_FILTERS: usize = 2_048;

/// How much mail an address gets: nobody's mailbox is flooded through this server.
const MAILS: limits::Rate = limits::Rate {
    burst: 5,
    interval: Duration::from_secs(10 * 60),
};

/// The accounts of this server. Share it in an `Arc`.
pub struct Accounts {
    config: AccountsConfig,
    store: Store,
    clock: SharedClock,
    lanes: Lanes,
    /// Held while a registration uses up a registration token.
    registering: Mutex<()>,
    passwords: Passwords,
    appservices: AppServices,
    tokens: Cached<TokenHash, TokenEntry>,
    rows: Cached<AccountNum, Account>,
    filters: Cached<(AccountNum, u64), FilterDefinition>,
    rules: Cached<AccountNum, PushRules>,
    last_seen: LastSeen,
    nonces: Nonces,
    uia: UiaSessions,
    failures: Limiter<AccountNum>,
    /// Mails to each address.
    mails: Limiter<String>,
    sent_counts: e2e::SentCounts,
    /// How fast users may send of whom an operator has said it.
    rates: RwLock<HashMap<AccountNum, OwnRate>>,
}

impl Accounts {
    /// Opens the accounts in `store`, and finishes deactivations that a crash had interrupted.
    pub async fn open(
        config: AccountsConfig,
        appservices: AppServices,
        store: Store,
        clock: SharedClock,
    ) -> Result<Arc<Self>, AccountError> {
        let accounts = Arc::new(Self {
            passwords: Passwords::new(config.password_cost)?,
            failures: Limiter::new(config.failed_logins, CACHED_ACCOUNTS),
            mails: Limiter::new(MAILS, CACHED_ACCOUNTS),
            config,
            store,
            clock,
            appservices,
            lanes: Lanes::default(),
            registering: Mutex::default(),
            tokens: Cached::new(CACHED_TOKENS),
            rows: Cached::new(CACHED_ACCOUNTS),
            filters: Cached::new(CACHED_FILTERS),
            rules: Cached::new(CACHED_FILTERS),
            last_seen: LastSeen::default(),
            nonces: Nonces::default(),
            uia: UiaSessions::new()?,
            sent_counts: e2e::SentCounts::default(),
            rates: RwLock::default(),
        });
        accounts.finish_deactivations().await?;
        accounts.read_rates().await?;
        accounts.finish_backup_deletions().await?;
        accounts.ensure_appservice_senders().await?;
        accounts.index_followers().await?;
        Ok(accounts)
    }

    /// The name of this server.
    pub fn server_name(&self) -> &ServerName {
        &self.config.server_name
    }

    /// The application services this server knows.
    pub fn appservices(&self) -> &AppServices {
        &self.appservices
    }

    /// The store below, for readers who need one snapshot across several crates.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A new secret of 256 bits; the prefix says what leaked when one is found in a log.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new_secret(&self, prefix: &str) -> Result<String, AccountError> {
        secrets::token(prefix)
    }

    /// Predefined push rules that not every server has.
    pub fn optional_rules(&self) -> OptionalRules {
        self.config.optional_rules
    }

    /// Writes what is written lazily (when devices were last seen) and removes what has expired.
    /// To be called every minute or so, and before the server stops.
    pub async fn housekeeping(&self) -> Result<(), AccountError> {
        self.flush_last_seen().await?;
        self.remove_expired_tokens().await
    }

    fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    fn snapshot(&self) -> Snapshot {
        self.store.snapshot()
    }

    /// The user id of a local part that is known to be a good one.
    pub fn user_id(&self, localpart: &str) -> Result<OwnedUserId, AccountError> {
        UserId::parse_with_server_name(localpart, self.server_name())
            .map_err(|error| AccountError::InvalidUsername(error.to_string()))
    }

    /// The account of a local part, whatever its condition; none when nobody has had that name.
    pub async fn find(&self, localpart: &str) -> Result<Option<AccountNum>, StoreError> {
        let number = self
            .store
            .numbers()
            .find(&tables::ACCOUNT_NAMES, localpart.as_bytes())
            .await?
            .map(AccountNum);
        match number {
            // A number may be assigned by a batch that lost its guard: only the row counts.
            Some(number) if self.account(number).await?.is_some() => Ok(number.into()),
            _ => Ok(None),
        }
    }

    /// The account of a local user id; none for the users of other servers.
    pub async fn find_user(&self, user: &UserId) -> Result<Option<AccountNum>, StoreError> {
        if user.server_name() != self.server_name() {
            return Ok(None);
        }
        self.find(user.localpart()).await
    }

    /// The user id of an account.
    pub async fn user_of(&self, account: AccountNum) -> Result<Option<OwnedUserId>, AccountError> {
        match self.account(account).await? {
            Some(row) => self.user_id(&row.localpart).map(Some),
            None => Ok(None),
        }
    }

    /// The row of an account, from memory when it is known there.
    pub async fn account(&self, account: AccountNum) -> Result<Option<Arc<Account>>, StoreError> {
        self.rows
            .get_or_load(account, || async move {
                self.snapshot().get(&tables::ACCOUNTS, &account).await
            })
            .await
    }
}
