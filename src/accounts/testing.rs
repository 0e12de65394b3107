//! What the tests of this crate share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use resuni_store::{Clock, Store};
use ruma::owned_server_name;

use crate::{AccountNum, Accounts, AccountsConfig, AppServices, NewAccount, PasswordCost};

/// A clock that is moved by hand.
#[derive(Default)]
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

pub(crate) fn config() -> AccountsConfig {
    AccountsConfig {
        password_cost: PasswordCost::Minimum,
        shared_secret: Some("shared".into()),
        ..AccountsConfig::new(owned_server_name!("example.org"))
    }
}

pub(crate) async fn open(
    store: Store,
    appservices: AppServices,
) -> (Arc<Accounts>, Arc<TestClock>) {
    let clock = Arc::new(TestClock(AtomicU64::new(1_700_000_000_000)));
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
    let accounts = Accounts::open(config(), appservices, store, shared).await;
    (accounts.unwrap(), clock)
}

pub(crate) async fn with_clock() -> (Arc<Accounts>, Arc<TestClock>) {
    open(Store::memory().await, AppServices::default()).await
}

pub(crate) async fn accounts_with(config: AccountsConfig) -> Arc<Accounts> {
    let clock = Arc::new(TestClock(AtomicU64::new(1_700_000_000_000)));
    let store = Store::memory().await;
    let accounts = Accounts::open(config, AppServices::default(), store, clock).await;
    accounts.unwrap()
}

pub(crate) async fn accounts() -> Arc<Accounts> {
    with_clock().await.0
}

async fn user(accounts: &Accounts, name: &str) -> AccountNum {
    let new = NewAccount::user(name, format!("{name}'s password"));
    accounts.register(new).await.unwrap().account
}

pub(crate) async fn alice(accounts: &Accounts) -> AccountNum {
    user(accounts, "alice").await
}

pub(crate) async fn bob(accounts: &Accounts) -> AccountNum {
    user(accounts, "bob").await
}

/// The doctor has nothing to say.
pub(crate) async fn is_sound(accounts: &Accounts) {
    let findings = accounts.doctor(&accounts.store().snapshot()).await.unwrap();
    assert_eq!(findings, Vec::<String>::new());
}
