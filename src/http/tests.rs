//! The router as a whole, driven in process.

mod accounts;
mod bridges;
mod edges;
mod federation;
mod guarded;
mod keys;
mod limited;
mod mail;
mod manners;
mod media;
mod notify;
mod operators;
mod rendezvous;
mod rooms;
mod signed;
mod sweep;
mod talk;
mod tool_media;
mod tool_rooms;
mod tool_users;
mod tools;

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, body::Body};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use resuni_accounts::{
    AccountNum, Accounts, AccountsConfig, AppServices, PasswordCost, Rendezvous,
};
use resuni_dag::SigningKey;
use resuni_delivery::{DelayedEvents, Push, ServiceClient, Ways};
use resuni_federation::{Federation, FederationParts, Mode, Network, NetworkConfig};
use resuni_media::{Media, MediaConfig};
use resuni_rooms::{Rooms, RoomsConfig};
use resuni_search::Search;
use resuni_store::{SharedClock, Store, SystemClock};
use resuni_sync::Sync;
use ruma::{RoomVersionId, api::appservice::Registration as ServiceFile, owned_server_name};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{AppState, Registration, Settings, Support, limits::Limits, router};

/// A bridge that may act as `@irc_…`.
const BRIDGE: &str = r#"{
    "id": "irc", "url": null, "as_token": "as-secret", "hs_token": "hs-secret",
    "sender_localpart": "irc",
    "namespaces": { "users": [{ "exclusive": true, "regex": "@irc_.*:example\\.org" }], "aliases": [], "rooms": [] }
}"#;

/// A server without sockets.
#[derive(Clone)]
struct Server {
    router: Router,
    /// Its files; removed when the last copy goes.
    folder: Arc<tempfile::TempDir>,
    state: AppState,
}

/// What came back.
struct Got {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Got {
    fn errcode(&self) -> &str {
        self.body["errcode"].as_str().unwrap_or_default()
    }

    #[track_caller]
    fn ok(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body
    }

    #[track_caller]
    fn fails(&self, status: u16, errcode: &str) {
        assert_eq!(
            (self.status.as_u16(), self.errcode()),
            (status, errcode),
            "{}",
            self.body
        );
    }
}

/// The doctor has nothing to say about the accounts.
async fn sound(server: &Server) {
    let accounts = &server.state.accounts;
    let findings = accounts.doctor(&accounts.store().snapshot()).await.unwrap();
    assert_eq!(findings, Vec::<String>::new());
}

impl Server {
    async fn start() -> Server {
        Self::start_with(|_| ()).await
    }

    async fn start_with(change: impl FnOnce(&mut Settings)) -> Server {
        Self::start_beside(BRIDGE, change).await
    }

    /// With this application service.
    async fn start_beside(bridge: &str, change: impl FnOnce(&mut Settings)) -> Server {
        let server_name = owned_server_name!("example.org");
        let store = Store::memory().await;
        let clock: SharedClock = Arc::new(SystemClock);
        let config = AccountsConfig {
            password_cost: PasswordCost::Minimum,
            shared_secret: Some("shared".to_owned()),
            ..AccountsConfig::new(server_name.clone())
        };
        let bridge: ServiceFile = serde_json::from_str(bridge).unwrap();
        let services = AppServices::new([bridge], &server_name).unwrap();
        let accounts = Accounts::open(config, services, store.clone(), clock.clone())
            .await
            .unwrap();
        let key = Arc::new(SigningKey::generate("1", [7; 32]).unwrap());
        let config = RoomsConfig {
            server_name: server_name.clone(),
            key: Arc::clone(&key),
            default_version: RoomVersionId::V12,
        };
        let rooms = Rooms::open(config, store.clone(), clock.clone())
            .await
            .unwrap();
        let typing = Arc::clone(rooms.typing());
        let delayed = DelayedEvents::new(Arc::clone(&rooms), Arc::clone(&accounts), || [7; 16]);
        let push = Push::open(Arc::clone(&rooms), Arc::clone(&accounts), Ways::default())
            .await
            .unwrap();
        tokio::spawn(Arc::clone(&push).run());
        let sync = Sync::new(
            Arc::clone(&rooms),
            Arc::clone(&accounts),
            Arc::clone(&typing),
            Arc::clone(&push),
            1,
        );
        let search = Search::open(Arc::clone(&rooms), Arc::clone(&accounts))
            .await
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let media = MediaConfig {
            max_bytes: 1000,
            ..MediaConfig::new(server_name.clone(), folder.path())
        };
        let media = Media::open(media, store.clone(), clock.clone())
            .await
            .unwrap();
        // It could talk to others, but nothing may leave this process.
        let network = NetworkConfig {
            server_name: server_name.clone(),
            key: Arc::clone(&key),
            old_keys: Vec::new(),
            notaries: Vec::new(),
            mode: Mode::Open,
            destinations: BTreeMap::new(),
            extra_ca_files: Vec::new(),
            deny_ip_ranges: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        };
        let network = Network::open(network, store.clone(), clock.clone()).unwrap();
        let federation = Federation::open(FederationParts {
            server_name: server_name.clone(),
            key,
            network,
            store,
            rooms: Arc::clone(&rooms),
            accounts: Arc::clone(&accounts),
            typing,
            clock: clock.clone(),
            stop: CancellationToken::new(),
        });
        let federation = Some(Arc::new(federation.await.unwrap()));
        let mut settings = Settings {
            server_name,
            public_baseurl: None,
            admin_api: true,
            well_known_server: None,
            support: Support::default(),
            registration: Registration {
                enabled: true,
                require_token: false,
                require_email: false,
                guests: true,
            },
            turn: None,
            livekit_services: Vec::new(),
            default_room_version: RoomVersionId::V12,
            trusted_proxies: Vec::new(),
        };
        change(&mut settings);
        let state = AppState {
            settings: Arc::new(settings),
            accounts,
            rooms,
            federation,
            media,
            push,
            mail: None,
            services: Arc::new(ServiceClient::new().unwrap()),
            delayed,
            rendezvous: Some(Arc::new(Rendezvous::new(clock.clone()))),
            relationships: None,
            notices: None,
            previews: None,
            search,
            sync,
            limits: Arc::new(Limits::new(None, clock)),
        };
        Server {
            folder: Arc::new(folder),
            router: router(state.clone()),
            state,
        }
    }

    async fn send(&self, request: Request<Body>) -> Got {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Got {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    async fn ask(&self, method: Method, path: &str, token: Option<&str>, body: Value) -> Got {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string())
        };
        self.send(request.body(body).unwrap()).await
    }

    async fn get(&self, path: &str, token: &str) -> Got {
        self.ask(Method::GET, path, Some(token), Value::Null).await
    }

    async fn put(&self, path: &str, token: &str, body: Value) -> Got {
        self.ask(Method::PUT, path, Some(token), body).await
    }

    async fn post(&self, path: &str, token: &str, body: Value) -> Got {
        self.ask(Method::POST, path, Some(token), body).await
    }

    /// The account of somebody.
    async fn account(&self, name: &str) -> AccountNum {
        self.state.accounts.find(name).await.unwrap().unwrap()
    }

    /// Registers somebody and answers their access token.
    async fn user(&self, name: &str) -> String {
        let body = json!({ "username": name, "password": "correct horse", "auth": { "type": "m.login.dummy" } });
        let got = self
            .ask(Method::POST, "/_matrix/client/v3/register", None, body)
            .await
            .ok();
        got["access_token"].as_str().unwrap().to_owned()
    }
}
