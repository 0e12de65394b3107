//! A whole server in memory, and the one other server of its network.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use resuni_accounts::{AccountKind, Accounts, AccountsConfig, AppServices, NewAccount};
use resuni_dag::{SigningKey, sign_json};
use resuni_federation::{
    Federation, FederationParts, Mode, Network, NetworkConfig,
    net::{Answer, HttpError, Transport},
};
use resuni_rooms::{Rooms, RoomsConfig};
use resuni_store::{Clock, SharedClock, Store};
use ruma::{
    CanonicalJsonObject, OwnedServerName, RoomVersionId, ServerName, UserId, server_name, user_id,
};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// The server that is driven.
#[must_use]
pub fn here() -> &'static ServerName {
    server_name!("here.test")
}

/// The other one.
#[must_use]
pub fn peer() -> &'static ServerName {
    server_name!("peer.test")
}

/// Somebody here.
#[must_use]
pub fn me() -> &'static UserId {
    user_id!("@me:here.test")
}

/// A clock that goes on by a millisecond whenever somebody looks at it.
struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now_ms(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Runs a future to its end in a runtime of one thread, in which waiting takes no time.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime")
}

/// The key of a server: the same in every run.
#[must_use]
pub fn key(of: &ServerName) -> Arc<SigningKey> {
    let seed = [of.as_str().as_bytes()[0]; 32];
    Arc::new(SigningKey::generate("1", seed).expect("a key"))
}

/// The rooms of a server that has none.
pub async fn rooms(store: Store) -> Arc<Rooms> {
    let config = RoomsConfig {
        server_name: here().to_owned(),
        key: key(here()),
        default_version: RoomVersionId::V12,
    };
    Rooms::open(config, store, clock()).await.expect("rooms")
}

fn clock() -> SharedClock {
    Arc::new(Ticks(AtomicU64::new(1_700_000_000_000)))
}

/// Rooms, people and federation.
pub struct Server {
    /// Its rooms.
    pub rooms: Arc<Rooms>,
    /// Its federation.
    pub federation: Arc<Federation>,
    stop: CancellationToken,
}

impl Server {
    /// A server with one user, [`me`]. Its network is the peer, which gives away its keys and nothing else.
    pub async fn new() -> Self {
        let (store, clock, stop) = (Store::memory().await, clock(), CancellationToken::new());
        let rooms = rooms(store.clone()).await;
        let accounts = Accounts::open(
            AccountsConfig::new(here().to_owned()),
            AppServices::default(),
            store.clone(),
            clock.clone(),
        )
        .await
        .expect("accounts");
        let me = NewAccount {
            localpart: Some(me().localpart().to_owned()),
            ..NewAccount::of_kind(AccountKind::User)
        };
        accounts.register(me).await.expect("an account");
        let network = NetworkConfig {
            server_name: here().to_owned(),
            key: key(here()),
            old_keys: Vec::new(),
            notaries: Vec::new(),
            mode: Mode::Open,
            destinations: BTreeMap::new(),
            extra_ca_files: Vec::new(),
            deny_ip_ranges: Vec::new(),
        };
        let network =
            Network::with_transport(network, Arc::new(Peer), store.clone(), clock.clone())
                .expect("a network");
        let federation = Federation::open(FederationParts {
            server_name: here().to_owned(),
            key: key(here()),
            network,
            store,
            rooms: rooms.clone(),
            accounts,
            typing: rooms.typing().clone(),
            clock,
            stop: stop.clone(),
        })
        .await
        .expect("federation");
        Self {
            rooms,
            federation: Arc::new(federation),
            stop,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Answers for its keys only.
struct Peer;

impl Transport for Peer {
    fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        _timeout: Duration,
        _max_body: usize,
    ) -> BoxFuture<'_, Result<Answer, HttpError>> {
        let to = request.uri().host().map(OwnedServerName::try_from);
        let keys = request.uri().path() == "/_matrix/key/v2/server";
        Box::pin(async move {
            let (status, body) = match to {
                Some(Ok(server)) if keys && server == peer() => (StatusCode::OK, keys_of(&server)),
                _ => (
                    StatusCode::NOT_FOUND,
                    json!({ "errcode": "M_UNRECOGNIZED", "error": "there is nobody" }).to_string(),
                ),
            };
            Ok(Answer {
                status,
                headers: HeaderMap::new(),
                body: body.into(),
            })
        })
    }
}

/// What a server answers when its keys are asked for.
fn keys_of(server: &ServerName) -> String {
    let key = key(server);
    let answer = json!({
        "server_name": server,
        "valid_until_ts": 1_900_000_000_000_u64,
        "verify_keys": { key.key_id(): { "key": key.public_key_base64() } },
        "old_verify_keys": {},
    });
    let mut answer: CanonicalJsonObject = serde_json::from_value(answer).expect("canonical JSON");
    sign_json(&mut answer, server, &key).expect("an object");
    serde_json::to_string(&answer).expect("JSON")
}
