//! A server that is made up: it signs what it likes and speaks as much of federation as it takes to be joined, asked for
//! states and history, and listened to. With it a room of 50,000 members costs seconds, not an afternoon of joins.

mod answers;
mod room;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use resuni_dag::{SigningKey, sign_json};
use ruma::{CanonicalJsonObject, OwnedServerName};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

use crate::{Authority, World};
pub use room::{Deed, MadeUpRoom};

/// The largest body that is read.
const MAX_BODY: usize = 64 << 20;
/// A transaction that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(300);

/// Who the server is.
#[derive(Clone)]
pub(crate) struct Identity {
    pub name: OwnedServerName,
    pub key: Arc<SigningKey>,
}

/// The server; it stops when this value is dropped.
pub struct Resident {
    identity: Identity,
    room: Arc<Mutex<MadeUpRoom>>,
    http: reqwest::Client,
    next_transaction: AtomicU64,
    serving: JoinHandle<()>,
}

impl Resident {
    /// Starts it on a port of its own, with a room of so many members.
    pub async fn start(world: &World, members: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let name = OwnedServerName::try_from(listener.local_addr()?.to_string())?;
        let key = Arc::new(SigningKey::generate("made", [7; 32])?);
        let identity = Identity { name, key };
        let made_up = identity.clone();
        let room = tokio::task::spawn_blocking(move || MadeUpRoom::new(made_up, members)).await??;
        let room = Arc::new(Mutex::new(room));
        // Only the first in a process can be installed; all are the same.
        drop(rustls::crypto::ring::default_provider().install_default());
        let authority = world.authority();
        let root = reqwest::Certificate::from_pem(&std::fs::read(authority.root())?)?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .tls_certs_only([root])
            .build()?;
        let serving = tokio::spawn(serve(
            listener,
            acceptor(authority)?,
            identity.clone(),
            room.clone(),
        ));
        Ok(Self {
            identity,
            room,
            http,
            next_transaction: AtomicU64::new(0),
            serving,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.identity.name.as_str()
    }

    /// The id of its room.
    pub fn room_id(&self) -> String {
        self.room.lock().room_id().to_string()
    }

    /// The join of somebody of its own.
    pub fn joining(&self, who: &str) -> Deed {
        self.room.lock().joining(who)
    }

    /// Events that follow each other and all that was heard, signed and kept; to be sent.
    pub fn make(&self, deeds: Vec<Deed>) -> anyhow::Result<Vec<String>> {
        let mut room = self.room.lock();
        deeds.into_iter().map(|deed| room.follow(deed)).collect()
    }

    /// Events each of which follows what there was before all of them.
    pub fn fork(&self, deeds: Vec<Deed>) -> anyhow::Result<Vec<String>> {
        self.room.lock().fork(deeds)
    }

    /// Sends events in one transaction, and waits until it is answered without an error for any of them.
    pub async fn send(&self, to: &str, events: &[String]) -> anyhow::Result<()> {
        let number = self.next_transaction.fetch_add(1, Ordering::Relaxed);
        let uri = format!("/_matrix/federation/v1/send/{number}");
        let pdus: Vec<Value> = events
            .iter()
            .map(|event| serde_json::from_str(event))
            .collect::<Result<_, _>>()?;
        let body = json!({ "origin": self.name(), "origin_server_ts": 1, "pdus": pdus });
        let authorization = self.authorization(to, &uri, &body)?;
        let request = self.http.put(format!("https://{to}{uri}"));
        let answer = request
            .header("Authorization", authorization)
            .json(&body)
            .send()
            .await?;
        let status = answer.status();
        let answer: Value = answer.json().await?;
        ensure!(status.is_success(), "the transaction failed: {answer}");
        let outcomes = answer["pdus"].as_object().context("no outcomes")?;
        let errors: Vec<_> = outcomes
            .values()
            .filter(|o| !o["error"].is_null())
            .collect();
        ensure!(errors.is_empty(), "events were refused: {errors:?}");
        Ok(())
    }

    fn authorization(&self, to: &str, uri: &str, body: &Value) -> anyhow::Result<String> {
        let Identity { name, key } = &self.identity;
        let request = json!({ "method": "PUT", "uri": uri, "origin": name, "destination": to,
            "content": body });
        let mut request: CanonicalJsonObject = serde_json::from_value(request)?;
        sign_json(&mut request, name, key)?;
        let request = serde_json::to_value(&request)?;
        let signature = request["signatures"][name.as_str()][key.key_id()].as_str();
        Ok(format!(
            "X-Matrix origin=\"{name}\",destination=\"{to}\",key=\"{}\",sig=\"{}\"",
            key.key_id(),
            signature.context("no signature")?
        ))
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn acceptor(authority: &Authority) -> anyhow::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(authority.certificate())?;
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(authority.private_key())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    identity: Identity,
    room: Arc<Mutex<MadeUpRoom>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, identity, room) = (acceptor.clone(), identity.clone(), room.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service =
                tower::service_fn(move |request| answer(request, identity.clone(), room.clone()));
            let service = TowerToHyperService::new(service);
            let connection = Builder::new(TokioExecutor::new());
            // A connection that breaks off is the other side's business.
            drop(
                connection
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

async fn answer(
    request: http::Request<hyper::body::Incoming>,
    identity: Identity,
    room: Arc<Mutex<MadeUpRoom>>,
) -> anyhow::Result<http::Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let body = http_body_util::Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
    let answer = answers::answer(&identity, &room, &parts, &body)?;
    let (status, text) = match answer {
        Some(text) => (200, text),
        None => {
            let error = json!({ "errcode": "M_UNRECOGNIZED", "error": "nobody built this" });
            (404, error.to_string())
        }
    };
    Ok(http::Response::builder()
        .status(status)
        .header("Content-Type", "application/json")
        .body(Full::from(text))?)
}
