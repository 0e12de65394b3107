//! A thin client of the client-server API: what the scenarios need, with nothing cached and
//! nothing tried again.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use hmac::{KeyInit, Mac};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::resuni::SECRET;

/// A call that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(90);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody answered, or not to the end: what was asked for may have happened or not.
    #[error("{0}")]
    Connection(#[from] reqwest::Error),
    /// The server said no.
    #[error("{path}: {status}: {body}")]
    Answer {
        /// What was asked for.
        path: String,
        /// The answer's status.
        status: StatusCode,
        /// The answer's body, or null if it is not JSON.
        body: Value,
    },
}

/// Somebody's client of one server, or nobody's before they are registered.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<str>,
    token: Arc<str>,
    user: Arc<str>,
}

impl Client {
    /// A client of the server at `base` (`http://127.0.0.1:port`).
    pub fn new(base: &str) -> anyhow::Result<Self> {
        // Only the first in a process can be installed; all are the same.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .build()?;
        Ok(Self {
            http,
            base: base.into(),
            token: "".into(),
            user: "".into(),
        })
    }

    /// The full user id; empty for nobody.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// One call. Anything but a 2xx is an error.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CallError> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let bytes = response.bytes().await?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_success() && !body.is_null() {
            return Ok(body);
        }
        Err(CallError::Answer {
            path: path.to_owned(),
            status,
            body,
        })
    }

    /// A GET of which the answer's body is not looked at: for loads, where the client must be cheap.
    pub async fn fetch(&self, path: &str) -> Result<Vec<u8>, CallError> {
        let mut request = self.http.get(format!("{}{path}", self.base));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        let response = request.send().await?;
        let status = response.status();
        let bytes = response.bytes().await?;
        if status.is_success() {
            return Ok(bytes.into());
        }
        Err(CallError::Answer {
            path: path.to_owned(),
            status,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        })
    }

    /// A GET.
    pub async fn get(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::GET, path, None).await
    }

    /// A POST.
    pub async fn post(&self, path: &str, body: Value) -> Result<Value, CallError> {
        self.call(Method::POST, path, Some(&body)).await
    }

    /// A PUT.
    pub async fn put(&self, path: &str, body: Value) -> Result<Value, CallError> {
        self.call(Method::PUT, path, Some(&body)).await
    }

    /// Registers `name` through Synapse's shared-secret endpoint, which every server here offers.
    pub async fn register(&self, name: &str) -> anyhow::Result<Client> {
        let path = "/_synapse/admin/v1/register";
        let nonce = self.get(path).await?;
        let nonce = nonce["nonce"].as_str().context("no nonce")?;
        let password = password(name);
        let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(SECRET.as_bytes())?;
        mac.update(format!("{nonce}\0{name}\0{password}\0notadmin").as_bytes());
        let mac: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let body = json!({
            "nonce": nonce, "username": name, "password": password, "admin": false, "mac": mac,
        });
        let answer = self.post(path, body).await?;
        self.signed_in(&answer)
    }

    /// Signs `name` in on a new device.
    pub async fn login(&self, name: &str) -> anyhow::Result<Client> {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": name },
            "password": password(name),
        });
        let answer = self.post("/_matrix/client/v3/login", body).await?;
        self.signed_in(&answer)
    }

    fn signed_in(&self, answer: &Value) -> anyhow::Result<Client> {
        Ok(Client {
            token: answer["access_token"].as_str().context("no token")?.into(),
            user: answer["user_id"].as_str().context("no user")?.into(),
            ..self.clone()
        })
    }

    /// Creates a room as the body says and gives its id.
    pub async fn create_room(&self, body: Value) -> anyhow::Result<String> {
        let answer = self.post("/_matrix/client/v3/createRoom", body).await?;
        Ok(answer["room_id"].as_str().context("no room id")?.to_owned())
    }

    /// Joins a room, by way of the servers in `via` if this one doesn't know it.
    pub async fn join(&self, room: &str, via: &[&str]) -> Result<(), CallError> {
        let mut path = format!("/_matrix/client/v3/join/{}", escape(room));
        for (n, server) in via.iter().enumerate() {
            let server = escape(server);
            path.push_str(if n == 0 { "?" } else { "&" });
            path.push_str(&format!("via={server}&server_name={server}"));
        }
        self.post(&path, json!({})).await.map(drop)
    }

    /// `leave`, `invite`, `kick`, `ban`, `unban`: the body names who, where it isn't oneself.
    pub async fn membership(
        &self,
        room: &str,
        what: &str,
        user: Option<&str>,
    ) -> Result<(), CallError> {
        let path = format!("/_matrix/client/v3/rooms/{}/{what}", escape(room));
        let body = user.map_or_else(|| json!({}), |user| json!({ "user_id": user }));
        self.post(&path, body).await.map(drop)
    }

    /// Sends a text message and gives its event id; `txn` must be new for this device.
    pub async fn send(&self, room: &str, txn: &str, text: &str) -> Result<String, CallError> {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/send/m.room.message/{txn}",
            escape(room)
        );
        let body = json!({ "msgtype": "m.text", "body": text });
        Ok(event_id(&self.put(&path, body).await?))
    }

    /// Sets a piece of the room's state and gives the event's id.
    pub async fn set_state(
        &self,
        room: &str,
        kind: &str,
        key: &str,
        content: Value,
    ) -> Result<String, CallError> {
        Ok(event_id(
            &self.put(&state_path(room, kind, key), content).await?,
        ))
    }

    /// The content of a piece of the room's state.
    pub async fn state(&self, room: &str, kind: &str, key: &str) -> Result<Value, CallError> {
        self.get(&state_path(room, kind, key)).await
    }

    /// All of the room's state.
    pub async fn full_state(&self, room: &str) -> Result<Vec<Value>, CallError> {
        let path = format!("/_matrix/client/v3/rooms/{}/state", escape(room));
        Ok(list(&self.get(&path).await?))
    }

    /// One event.
    pub async fn event(&self, room: &str, event: &str) -> Result<Value, CallError> {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/event/{}",
            escape(room),
            escape(event)
        );
        self.get(&path).await
    }

    /// One page of a room's history: `from` and `to` may be empty.
    pub async fn messages(
        &self,
        room: &str,
        backwards: bool,
        from: &str,
        to: &str,
    ) -> Result<Value, CallError> {
        let direction = if backwards { "b" } else { "f" };
        let mut path = format!(
            "/_matrix/client/v3/rooms/{}/messages?dir={direction}&limit=200",
            escape(room)
        );
        for (name, value) in [("from", from), ("to", to)] {
            if !value.is_empty() {
                path.push_str(&format!("&{name}={}", escape(value)));
            }
        }
        self.get(&path).await
    }

    /// All of a room's history that can be seen, oldest first.
    pub async fn history(&self, room: &str) -> Result<Vec<Value>, CallError> {
        let mut events = Vec::new();
        let mut from = String::new();
        loop {
            let page = self.messages(room, true, &from, "").await?;
            events.extend(list(&page["chunk"]));
            match page["end"].as_str() {
                Some(end) if end != from => end.clone_into(&mut from),
                _ => break,
            }
        }
        events.reverse();
        Ok(events)
    }

    /// One `/sync`; `since` and `filter` may be empty.
    pub async fn sync(
        &self,
        since: &str,
        timeout: Duration,
        filter: &str,
    ) -> Result<Value, CallError> {
        self.get(&sync_path(since, timeout, filter)).await
    }
}

/// The path and query of a `/sync`; `since` and `filter` may be empty.
pub fn sync_path(since: &str, timeout: Duration, filter: &str) -> String {
    let mut path = format!("/_matrix/client/v3/sync?timeout={}", timeout.as_millis());
    for (name, value) in [("since", since), ("filter", filter)] {
        if !value.is_empty() {
            path.push_str(&format!("&{name}={}", escape(value)));
        }
    }
    path
}

/// The password of everybody who is registered here.
pub fn password(name: &str) -> String {
    format!("password-of-{name}")
}

fn state_path(room: &str, kind: &str, key: &str) -> String {
    format!(
        "/_matrix/client/v3/rooms/{}/state/{}/{}",
        escape(room),
        escape(kind),
        escape(key)
    )
}

fn event_id(answer: &Value) -> String {
    answer["event_id"].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// Percent-encodes what must not stand raw in a path or a query.
pub fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                (byte as char).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
