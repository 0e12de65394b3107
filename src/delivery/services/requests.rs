//! Requests to application services. Their addresses are the operator's, so they may be anywhere,
//! without TLS too.

use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use resuni_accounts::AppService;
use serde_json::{Value, json};

use crate::tables::Pending;

/// How long a service may take for a transaction, and for a question that a person waits for.
const TRANSACTION: Duration = Duration::from_secs(60);
const QUESTION: Duration = Duration::from_secs(10);
/// How much of an answer is read, in bytes.
const ANSWER_BYTES: usize = 1024 * 1024;
/// How much of an answer that is an error is told on.
const TOLD_BYTES: usize = 4 * 1024;

const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Why a service did not take something.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// It has no address.
    #[error("the application service has no url")]
    NoUrl,
    /// It can't be reached.
    #[error("the application service can't be reached: {0}")]
    Connection(String),
    /// It did not answer in time.
    #[error("the application service did not answer in time")]
    Timeout,
    /// It answered with something else than success.
    #[error("the application service answered {status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// The answer, cut where it is long.
        body: String,
    },
}

/// How long a ping took.
pub type Ping = Duration;
/// Why there is no answer to one.
pub type PingError = ServiceError;

/// Sends requests to application services.
pub struct ServiceClient {
    http: reqwest::Client,
}

impl ServiceClient {
    /// A client.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn new() -> Result<Self, reqwest::Error> {
        // Whoever came first has chosen the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self { http })
    }

    async fn send(
        &self,
        service: &AppService,
        method: Method,
        path: &str,
        body: Option<String>,
        timeout: Duration,
    ) -> Result<Vec<u8>, ServiceError> {
        let registration = service.registration();
        let url = registration.url.as_deref().ok_or(ServiceError::NoUrl)?;
        let url = format!("{}{path}", url.trim_end_matches('/'));
        let mut request = self
            .http
            .request(method, url)
            .bearer_auth(&registration.hs_token)
            .timeout(timeout);
        if let Some(body) = body {
            let json = (reqwest::header::CONTENT_TYPE, "application/json");
            request = request.header(json.0, json.1).body(body);
        }
        let mut response = request.send().await.map_err(|error| failed(&error))?;
        let status = response.status();
        let mut answer = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| failed(&error))? {
            if answer.len() + part.len() > ANSWER_BYTES {
                return Err(ServiceError::Connection("the answer is too long".into()));
            }
            answer.extend_from_slice(&part);
        }
        if !status.is_success() {
            answer.truncate(TOLD_BYTES);
            let body = String::from_utf8_lossy(&answer).into_owned();
            return Err(ServiceError::Status { status, body });
        }
        Ok(answer)
    }

    /// Sends a transaction.
    pub(super) async fn transaction(
        &self,
        service: &AppService,
        pending: &Pending,
    ) -> Result<(), ServiceError> {
        let path = format!("/_matrix/app/v1/transactions/{}", pending.id);
        let body = Some(pending.body.clone());
        self.send(service, Method::PUT, &path, body, TRANSACTION)
            .await
            .map(drop)
    }

    /// Asks whether the service is there.
    ///
    /// # Errors
    /// When it is not, or does not know us.
    pub async fn ping(
        &self,
        service: &AppService,
        transaction: Option<&str>,
    ) -> Result<Ping, PingError> {
        let body = match transaction {
            Some(id) => json!({ "transaction_id": id }),
            None => json!({}),
        };
        let began = Instant::now();
        let path = "/_matrix/app/v1/ping";
        self.send(
            service,
            Method::POST,
            path,
            Some(body.to_string()),
            QUESTION,
        )
        .await?;
        Ok(began.elapsed())
    }

    /// Whether a service has, or has just made, a user of this id.
    pub async fn has_user(&self, service: &AppService, user: &str) -> bool {
        self.has(service, "users", user).await
    }

    /// Whether a service has, or has just made, a room of this alias.
    pub async fn has_alias(&self, service: &AppService, alias: &str) -> bool {
        self.has(service, "rooms", alias).await
    }

    async fn has(&self, service: &AppService, kind: &str, name: &str) -> bool {
        let name = utf8_percent_encode(name, SEGMENT);
        let path = format!("/_matrix/app/v1/{kind}/{name}");
        let answer = self.send(service, Method::GET, &path, None, QUESTION).await;
        answer.is_ok()
    }

    /// What a service says about a third-party network; nothing if it has nothing to say.
    pub async fn third_party(
        &self,
        service: &AppService,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Option<Value> {
        let mut text = "/_matrix/app/v1/thirdparty".to_owned();
        for part in path {
            text.push('/');
            text.extend(utf8_percent_encode(part, SEGMENT));
        }
        for (n, (key, value)) in query.iter().enumerate() {
            text.push(if n == 0 { '?' } else { '&' });
            text.extend(utf8_percent_encode(key, SEGMENT));
            text.push('=');
            text.extend(utf8_percent_encode(value, SEGMENT));
        }
        let answer = self.send(service, Method::GET, &text, None, QUESTION).await;
        serde_json::from_slice(&answer.ok()?).ok()
    }
}

fn failed(error: &reqwest::Error) -> ServiceError {
    if error.is_timeout() {
        return ServiceError::Timeout;
    }
    // The address holds no secret, but it is not for whoever reads the answer either.
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        reason = inner.to_string();
        source = inner.source();
    }
    ServiceError::Connection(reason)
}
