//! A thin client of the client-server API: just what the loads need, with nothing cached.

use std::sync::Arc;

use anyhow::{Context, bail};
use hmac::{KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};

/// A user of one server (or nobody, before registration).
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    base: Arc<str>,
    token: Arc<str>,
    /// The full user ID, empty before registration.
    pub user_id: Arc<str>,
}

impl Api {
    /// An anonymous client of the server at `base` (`http://127.0.0.1:port`).
    pub fn new(base: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(64)
            .timeout(std::time::Duration::from_secs(180))
            .build()?;
        Ok(Self {
            http,
            base: base.into(),
            token: "".into(),
            user_id: "".into(),
        })
    }

    /// One call; anything but a 2xx is an error that shows the answer.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Value> {
        let bytes = self.call_bytes(method, path, body).await?;
        serde_json::from_slice(&bytes).with_context(|| format!("the answer to {path} is not JSON"))
    }

    /// As [`Api::call`], without parsing the answer: for loads in which the client must be cheap.
    pub async fn call_bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<Vec<u8>> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status();
        let bytes = response.bytes().await?;
        if !status.is_success() {
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&bytes));
        }
        Ok(bytes.to_vec())
    }

    /// Registers `name` through Synapse's shared-secret endpoint, which every server here offers.
    pub async fn register(&self, secret: &str, name: &str) -> anyhow::Result<Api> {
        let path = "/_synapse/admin/v1/register";
        let nonce = self.call(Method::GET, path, None).await?;
        let nonce = nonce["nonce"].as_str().context("no nonce")?.to_owned();
        let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes())?;
        mac.update(format!("{nonce}\0{name}\0password-of-{name}\0notadmin").as_bytes());
        let mac: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let body = json!({
            "nonce": nonce, "username": name, "password": format!("password-of-{name}"),
            "admin": false, "mac": mac,
        });
        let answer = self.call(Method::POST, path, Some(body)).await?;
        Ok(Api {
            token: answer["access_token"].as_str().context("no token")?.into(),
            user_id: answer["user_id"].as_str().context("no user")?.into(),
            ..self.clone()
        })
    }

    /// Creates a public room and gives its ID.
    pub async fn create_room(&self, name: &str) -> anyhow::Result<String> {
        let body = json!({ "preset": "public_chat", "name": name });
        let answer = self
            .call(Method::POST, "/_matrix/client/v3/createRoom", Some(body))
            .await?;
        Ok(answer["room_id"].as_str().context("no room_id")?.to_owned())
    }

    /// Joins a room, by way of `via` if the server does not know it.
    pub async fn join(&self, room: &str, via: Option<&str>) -> anyhow::Result<()> {
        let via = via
            .map(|v| format!("?via={v}&server_name={v}"))
            .unwrap_or_default();
        let path = format!("/_matrix/client/v3/join/{}{via}", escape(room));
        self.call_bytes(Method::POST, &path, Some(json!({})))
            .await
            .map(drop)
    }

    /// Sends a short text message; `txn` must be new for this user.
    pub async fn send(&self, room: &str, txn: &str, body: &str) -> anyhow::Result<()> {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/send/m.room.message/{txn}",
            escape(room)
        );
        self.call_bytes(
            Method::PUT,
            &path,
            Some(json!({ "msgtype": "m.text", "body": body })),
        )
        .await
        .map(drop)
    }

    /// One `/sync`; `since` may be empty.
    pub async fn sync(&self, since: &str, timeout_ms: u64, filter: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, &sync_path(since, timeout_ms, filter), None)
            .await
    }
}

/// The path and query of a `/sync`.
pub fn sync_path(since: &str, timeout_ms: u64, filter: &str) -> String {
    let mut path = format!("/_matrix/client/v3/sync?timeout={timeout_ms}");
    if !since.is_empty() {
        path.push_str(&format!("&since={since}"));
    }
    if !filter.is_empty() {
        path.push_str(&format!("&filter={}", escape(filter)));
    }
    path
}

/// Percent-encodes what must not stand raw in a path segment.
pub fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                (b as char).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect()
}
