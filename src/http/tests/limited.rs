//! Who has to wait, and who never does.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{body::Body, extract::ConnectInfo};
use http::{Method, Request};
use resuni_accounts::limits::Rate;
use resuni_store::SystemClock;
use serde_json::{Value, json};

use super::{BRIDGE, Got, Server};
use crate::{
    limits::{Limits, Rates},
    router,
};

/// So many of each kind at once, and the next in an hour.
const BURST: u32 = 3;

impl Server {
    fn limited(mut self) -> Self {
        let rate = Rate {
            burst: BURST,
            interval: Duration::from_secs(3_600),
        };
        let rates = Rates {
            other: rate,
            send: rate,
            register: rate,
            login: rate,
            join: rate,
            invite: rate,
            keys: rate,
            federation: rate,
        };
        self.state.limits = Arc::new(Limits::new(Some(rates), Arc::new(SystemClock)));
        self.router = router(self.state.clone());
        self
    }

    async fn logs_in(&self, peer: &str, forwarded: Option<&str>) -> Got {
        let body = json!({
            "type": "m.login.password", "password": "wrong",
            "identifier": { "type": "m.id.user", "user": "alice" },
        });
        let mut request = Request::post("/_matrix/client/v3/login");
        if let Some(forwarded) = forwarded {
            request = request.header("x-forwarded-for", forwarded);
        }
        let mut request = request.body(Body::from(body.to_string())).unwrap();
        let peer: SocketAddr = peer.parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        self.send(request).await
    }
}

/// Whether a request is let through so often and no oftener.
async fn has_a_limit(ask: impl AsyncFn() -> Got) -> bool {
    for _ in 0..BURST {
        if ask().await.status.as_u16() == 429 {
            return false;
        }
    }
    let refused = ask().await;
    refused.status.as_u16() == 429
        && refused.body["errcode"] == "M_LIMIT_EXCEEDED"
        && refused.headers.contains_key("retry-after")
}

#[tokio::test]
async fn whoever_is_in_a_hurry_with_keys_has_to_wait() {
    for (method, path) in [
        (Method::POST, "keys/upload"),
        (Method::POST, "keys/query"),
        (Method::POST, "keys/claim"),
        (Method::POST, "keys/signatures/upload"),
        (Method::PUT, "sendToDevice/m.test/txn"),
    ] {
        let server = Server::start().await;
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let server = server.limited();
        let path = format!("/_matrix/client/v3/{path}");
        let body = json!({ "messages": {}, "device_keys": {}, "one_time_keys": {} });
        let ask = async |token: &str| {
            let request = server.ask(method.clone(), &path, Some(token), body.clone());
            request.await
        };
        assert!(has_a_limit(async || ask(&alice).await).await, "{path}");
        // Nobody pays for somebody else.
        assert_ne!(ask(&bob).await.status.as_u16(), 429, "{path}");
    }
}

/// `rate_limited` of a registration: bridges carry many people. It goes for whom they act as, too.
#[tokio::test]
async fn an_application_service_waits_only_if_its_registration_says_so() {
    for (said, limited) in [
        ("", true),
        ("\"rate_limited\": true,", true),
        ("\"rate_limited\": false,", false),
    ] {
        let bridge = BRIDGE.replacen('{', &format!("{{{said}"), 1);
        let server = Server::start_beside(&bridge, |_| ()).await;
        let register = json!({ "type": "m.login.application_service", "username": "irc_one" });
        let path = "/_matrix/client/v3/register";
        server.post(path, "as-secret", register).await.ok();
        let server = server.limited();
        let path = "/_matrix/client/v3/createRoom?user_id=@irc_one:example.org";
        let ask = async || server.post(path, "as-secret", json!({})).await;
        assert_eq!(has_a_limit(ask).await, limited, "{said}");
        // "The sender is excluded."
        let path = "/_matrix/client/v3/createRoom";
        let ask = async || server.post(path, "as-secret", json!({})).await;
        assert!(!has_a_limit(ask).await, "{said}");
        assert!(ask().await.ok()["room_id"].is_string());
    }
}

/// An address that a stranger writes into a header gives nobody another try; one that our own proxy writes does.
#[tokio::test]
async fn only_a_trusted_proxy_says_who_is_in_a_hurry() {
    let server = Server::start_with(|settings| {
        settings.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    })
    .await;
    server.user("alice").await;
    let server = server.limited();
    let tries = async |peer: &str, forwarded: &[&str]| {
        let mut answers = Vec::new();
        for address in forwarded {
            let got = server.logs_in(peer, Some(address)).await;
            answers.push(got.status.as_u16());
        }
        answers
    };
    let made_up = [
        "198.51.100.1",
        "198.51.100.2",
        "198.51.100.3",
        "198.51.100.4",
    ];
    assert_eq!(tries("192.0.2.1:999", &made_up).await, [403, 403, 403, 429]);
    // Another port is the same stranger.
    assert_eq!(tries("192.0.2.1:1000", &made_up[..1]).await, [429]);
    // Of the addresses that were written before the proxy's own nobody is believed.
    let behind = ["203.0.113.1, 198.51.100.9"; 4];
    assert_eq!(tries("10.0.0.1:999", &behind).await, [403, 403, 403, 429]);
    let others = ["203.0.113.7, 198.51.100.8"];
    assert_eq!(tries("10.0.0.1:999", &others).await, [403]);
    assert_eq!(
        server.logs_in("10.0.0.1:999", None).await.body["errcode"],
        Value::from("M_FORBIDDEN")
    );
}
