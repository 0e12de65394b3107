//! Faults that others had: doors that nobody built, secrets in logs, secrets that are nearly right, limits that are none.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::Method;
use parking_lot::Mutex;
use resuni_config::RateLimits;
use resuni_store::Clock;
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use super::{Got, Server};
use crate::{
    AppState,
    limits::{Limits, Rates},
    router,
};

impl Server {
    async fn login(&self, body: Value) -> Got {
        let path = "/_matrix/client/v3/login";
        self.ask(Method::POST, path, None, body).await
    }
}

#[tokio::test]
async fn s072_s073_s084_s085_s086_what_is_not_built_is_no_way_in() {
    let server = Server::start().await;
    server.user("alice").await;
    let flows = server
        .ask(Method::GET, "/_matrix/client/v3/login", None, Value::Null)
        .await
        .ok();
    for flow in flows["flows"].as_array().unwrap() {
        let kind = flow["type"].as_str().unwrap();
        let built = [
            "m.login.password",
            "m.login.token",
            "m.login.application_service",
        ];
        assert!(built.contains(&kind), "{kind}");
    }
    let who = json!({ "type": "m.id.user", "user": "alice" });
    for kind in [
        "m.login.sso",
        "m.login.cas",
        "m.login.oauth2",
        "m.login.ldap",
        "org.matrix.login.jwt",
        "org.matrix.login.ldap",
        "com.devture.shared_secret_auth",
        "",
    ] {
        for secret in ["correct horse", "", "*", "*)(uid=*", "alice"] {
            let body = json!({ "type": kind, "identifier": who, "user": "alice", "password": secret,
                "token": secret, "response": secret });
            let got = server.login(body).await;
            assert!(
                got.status.is_client_error(),
                "{kind} {secret}: {}",
                got.body
            );
        }
    }
    // No name is taken for a pattern, and no password is one that fits all.
    for (name, password) in [
        ("*", "correct horse"),
        ("ali*", "correct horse"),
        ("alice", "*"),
        ("alice", ""),
    ] {
        let body = json!({ "type": "m.login.password", "password": password,
            "identifier": { "type": "m.id.user", "user": name } });
        server.login(body).await.fails(403, "M_FORBIDDEN");
    }
    for path in [
        "/_matrix/client/v3/login/sso/redirect?redirectUrl=https://evil.example",
        "/_matrix/client/v1/auth_metadata",
        "/_matrix/client/v1/auth_issuer",
        "/.well-known/openid-configuration",
    ] {
        let got = server.ask(Method::GET, path, None, Value::Null).await;
        got.fails(404, "M_UNRECOGNIZED");
    }
}

#[tokio::test]
async fn s088_a_secret_that_is_nearly_right_is_wrong() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let whoami = "/_matrix/client/v3/account/whoami";
    for token in [alice.as_str(), "as-secret"] {
        server.get(whoami, token).await.ok();
        let mut near = Vec::new();
        for end in 0..token.len() {
            near.push(token[..end].to_owned());
        }
        near.push(format!("{token}x"));
        near.push(format!("{token}%00"));
        near.push(token.to_uppercase());
        for near in near.into_iter().filter(|near| !near.is_empty()) {
            server
                .get(whoami, &near)
                .await
                .fails(401, "M_UNKNOWN_TOKEN");
        }
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

#[tokio::test]
async fn s089_no_secret_gets_into_the_log_or_an_answer() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    // Where there is one only, what other tests say first is not asked of it.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _logging = tracing::subscriber::set_default(subscriber);
    let server = Server::start().await;
    let (root, alice) = (server.operator().await, server.user("alice").await);
    let whoami = "/_matrix/client/v3/account/whoami";
    let mut answers = Vec::new();
    let mut ask = async |method: Method, path: &str, token: Option<&str>, body: Value| {
        let got = server.ask(method, path, token, body).await;
        answers.push(got.body.to_string());
    };
    ask(Method::GET, whoami, Some("hush-header"), Value::Null).await;
    let query = format!("{whoami}?access_token=hush-query");
    ask(Method::GET, &query, None, Value::Null).await;
    let masked = format!("{whoami}?access_token=as-secret&user_id=@alice:example.org");
    ask(Method::GET, &masked, None, Value::Null).await;
    let of_alice = format!("{whoami}?access_token={alice}");
    ask(Method::GET, &of_alice, None, Value::Null).await;
    ask(
        Method::PUT,
        "/_matrix/client/v3/profile/@alice:example.org/displayname",
        Some(&alice),
        json!([]),
    )
    .await;
    let login = json!({ "type": "m.login.password", "password": "hush-password",
        "identifier": { "type": "m.id.user", "user": "alice" } });
    ask(Method::POST, "/_matrix/client/v3/login", None, login).await;
    let token = json!({ "type": "m.login.token", "token": "hush-login" });
    ask(Method::POST, "/_matrix/client/v3/login", None, token).await;
    let refresh = json!({ "refresh_token": "hush-refresh" });
    ask(Method::POST, "/_matrix/client/v3/refresh", None, refresh).await;
    let auth = json!({ "type": "m.login.registration_token", "token": "hush-registration" });
    let register = json!({ "username": "carol", "password": "hush-new", "auth": auth });
    ask(Method::POST, "/_matrix/client/v3/register", None, register).await;
    let validity =
        "/_matrix/client/v1/register/m.login.registration_token/validity?token=hush-validity";
    ask(Method::GET, validity, None, Value::Null).await;
    let one = "/_synapse/admin/v1/registration_tokens/hush-path";
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        ask(method, one, Some(&root), json!({ "uses_allowed": 1 })).await;
    }
    let reset = "/_synapse/admin/v1/reset_password/@alice:example.org";
    ask(
        Method::POST,
        reset,
        Some(&root),
        json!({ "new_password": "hush-reset", "logout_devices": false }),
    )
    .await;
    let secret =
        json!({ "nonce": "hush-nonce", "username": "x", "password": "hush-shared", "mac": "00" });
    ask(Method::POST, "/_synapse/admin/v1/register", None, secret).await;
    let mail = json!({ "client_secret": "hush-client", "email": "a@b.example", "send_attempt": 1 });
    ask(
        Method::POST,
        "/_matrix/client/v3/account/password/email/requestToken",
        None,
        mail,
    )
    .await;
    let _ = ask;

    let logged = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(
        logged.contains("whoami"),
        "the log is looked at: {}",
        logged.len()
    );
    assert!(logged.contains("an operator acts") && logged.contains("@root:example.org"));
    let secrets = [
        "hush-",
        "as-secret",
        "hs-secret",
        alice.as_str(),
        root.as_str(),
    ];
    for secret in secrets {
        let lines: Vec<&str> = logged
            .lines()
            .filter(|line| line.contains(secret))
            .collect();
        assert!(lines.is_empty(), "{secret} is in the log: {lines:?}");
        let told: Vec<_> = answers
            .iter()
            .filter(|answer| answer.contains(secret))
            .collect();
        assert!(told.is_empty(), "{secret} is in an answer: {told:?}");
    }
}

/// A clock that is moved by hand.
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A server with the limits that one has who changes no settings.
async fn limited() -> (Server, Arc<Hand>) {
    let server = Server::start().await;
    let clock = Arc::new(Hand(AtomicU64::new(1_000_000_000)));
    let rates = Rates::of(&RateLimits::default());
    let state = AppState {
        limits: Arc::new(Limits::new(rates, clock.clone())),
        ..server.state.clone()
    };
    let limited = Server {
        folder: Arc::clone(&server.folder),
        router: router(state.clone()),
        state,
    };
    (limited, clock)
}

#[tokio::test]
async fn a_script_is_told_when_to_come_back_unless_an_operator_lets_it() {
    let (server, clock) = limited().await;
    let (root, alice) = (server.operator().await, server.user("alice").await);
    let room = server.room(&alice).await;
    let sent = Mutex::new(0_u32);
    let send = || {
        let txn = {
            let mut sent = sent.lock();
            *sent += 1;
            *sent
        };
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{txn}");
        let (server, alice) = (&server, &alice);
        async move { server.put(&path, alice, json!({ "body": "x" })).await }
    };
    let burst = RateLimits::default().send.burst;
    for _ in 0..burst {
        send().await.ok();
    }
    let refused = send().await;
    refused.fails(429, "M_LIMIT_EXCEEDED");
    let wait = refused.body["retry_after_ms"].as_u64().unwrap();
    assert!(wait > 0);
    let seconds: u64 = refused.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(seconds >= 1 && seconds * 1000 >= wait);
    clock.0.fetch_add(wait, Relaxed);
    send().await.ok();
    send().await.fails(429, "M_LIMIT_EXCEEDED");
    let path = "/_synapse/admin/v1/users/@alice:example.org/override_ratelimit";
    server.post(path, &root, json!({})).await.ok();
    for _ in 0..burst {
        send().await.ok();
    }
    let slow = json!({ "messages_per_second": 1, "burst_count": 2 });
    server.post(path, &root, slow).await.ok();
    clock.0.fetch_add(3_600_000, Relaxed);
    send().await.ok();
    send().await.ok();
    send().await.fails(429, "M_LIMIT_EXCEEDED");
    let gone = server.ask(Method::DELETE, path, Some(&root), Value::Null);
    gone.await.ok();
    send().await.ok();
}
