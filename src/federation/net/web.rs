//! HTTP over guarded connections: bodies read up to a limit, redirects followed up to a limit.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{net::TcpStream, time};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower::Service;

use super::{DialError, Dialer, Dns};

/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How many unused connections to one authority are kept.
const MAX_IDLE_PER_HOST: usize = 4;
/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address is not an absolute `https` one.
    #[error("{0} is not an https address")]
    NotHttps(String),
    /// The name could not be resolved or no connection could be opened.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke or did not speak HTTP.
    #[error("the request failed: {0}")]
    Exchange(String),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The answer is larger than what is read.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// Redirected too often, or to somewhere that is not `https`.
    #[error("the redirects lead nowhere")]
    Redirects,
}

/// A whole answer, its body within the limit that was given.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// What turns the authority of a request into the addresses to connect to.
pub trait Locate: Send + Sync + 'static {
    /// The host that the certificate must be for, and the addresses in the order to be tried.
    fn locate(
        &self,
        uri: &Uri,
    ) -> impl Future<Output = Result<(String, Vec<SocketAddr>), DialError>> + Send;
}

/// What carries a request to the server in its address, and the answer back: HTTP over TLS, or the
/// network of a simulation.
pub trait Transport: Send + Sync + 'static {
    /// One exchange, without following redirects. `timeout` is from the start to the last byte,
    /// `max_body` bounds the bytes of the answer's body.
    ///
    /// # Errors
    /// [`HttpError`]; an answer of any status is none.
    fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        max_body: usize,
    ) -> BoxFuture<'_, Result<Answer, HttpError>>;
}

impl<L: Locate> Transport for HttpClient<L> {
    fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        max_body: usize,
    ) -> BoxFuture<'_, Result<Answer, HttpError>> {
        Box::pin(self.exchange(request, timeout, max_body))
    }
}

/// A pooled HTTP client over guarded TLS connections.
pub(crate) struct HttpClient<L: Locate> {
    inner: Client<Connector<L>, Full<Bytes>>,
}

impl<L: Locate> HttpClient<L> {
    pub(crate) fn new(dialer: Dialer, locator: Arc<L>) -> Self {
        let inner = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .build(Connector {
                dialer: Arc::new(dialer),
                locator,
            });
        Self { inner }
    }

    /// One exchange, without following redirects.
    pub(crate) async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        max_body: usize,
    ) -> Result<Answer, HttpError> {
        let exchange = async {
            let response = self.inner.request(request).await.map_err(from_client)?;
            read(response, max_body).await
        };
        time::timeout(timeout, exchange)
            .await
            .unwrap_or(Err(HttpError::Timeout(timeout)))
    }
}

async fn read(response: Response<Incoming>, max_body: usize) -> Result<Answer, HttpError> {
    let (parts, body) = response.into_parts();
    let collected = Limited::new(body, max_body).collect().await.map_err(|e| {
        if e.is::<http_body_util::LengthLimitError>() {
            HttpError::TooLarge(max_body)
        } else {
            HttpError::Exchange(e.to_string())
        }
    })?;
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body: collected.to_bytes(),
    })
}

/// Finds our own error below hyper's, so that people read the reason and not "client error (Connect)".
fn from_client(error: hyper_util::client::legacy::Error) -> HttpError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(e) = source {
        text = e.to_string();
        if let Some(dial) = e.downcast_ref::<DialError>() {
            return HttpError::Dial(dial.copy());
        }
        source = e.source();
    }
    HttpError::Exchange(text)
}

impl DialError {
    fn copy(&self) -> Self {
        match self {
            Self::Denied(name) => Self::Denied(name.clone()),
            Self::NoAddress(name) => Self::NoAddress(name.clone()),
            Self::Connect { name, reason } => Self::Connect {
                name: name.clone(),
                reason: reason.clone(),
            },
            Self::Tls { name, reason } => Self::Tls {
                name: name.clone(),
                reason: reason.clone(),
            },
        }
    }
}

struct Connector<L> {
    dialer: Arc<Dialer>,
    locator: Arc<L>,
}

impl<L> Clone for Connector<L> {
    fn clone(&self) -> Self {
        Self {
            dialer: Arc::clone(&self.dialer),
            locator: Arc::clone(&self.locator),
        }
    }
}

impl<L: Locate> Service<Uri> for Connector<L> {
    type Response = Stream;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let (host, addresses) = this.locator.locate(&uri).await?;
            // Only `WebClient::look` asks for anything but https.
            let stream = if uri.scheme() == Some(&http::uri::Scheme::HTTP) {
                Either::Right(this.dialer.tcp(&host, &addresses).await?)
            } else {
                Either::Left(this.dialer.dial(&host, &addresses).await?)
            };
            Ok(Stream(TokioIo::new(stream)))
        })
    }
}

/// A TLS stream that tells hyper which protocol was agreed on, or one without TLS.
pub(crate) struct Stream(TokioIo<Either<TlsStream<TcpStream>, TcpStream>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let protocol = match self.0.inner() {
            Either::Left(tls) => tls.get_ref().1.alpn_protocol(),
            Either::Right(_) => None,
        };
        if protocol == Some(b"h2") {
            Connected::new().negotiated_h2()
        } else {
            Connected::new()
        }
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}

/// Plain web look-ups: the authority's own addresses, port 443 unless it names another.
struct Web {
    dns: Dns,
    default_port: u16,
}

impl Locate for Web {
    async fn locate(&self, uri: &Uri) -> Result<(String, Vec<SocketAddr>), DialError> {
        let host = uri
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned();
        let default = match uri.scheme_str() {
            Some("http") => 80,
            _ => self.default_port,
        };
        let port = uri.port_u16().unwrap_or(default);
        if let Ok(ip) = host.parse() {
            return Ok((host, vec![SocketAddr::new(ip, port)]));
        }
        let addresses = self
            .dns
            .addresses(&host)
            .await
            .map_err(|e| DialError::Connect {
                name: host.clone(),
                reason: e.to_string(),
            })?;
        Ok((
            host,
            addresses
                .into_iter()
                .map(|ip| SocketAddr::new(ip, port))
                .collect(),
        ))
    }
}

/// Fetches web pages that strangers name: well-known files, media behind a redirect.
pub struct WebClient {
    http: HttpClient<Web>,
}

impl WebClient {
    /// A client for plain `https` addresses.
    #[must_use]
    pub fn new(dialer: Dialer, dns: Dns) -> Self {
        Self::with_port(dialer, dns, 443)
    }

    pub(crate) fn with_port(dialer: Dialer, dns: Dns, default_port: u16) -> Self {
        Self {
            http: HttpClient::new(dialer, Arc::new(Web { dns, default_port })),
        }
    }

    /// GET with redirects. `timeout` bounds the whole, `max_body` the bytes of the last answer's body.
    ///
    /// # Errors
    /// [`HttpError`]. A status other than 2xx is an answer, not an error.
    pub async fn get(
        &self,
        address: &str,
        timeout: Duration,
        max_body: usize,
    ) -> Result<Answer, HttpError> {
        let chain = async {
            let mut address =
                url::Url::parse(address).map_err(|_| HttpError::NotHttps(address.to_owned()))?;
            for _ in 0..=MAX_REDIRECTS {
                let answer = self.get_once(&address, timeout, max_body).await?;
                let Some(next) = redirect_of(&answer, &address) else {
                    return Ok(answer);
                };
                address = next;
            }
            Err(HttpError::Redirects)
        };
        time::timeout(timeout, chain)
            .await
            .unwrap_or(Err(HttpError::Timeout(timeout)))
    }

    /// One GET of a web page, by https or http, without following redirects: its head, and its body as it comes. The
    /// caller bounds the time, and what is read of the body.
    ///
    /// # Errors
    /// [`HttpError`]. A status other than 2xx is an answer, not an error.
    pub async fn look(
        &self,
        address: &url::Url,
        headers: HeaderMap,
    ) -> Result<Response<Incoming>, HttpError> {
        let not_web = || HttpError::NotHttps(address.to_string());
        if !matches!(address.scheme(), "http" | "https") {
            return Err(not_web());
        }
        let mut request = Request::get(address.as_str())
            .body(Full::default())
            .map_err(|_| not_web())?;
        *request.headers_mut() = headers;
        let agent = http::HeaderValue::from_static(crate::USER_AGENT);
        request.headers_mut().insert(header::USER_AGENT, agent);
        self.http.inner.request(request).await.map_err(from_client)
    }

    /// POST of a JSON body, without following redirects.
    ///
    /// # Errors
    /// [`HttpError`]. A status other than 2xx is an answer, not an error.
    pub async fn post_json(
        &self,
        address: &str,
        body: Bytes,
        timeout: Duration,
        max_body: usize,
    ) -> Result<Answer, HttpError> {
        let not_https = || HttpError::NotHttps(address.to_owned());
        let url = url::Url::parse(address).map_err(|_| not_https())?;
        if url.scheme() != "https" {
            return Err(not_https());
        }
        let request = Request::post(url.as_str())
            .header(header::USER_AGENT, crate::USER_AGENT)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|_| not_https())?;
        self.http.exchange(request, timeout, max_body).await
    }

    /// One request, signed in with a token, its body JSON or empty, without following redirects.
    ///
    /// # Errors
    /// [`HttpError`]. A status other than 2xx is an answer, not an error.
    pub async fn call(
        &self,
        (method, address): (Method, &str),
        token: &str,
        body: Bytes,
        timeout: Duration,
        max_body: usize,
    ) -> Result<Answer, HttpError> {
        let not_https = || HttpError::NotHttps(address.to_owned());
        let url = url::Url::parse(address).map_err(|_| not_https())?;
        let token = http::HeaderValue::from_str(&format!("Bearer {token}"));
        let mut token = token.map_err(|_| HttpError::Exchange("the token is none".to_owned()))?;
        token.set_sensitive(true);
        if url.scheme() != "https" {
            return Err(not_https());
        }
        let mut request = Request::builder()
            .method(method)
            .uri(url.as_str())
            .header(header::USER_AGENT, crate::USER_AGENT)
            .header(header::AUTHORIZATION, token);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|_| not_https())?;
        self.http.exchange(request, timeout, max_body).await
    }

    async fn get_once(
        &self,
        address: &url::Url,
        timeout: Duration,
        max_body: usize,
    ) -> Result<Answer, HttpError> {
        if address.scheme() != "https" {
            return Err(HttpError::NotHttps(address.to_string()));
        }
        let request = Request::get(address.as_str())
            .header(header::USER_AGENT, crate::USER_AGENT)
            .body(Full::default())
            .map_err(|_| HttpError::NotHttps(address.to_string()))?;
        self.http.exchange(request, timeout, max_body).await
    }
}

fn redirect_of(answer: &Answer, from: &url::Url) -> Option<url::Url> {
    if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let to = answer.headers.get(header::LOCATION)?.to_str().ok()?;
    from.join(to).ok()
}
