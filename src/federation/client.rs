//! Requests to other servers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use resuni_dag::SigningKey;
use ruma::{
    OwnedServerName, ServerName,
    api::federation::authentication::ServerSignatures,
    api::{
        IncomingResponse, OutgoingBody as _, OutgoingRequest,
        auth_scheme::{AuthScheme, NoAuthentication},
        path_builder::SinglePath,
    },
};

use crate::{
    USER_AGENT,
    admission::Admission,
    backoff::Backoff,
    discovery::Discovery,
    error::{FederationError, RemoteError},
    net::{Answer, HttpError, Transport},
    xmatrix::{SignedParts, XMatrix},
};

/// How long and how much one request may take.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// From the start to the last byte of the answer.
    pub timeout: Duration,
    /// Bytes of the answer that are read before it is given up.
    pub max_answer: usize,
    /// Whether a server that did not answer lately is left alone.
    pub heed_backoff: bool,
}

impl Terms {
    /// A small answer that a person waits for.
    pub const ASKED: Self = Self {
        timeout: Duration::from_secs(20),
        max_answer: 4 << 20,
        heed_backoff: false,
    };
    /// A small answer that nobody waits for.
    pub const BACKGROUND: Self = Self {
        timeout: Duration::from_secs(30),
        max_answer: 16 << 20,
        heed_backoff: true,
    };
    /// A room's whole state.
    pub const STATE: Self = Self {
        timeout: Duration::from_secs(120),
        max_answer: 256 << 20,
        heed_backoff: false,
    };

    /// The same for an answer of another size.
    #[must_use]
    pub const fn up_to(self, max_answer: usize) -> Self {
        Self { max_answer, ..self }
    }

    /// The same with another time limit.
    #[must_use]
    pub const fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

/// Signs requests and sends them to where discovery says the server is.
pub struct Client {
    origin: OwnedServerName,
    key: Arc<SigningKey>,
    transport: Arc<dyn Transport>,
    discovery: Arc<Discovery>,
    backoff: Arc<Backoff>,
    admission: Arc<Admission>,
}

impl Client {
    /// A client that signs as `origin` with `key`, and lets `transport` carry what it signed.
    #[must_use]
    pub fn new(
        origin: OwnedServerName,
        key: Arc<SigningKey>,
        transport: Arc<dyn Transport>,
        discovery: Arc<Discovery>,
        backoff: Arc<Backoff>,
        admission: Arc<Admission>,
    ) -> Self {
        Self {
            origin,
            key,
            transport,
            discovery,
            backoff,
            admission,
        }
    }

    /// Sends a signed request.
    ///
    /// # Errors
    /// [`FederationError`]; what the server said in an error answer is kept.
    pub async fn send<R>(
        &self,
        server: &ServerName,
        request: R,
        terms: Terms,
    ) -> Result<R::IncomingResponse, FederationError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        let answer = self.answer(server, request, terms).await?;
        typed::<R>(server, &answer)
    }

    /// Sends a signed request and returns the answer's body unparsed, for answers whose order or bounds
    /// the caller checks itself.
    ///
    /// # Errors
    /// [`FederationError`].
    pub async fn answer<R>(
        &self,
        server: &ServerName,
        request: R,
        terms: Terms,
    ) -> Result<Answer, FederationError>
    where
        R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    {
        self.prepared(server, request, terms, true).await
    }

    /// Sends a request that the specification leaves unsigned (keys, version).
    ///
    /// # Errors
    /// [`FederationError`].
    pub async fn send_unsigned<R>(
        &self,
        server: &ServerName,
        request: R,
        terms: Terms,
    ) -> Result<R::IncomingResponse, FederationError>
    where
        R: OutgoingRequest<Authentication = NoAuthentication, PathBuilder = SinglePath>,
    {
        let answer = self.prepared(server, request, terms, false).await?;
        typed::<R>(server, &answer)
    }

    /// Asks for a path without a signature, and returns the answer unparsed.
    ///
    /// # Errors
    /// [`FederationError`].
    pub(crate) async fn get_unsigned(
        &self,
        server: &ServerName,
        path: &str,
        terms: Terms,
    ) -> Result<Answer, FederationError> {
        self.check(server, terms)?;
        let authority = self.discovery.delegate(server).await;
        let request = Request::get(format!("https://{authority}{path}"))
            .header(header::USER_AGENT, USER_AGENT)
            .body(Full::new(Bytes::new()))
            .map_err(|e| FederationError::Internal(e.to_string()))?;
        let outcome = self
            .transport
            .exchange(request, terms.timeout, terms.max_answer)
            .await;
        self.judge(server, outcome)
    }

    async fn prepared<R, A>(
        &self,
        server: &ServerName,
        request: R,
        terms: Terms,
        signed: bool,
    ) -> Result<Answer, FederationError>
    where
        A: AuthScheme,
        R: OutgoingRequest<Authentication = A, PathBuilder = SinglePath>,
    {
        self.check(server, terms)?;
        let authority = self.discovery.delegate(server).await;
        let internal = |e: &dyn std::fmt::Display| FederationError::Internal(e.to_string());
        let (mut parts, body) = request
            .try_into_http_request_inner(&format!("https://{authority}"), ())
            .map_err(|e| internal(&e))?
            .into_parts();
        if let Some(kind) = body.content_type() {
            parts.headers.entry(header::CONTENT_TYPE).or_insert(kind);
        }
        let body: Vec<u8> = body.try_into_buf().map_err(|e| internal(&e.into()))?;
        parts.headers.insert(
            header::USER_AGENT,
            header::HeaderValue::from_static(USER_AGENT),
        );
        if signed {
            let uri = parts.uri.path_and_query().map_or("/", |uri| uri.as_str());
            let signed = SignedParts {
                method: parts.method.as_str(),
                uri,
                origin: &self.origin,
                destination: server,
                body: &body,
            };
            let header = XMatrix::sign(signed, &self.key).map_err(|e| internal(&e))?;
            let header = header::HeaderValue::try_from(header).map_err(|e| internal(&e))?;
            parts.headers.insert(header::AUTHORIZATION, header);
        }
        let request = Request::from_parts(parts, Full::new(Bytes::from(body)));
        let outcome = self
            .transport
            .exchange(request, terms.timeout, terms.max_answer)
            .await;
        self.judge(server, outcome)
    }

    fn check(&self, server: &ServerName, terms: Terms) -> Result<(), FederationError> {
        if server == self.origin {
            return Err(FederationError::Internal(
                "a request of this server to itself".to_owned(),
            ));
        }
        if !self.admission.allows(server) {
            return Err(FederationError::NotAdmitted(server.to_owned()));
        }
        match self.backoff.wait_ms(server).filter(|_| terms.heed_backoff) {
            Some(wait_ms) => Err(FederationError::BackedOff {
                server: server.to_owned(),
                wait_ms,
            }),
            None => Ok(()),
        }
    }

    /// Counts the outcome for the back-off and turns error answers into errors.
    fn judge(
        &self,
        server: &ServerName,
        outcome: Result<Answer, HttpError>,
    ) -> Result<Answer, FederationError> {
        let answer = match outcome {
            Ok(answer) => answer,
            Err(source) => {
                // An answer that is too large is no sign of a dead server.
                if !matches!(source, HttpError::TooLarge(_)) {
                    self.backoff.failure(server);
                    self.discovery.forget(server);
                }
                return Err(FederationError::Unreachable {
                    server: server.to_owned(),
                    source,
                });
            }
        };
        if is_absent(answer.status) {
            self.backoff.failure(server);
        } else {
            self.backoff.success(server);
        }
        if answer.status.is_success() {
            Ok(answer)
        } else {
            let error = RemoteError::read(server.to_owned(), answer.status, &answer.body);
            Err(FederationError::Remote(error))
        }
    }
}

/// Answers of a reverse proxy whose server is gone, and of a server that wants to be left alone. A
/// plain 500 is not among them: it is an answer of the server itself, to this request only.
fn is_absent(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504 | 520..=530)
}

fn typed<R: OutgoingRequest>(
    server: &ServerName,
    answer: &Answer,
) -> Result<R::IncomingResponse, FederationError> {
    let mut response = http::Response::new(&answer.body[..]);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers.clone();
    R::IncomingResponse::try_from_http_response_inner(response)
        .map_err(|e| FederationError::bad_answer(server, e))
}
