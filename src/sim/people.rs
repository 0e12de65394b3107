//! People: what they ask their server, over its HTTP router.

use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http::{Method, Request, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{machine::Machine, network};

/// How long a person waits for an answer.
const PATIENCE: Duration = Duration::from_secs(180);

/// Somebody at a device that is signed in.
#[derive(Clone)]
pub struct Person {
    /// Their user id.
    pub id: String,
    /// Which machine their account is on.
    pub machine: usize,
    router: Router,
    life: CancellationToken,
    token: String,
}

impl Person {
    /// A person of a machine that is on.
    #[must_use]
    pub fn at(machine: &Machine, index: usize, name: &str) -> Option<Self> {
        let server = machine.server.as_ref()?;
        Some(Self {
            id: format!("@{name}:{}", machine.name),
            machine: index,
            router: server.router.clone(),
            life: server.life.clone(),
            token: machine.tokens.get(name)?.clone(),
        })
    }

    /// Asks the server, and waits for the answer: none when the power fails meanwhile, or it takes too
    /// long. `path` comes after `/_matrix/client/v3/`.
    pub async fn ask(&self, method: Method, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/_matrix/client/v3/{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Bytes::from(body.to_string()))
            .ok()?;
        let answer = network::call(self.router.clone(), request);
        tokio::select! {
            biased;
            () = self.life.cancelled() => None,
            () = tokio::time::sleep(PATIENCE) => None,
            answer = answer => {
                let answer = answer?;
                let body = serde_json::from_slice(&answer.body).unwrap_or_default();
                Some((answer.status.as_u16(), body))
            }
        }
    }
}

/// A segment of a path.
#[must_use]
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
