//! Sockets, TLS and connections: from an address in the settings to requests for a router.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use resuni_config::Listener;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Connections per listener; the next one waits in the kernel's queue until one ends.
const MOST_CONNECTIONS: usize = 20_000;
/// How long a client may take for the TLS handshake, and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(15);
/// Requests at once on one HTTP/2 connection.
const MOST_STREAMS: u32 = 250;
/// How long the accept loop rests when the system has no more descriptors.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(100);
/// The kernel's queue of connections that nobody has accepted yet.
const BACKLOG: i32 = 1024;

/// A bound address. Connections queue up from here on; [`Bound::serve`] answers them.
pub(crate) struct Bound {
    socket: TcpListener,
    tls: Option<Tls>,
}

/// The certificate in use, and where it was read from.
#[derive(Clone)]
struct Tls {
    listener: Listener,
    current: Arc<ArcSwap<rustls::ServerConfig>>,
}

impl Bound {
    /// Binds the address and reads the certificate.
    pub(crate) fn bind(listener: &Listener) -> Result<Self> {
        let address = SocketAddr::new(listener.address, listener.port);
        let tls = Tls::load(listener)?;
        let socket = bind(address).with_context(|| {
            format!("{address} can't be listened on; is another server running there?")
        })?;
        Ok(Self { socket, tls })
    }

    /// Where it can be reached, as a URL. The port is the real one, also when 0 was asked for.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        match self.socket.local_addr() {
            Ok(address) => format!("{scheme}://{address}"),
            Err(error) => format!("{scheme}://? ({error})"),
        }
    }

    /// Reads the certificate again. On an error the one in use stays.
    pub(crate) fn reloader(&self) -> Option<impl Fn() -> Result<()> + Send + 'static> {
        let tls = self.tls.clone()?;
        Some(move || {
            tls.current.store(Arc::new(server_config(&tls.listener)?));
            Ok(())
        })
    }

    /// Answers requests until `stop`, then finishes those that are under way.
    pub(crate) async fn serve(self, router: Router, stop: CancellationToken) {
        let connections = GracefulShutdown::new();
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&self.socket, &room) => accepted,
            };
            let Some((stream, peer, permit)) = accepted else {
                continue;
            };
            let tls = self
                .tls
                .as_ref()
                .map(|tls| TlsAcceptor::from(tls.current.load_full()));
            let (router, watcher) = (router.clone(), connections.watcher());
            tokio::spawn(async move {
                connection(stream, peer, tls, router, watcher).await;
                drop(permit);
            });
        }
        drop(self.socket);
        connections.shutdown().await;
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // `::` means both families, whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(socket: &TcpListener, room: &Arc<Semaphore>) -> Option<Accepted> {
    let permit = room.clone().acquire_owned().await.ok()?;
    match socket.accept().await {
        Ok((stream, peer)) => Some((stream, peer, permit)),
        Err(error) => {
            // Of one connection: it is gone. Of the process: out of descriptors, wait for some.
            tracing::debug!(%error, "a connection was not accepted");
            if error.kind() != std::io::ErrorKind::ConnectionAborted {
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
            }
            None
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Answers are small and written at once; waiting to fill a packet only adds latency.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY");
    }
    let Some(tls) = tls else {
        return http(TokioIo::new(stream), peer, router, watcher).await;
    };
    match tokio::time::timeout(PATIENCE, tls.accept(stream)).await {
        Ok(Ok(stream)) => http(TokioIo::new(stream), peer, router, watcher).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}

async fn http<I>(
    io: I,
    peer: SocketAddr,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let router = router.clone();
        async move {
            let response = router.oneshot(request).await;
            Ok::<_, Infallible>(response.unwrap_or_else(|never| match never {}))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(60))
        .max_concurrent_streams(MOST_STREAMS);
    let connection = builder.serve_connection(io, service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

impl Tls {
    fn load(listener: &Listener) -> Result<Option<Self>> {
        if listener.tls_certificate.is_none() {
            return Ok(None);
        }
        let current = Arc::new(ArcSwap::from_pointee(server_config(listener)?));
        Ok(Some(Self {
            listener: listener.clone(),
            current,
        }))
    }
}

fn server_config(listener: &Listener) -> Result<rustls::ServerConfig> {
    let certificate = listener.tls_certificate.as_deref().unwrap_or(Path::new(""));
    let key = listener.tls_private_key.as_deref().unwrap_or(Path::new(""));
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("No certificate can be read from {}.", certificate.display()))?;
    let private_key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("No private key can be read from {}.", key.display()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()?
    .with_no_client_auth()
    .with_single_cert(chain, private_key)
    .with_context(|| {
        format!(
            "{} and {} don't belong together.",
            certificate.display(),
            key.display()
        )
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
