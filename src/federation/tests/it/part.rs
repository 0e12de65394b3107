//! A server of one test: everything but the client-server API, over TLS on loopback.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming as Body, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use resuni_accounts::{
    AccountKind, Accounts, AccountsConfig, AppServices, DeviceRequest, NewAccount,
};
use resuni_dag::SigningKey;
use resuni_federation::{
    Federation, FederationError, FederationParts, Incoming, Mode, Network, NetworkConfig,
};
use resuni_rooms::{NewEvent, RoomView, Rooms, RoomsConfig, Typing};
use resuni_store::{EngineConfig, SharedClock, Store, SystemClock};
use ruma::{
    OwnedEventId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, UserId,
    api::{IncomingRequestExt as _, OutgoingResponse, OutgoingResponseExt as _, federation as api},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;

/// How long something may take on a busy machine before a test says that it does not happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server.
pub struct Part {
    /// Its name.
    pub name: OwnedServerName,
    /// Its rooms.
    pub rooms: Arc<Rooms>,
    /// Its people.
    pub accounts: Arc<Accounts>,
    /// Its federation.
    pub federation: Arc<Federation>,
    /// Who types.
    pub typing: Arc<Typing>,
    store: Store,
    /// Where everybody is.
    pub map: Map,
    /// The seed of its key.
    pub key: [u8; 32],
    /// What it says that is not so.
    pub lies: Arc<Lies>,
    stop: CancellationToken,
    acceptor: TlsAcceptor,
    tasks: Vec<JoinHandle<()>>,
}

/// Changes an answer: the endpoint (`make_join`, …) and its body.
pub type Lie = Box<dyn Fn(&str, &mut Value) + Send>;

/// What a server was asked, and how it changes its answers.
#[derive(Default)]
pub struct Lies {
    lie: Mutex<Option<Lie>>,
    asked: Mutex<Vec<String>>,
}

impl Lies {
    /// From now on answers are changed like this.
    pub fn tell(&self, lie: impl Fn(&str, &mut Value) + Send + 'static) {
        *self.lie.lock().unwrap() = Some(Box::new(lie));
        self.asked.lock().unwrap().clear();
    }

    /// The truth again.
    pub fn stop(&self) {
        *self.lie.lock().unwrap() = None;
    }

    /// How often an endpoint was asked since the last lie began.
    pub fn asked(&self, endpoint: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|name| *name == endpoint).count()
    }

    fn change(&self, endpoint: &str, body: Bytes) -> Bytes {
        self.asked.lock().unwrap().push(endpoint.to_owned());
        let lie = self.lie.lock().unwrap();
        let Some(lie) = &*lie else { return body };
        let mut value = serde_json::from_slice(&body).unwrap();
        lie(endpoint, &mut value);
        value.to_string().into()
    }
}

/// Where everybody is.
pub type Map = BTreeMap<OwnedServerName, SocketAddr>;

/// The servers of these names, each knowing where the others are.
pub async fn servers<const N: usize>(authority: &Authority, names: [&str; N]) -> [Part; N] {
    servers_on(authority, names, |_| EngineConfig::Memory).await
}

/// The same, each on an engine of its own kind.
pub async fn servers_on<const N: usize>(
    authority: &Authority,
    names: [&str; N],
    engine: impl Fn(&str) -> EngineConfig,
) -> [Part; N] {
    let mut map = Map::new();
    let mut listeners = Vec::new();
    for name in names {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        map.insert(name.try_into().unwrap(), listener.local_addr().unwrap());
        listeners.push(listener);
    }
    let mut parts = Vec::new();
    for (name, listener) in names.into_iter().zip(listeners) {
        let store = Store::open(engine(name)).await.unwrap();
        let acceptor = authority.acceptor(&[name]);
        let part = Part::start(authority, name, store, rand::random(), &map, acceptor).await;
        parts.push(part.listen(listener));
    }
    parts.try_into().ok().unwrap()
}

impl Part {
    async fn start(
        authority: &Authority,
        name: &str,
        store: Store,
        seed: [u8; 32],
        map: &Map,
        acceptor: TlsAcceptor,
    ) -> Self {
        let name: OwnedServerName = name.try_into().unwrap();
        let clock: SharedClock = Arc::new(SystemClock);
        let key = Arc::new(SigningKey::generate("k1", seed).unwrap());
        let stop = CancellationToken::new();
        let network = NetworkConfig {
            server_name: name.clone(),
            key: Arc::clone(&key),
            old_keys: Vec::new(),
            notaries: Vec::new(),
            mode: Mode::Open,
            destinations: map.clone(),
            extra_ca_files: vec![authority.file.path().to_owned()],
            deny_ip_ranges: Vec::new(),
        };
        let network = Network::open(network, store.clone(), Arc::clone(&clock)).unwrap();
        let config = RoomsConfig {
            server_name: name.clone(),
            key: Arc::clone(&key),
            default_version: RoomVersionId::V12,
        };
        let rooms = Rooms::open(config, store.clone(), Arc::clone(&clock))
            .await
            .unwrap();
        let accounts = Accounts::open(
            AccountsConfig::new(name.clone()),
            AppServices::default(),
            store.clone(),
            Arc::clone(&clock),
        )
        .await
        .unwrap();
        if accounts.profile("user").await.unwrap().is_none() {
            let account = NewAccount {
                localpart: Some("user".to_owned()),
                device: Some(DeviceRequest {
                    device_id: Some("PHONE".into()),
                    display_name: Some("Phone".to_owned()),
                    refresh: false,
                }),
                ..NewAccount::of_kind(AccountKind::User)
            };
            accounts.register(account).await.unwrap();
        }
        let typing = Arc::new(Typing::new(Arc::clone(&clock)));
        let federation = Federation::open(FederationParts {
            server_name: name.clone(),
            key,
            network,
            store: store.clone(),
            rooms: Arc::clone(&rooms),
            accounts: Arc::clone(&accounts),
            typing: Arc::clone(&typing),
            clock,
            stop: stop.clone(),
        })
        .await
        .unwrap();
        let federation = Arc::new(federation);
        let run = Arc::clone(&federation);
        let sender = tokio::spawn(async move { run.run().await.unwrap() });
        Self {
            name,
            rooms,
            accounts,
            federation,
            typing,
            store,
            map: map.clone(),
            key: seed,
            lies: Arc::default(),
            stop,
            acceptor,
            tasks: vec![sender],
        }
    }

    fn listen(mut self, listener: TcpListener) -> Self {
        let (acceptor, stop) = (self.acceptor.clone(), self.stop.clone());
        let (federation, lies) = (Arc::clone(&self.federation), Arc::clone(&self.lies));
        self.tasks.push(tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let (federation, lies) = (Arc::clone(&federation), Arc::clone(&lies));
                let connection = connection(acceptor.clone(), stream, federation, lies);
                let stop = stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = connection => {}
                    }
                });
            }
        }));
        self
    }

    /// Stops the server. What it has on disk stays.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
    }

    /// Starts it again, at the same address and with the same data.
    pub async fn restart(&mut self, authority: &Authority, map: &Map) {
        let part = Self::start(
            authority,
            self.name.as_str(),
            self.store.clone(),
            self.key,
            map,
            self.acceptor.clone(),
        )
        .await;
        let listener = TcpListener::bind(map[&self.name]).await.unwrap();
        *self = part.listen(listener);
    }

    /// The store itself, to break it on purpose.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The store as it is now.
    pub fn accounts_snapshot(&self) -> resuni_store::Snapshot {
        self.store.snapshot()
    }

    /// The one user of the server.
    pub fn user(&self) -> OwnedUserId {
        UserId::parse(format!("@user:{}", self.name)).unwrap()
    }

    /// The room as this server has it.
    pub async fn view(&self, room: &RoomId) -> RoomView {
        self.rooms.view_known(room).await.unwrap()
    }

    /// Says something.
    pub async fn say(&self, room: &RoomId, text: &str) -> OwnedEventId {
        let content =
            serde_json::value::to_raw_value(&json!({ "msgtype": "m.text", "body": text }));
        let event = NewEvent::message("m.room.message", content.unwrap());
        self.rooms
            .send(room, &self.user(), event, None)
            .await
            .unwrap()
    }

    /// Waits until the event is in the room's timeline here.
    pub async fn has(&self, room: &RoomId, event: &OwnedEventId) {
        let arrived = async {
            loop {
                let place = self
                    .view(room)
                    .await
                    .place_in_timeline(event)
                    .await
                    .unwrap();
                if place.is_some() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, arrived).await;
        outcome.unwrap_or_else(|_| panic!("{event} does not reach {}", self.name));
    }
}

async fn connection(
    acceptor: TlsAcceptor,
    stream: tokio::net::TcpStream,
    federation: Arc<Federation>,
    lies: Arc<Lies>,
) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let service = service_fn(move |request| {
        let (federation, lies) = (Arc::clone(&federation), Arc::clone(&lies));
        async move { Ok::<_, Infallible>(answer(&federation, &lies, request).await) }
    });
    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Answer = Response<Full<Bytes>>;

async fn answer(federation: &Federation, lies: &Lies, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let request = Request::from_parts(parts, body);
    let answer = route(federation, &request)
        .await
        .unwrap_or_else(|error| refusal(&error));
    let endpoint = request.uri().path().split('/').nth(4).unwrap_or_default();
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(parts, lies.change(endpoint, body).into())
}

/// What the `http` crate does for the whole server, here for the endpoints that the tests use.
async fn route(
    federation: &Federation,
    request: &Request<Bytes>,
) -> Result<Answer, FederationError> {
    let uri = request.uri().path_and_query().unwrap().as_str();
    if uri == "/_matrix/key/v2/server" {
        let keys = federation.network.keys.published()?;
        return Ok(Response::new(Full::from(keys.json().get().to_owned())));
    }
    let authorization: Vec<&str> = request
        .headers()
        .get_all(header::AUTHORIZATION)
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect();
    let incoming = Incoming {
        method: request.method().as_str(),
        uri,
        authorization: &authorization,
        body: request.body(),
    };
    let origin = &federation.authenticate(incoming).await?;
    // Decoded after it is split: an event id of version 3 may hold a slash.
    let decode = |segment| percent_encoding::percent_decode_str(segment).decode_utf8();
    let segments = request.uri().path().split('/').skip(3);
    let segments: Vec<_> = segments.map(|segment| decode(segment).unwrap()).collect();
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let (serve, arguments) = (&federation.serve, segments.get(2..).unwrap_or_default());
    macro_rules! read {
        ($kind:ty) => {
            read!($kind, arguments)
        };
        ($kind:ty, $arguments:expr) => {{
            let mut borrowed = Request::new(&request.body()[..]);
            *borrowed.method_mut() = request.method().clone();
            *borrowed.uri_mut() = request.uri().clone();
            <$kind>::try_from_http_request(borrowed, $arguments).unwrap()
        }};
    }
    use api::{authorization as auth, backfill, event, membership as m};
    use resuni_federation::divergence::wire;
    match segments.get(1).copied().unwrap_or_default() {
        "send" => {
            let request = read!(wire::transaction::Request);
            json_of(federation.ingest.transaction(origin, request).await?)
        }
        "make_join" => json_of(
            serve
                .make_join(origin, read!(m::prepare_join_event::v1::Request))
                .await?,
        ),
        "send_join" => json_of(
            serve
                .send_join(origin, read!(m::create_join_event::v2::Request))
                .await?,
        ),
        "make_leave" => json_of(
            serve
                .make_leave(origin, read!(m::prepare_leave_event::v1::Request))
                .await?,
        ),
        "send_leave" => json_of(
            serve
                .send_leave(origin, read!(m::create_leave_event::v2::Request))
                .await?,
        ),
        "invite" => json_of(
            federation
                .invites
                .take(origin, read!(m::create_invite::v2::Request))
                .await?,
        ),
        "exchange_third_party_invite" => {
            let request = read!(api::thirdparty::exchange_invite::v1::Request);
            federation.third_party.exchange(origin, request).await?;
            json_of(api::thirdparty::exchange_invite::v1::Response::new())
        }
        "backfill" => json_of(
            serve
                .backfill(origin, read!(backfill::get_backfill::v1::Request))
                .await?,
        ),
        "state" => json_of(
            serve
                .state(origin, read!(event::get_room_state::v1::Request))
                .await?,
        ),
        "tk.nutra.msc4500" => {
            let request = read!(wire::accumulator::Request, &segments[3..]);
            json_of(serve.state_accumulator(origin, request).await?)
        }
        "sign" | "org.matrix.msc4284" => {
            let event: Box<serde_json::value::RawValue> =
                serde_json::from_slice(request.body()).unwrap();
            Ok(Response::new(Full::from(recommend(&event))))
        }
        "state_ids" => json_of(
            serve
                .state_ids(origin, read!(event::get_room_state_ids::v1::Request))
                .await?,
        ),
        "event" => json_of(
            serve
                .event(origin, read!(event::get_event::v1::Request))
                .await?,
        ),
        "event_auth" => json_of(
            serve
                .event_auth(origin, read!(auth::get_event_authorization::v1::Request))
                .await?,
        ),
        "get_missing_events" => json_of(
            serve
                .missing_events(origin, read!(event::get_missing_events::v1::Request))
                .await?,
        ),
        "user" => match segments[2..] {
            ["keys", "query"] => json_of(
                serve
                    .query_keys(read!(api::keys::get_keys::v1::Request))
                    .await?,
            ),
            ["keys", "claim"] => json_of(
                serve
                    .claim_keys(read!(api::keys::claim_keys::v1::Request))
                    .await?,
            ),
            _ => {
                let request = read!(api::device::get_devices::v1::Request, &segments[3..]);
                json_of(serve.user_devices(request).await?)
            }
        },
        other => Err(FederationError::NotFound(format!("no endpoint {other}"))),
    }
}

/// The key with which these servers sign as policy servers.
pub fn policy_key() -> SigningKey {
    SigningKey::generate("policy_server", [7; 32]).unwrap()
}

/// A policy server recommends whatever does not say "spam".
fn recommend(event: &serde_json::value::RawValue) -> String {
    let rules = resuni_dag::RoomRules::of(&RoomVersionId::V12).unwrap();
    let pdu = resuni_dag::Pdu::parse(event.get(), rules).unwrap();
    if event.get().contains("spam") {
        return "{}".to_owned();
    }
    let name = ruma::server_name!("p.test");
    let signed = resuni_dag::cosign(&pdu, rules, name, &policy_key()).unwrap();
    let signed: Value = serde_json::from_str(signed.json()).unwrap();
    let signature = &signed["signatures"][name.as_str()]["ed25519:policy_server"];
    json!({ name.as_str(): { "ed25519:policy_server": signature } }).to_string()
}

fn json_of(response: impl OutgoingResponse) -> Result<Answer, FederationError> {
    let (parts, body) = response
        .try_into_http_response::<Vec<u8>>()
        .unwrap()
        .into_parts();
    Ok(Response::from_parts(parts, Full::from(body)))
}

fn refusal(error: &FederationError) -> Answer {
    let (status, errcode) = match error {
        FederationError::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED"),
        FederationError::Forbidden(_) => (StatusCode::FORBIDDEN, "M_FORBIDDEN"),
        FederationError::NotFound(_) => (StatusCode::NOT_FOUND, "M_NOT_FOUND"),
        FederationError::BadRequest { errcode, .. } => (StatusCode::BAD_REQUEST, *errcode),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN"),
    };
    let body: Value = json!({ "errcode": errcode, "error": error.to_string() });
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response
}
