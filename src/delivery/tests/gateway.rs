//! Pushers against a push gateway on loopback, over TLS.

use std::{net::SocketAddr, sync::Arc};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use resuni_accounts::StoredPusher;

use super::{Home, mention, text};
use crate::Ways;

/// A gateway that hands on what it is told, and answers what it is told to.
struct Gateway {
    address: SocketAddr,
    told: mpsc::UnboundedReceiver<Value>,
    answers: mpsc::UnboundedSender<(u16, &'static str)>,
    authority: tempfile::NamedTempFile,
}

impl Gateway {
    async fn start() -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let authority = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(authority.path(), cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(cert.der().to_vec())], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        let (answers, mut next) = mpsc::unbounded_channel::<(u16, &'static str)>();
        tokio::spawn(async move {
            // One request for each connection, one after the other.
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let Some((status, body)) = next.recv().await else {
                    return;
                };
                let told = request(&mut stream).await;
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                let _ = tell.send(told);
            }
        });
        Self {
            address,
            told,
            answers,
            authority,
        }
    }

    fn home(&self) -> impl Future<Output = Home> + use<> {
        let authorities = [self.authority.path().to_owned()];
        let client = resuni_federation::web_client(Vec::new(), &authorities).unwrap();
        Home::with(Ways {
            gateways: Some(Arc::new(client)),
            mail: None,
        })
    }

    fn pusher(&self, format: Option<&str>) -> Value {
        json!({
            "kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "App",
            "device_display_name": "Phone", "lang": "en",
            "data": {
                "url": format!("https://{}/_matrix/push/v1/notify", self.address),
                "format": format, "custom": 1,
            },
        })
    }

    /// The next notification, which gets this answer.
    async fn next(&mut self, status: u16, body: &'static str) -> Value {
        self.answers.send((status, body)).unwrap();
        self.told.recv().await.unwrap()["notification"].clone()
    }
}

/// The JSON body of a request.
async fn request(stream: &mut (impl AsyncReadExt + Unpin)) -> Value {
    let mut bytes = Vec::new();
    loop {
        let mut part = [0; 4096];
        let n = stream.read(&mut part).await.unwrap();
        bytes.extend_from_slice(&part[..n]);
        let all = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = all.split_once("\r\n\r\n") {
            assert!(head.starts_with("POST /_matrix/push/v1/notify "), "{head}");
            if let Ok(json) = serde_json::from_str(body) {
                return json;
            }
        }
        assert_ne!(n, 0, "the request ended early: {all}");
    }
}

/// A client names the gateway: it must be no way into the operator's own network.
#[tokio::test]
async fn s099_a_gateway_at_a_denied_address_is_not_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "https://{}/_matrix/push/v1/notify",
        listener.local_addr().unwrap()
    );
    let pusher = json!({
        "kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "App",
        "device_display_name": "Phone", "lang": "en", "data": { "url": url },
    });
    let pusher = StoredPusher {
        pusher: serde_json::from_value(pusher).unwrap(),
        device: None,
        set_ms: 0,
    };
    for (denied, refused) in [
        (vec!["127.0.0.0/8".parse().unwrap()], true),
        (vec![], false),
    ] {
        let client = resuni_federation::web_client(denied, &[]).unwrap();
        let nothing = json!({});
        let post = crate::gateway::post(&client, &pusher, &nothing);
        // Whatever listens there speaks no TLS: nothing is taken in either case.
        let connected = async { drop(listener.accept().await.unwrap()) };
        let (outcome, connected) = tokio::select! {
            outcome = post => (Some(outcome), false),
            () = connected => (None, true),
        };
        assert_eq!(connected, !refused);
        if let Some(outcome) = outcome {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("outbound.deny_ip_ranges"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_gateway_is_told_until_it_rejects_the_key() {
    let mut gateway = Gateway::start().await;
    let home = gateway.home().await;
    let bob = home.member("bob").await;
    home.member("carol").await; // More than two, where nothing plain makes a sound.
    let pusher = serde_json::from_value(gateway.pusher(None)).unwrap();
    let set = home.accounts.set_pusher(bob.1, None, &pusher, false);
    set.await.unwrap();
    tokio::spawn(home.push.clone().run());

    let first = home.say(&home.alice, mention("hey", &[&bob.0])).await;
    // A gateway that fails is asked again.
    let told = gateway.next(500, "{}").await;
    assert_eq!(told["event_id"], json!(first));
    let told = gateway.next(200, r#"{"rejected":[]}"#).await;
    assert_eq!(told["event_id"], json!(first));
    assert_eq!(told["room_id"], json!(home.room));
    assert_eq!(told["content"]["body"], "hey");
    assert_eq!(told["counts"], json!({ "unread": 1 }));
    assert_eq!(told["prio"], "high");
    let device = &told["devices"][0];
    assert_eq!(device["data"], json!({ "custom": 1 }));
    let tweaks = json!({ "highlight": true, "sound": "default" });
    assert_eq!(device["tweaks"], tweaks);

    // Reading tells the new count alone.
    home.read(&bob.0, &first, None).await;
    let told = gateway.next(200, "{}").await;
    assert_eq!(told["counts"], json!({}));
    assert!(told.get("event_id").is_none());

    let second = home.say(&home.alice, text("plain")).await;
    let told = gateway.next(200, r#"{"rejected":["other","key"]}"#).await;
    assert_eq!(told["event_id"], json!(second));
    assert_eq!(told["prio"], "low");
    let mut log = home.rooms.store().log().watch();
    while !home.accounts.pushers(bob.1).await.unwrap().is_empty() {
        log.changed().await.unwrap();
    }
}

#[tokio::test]
async fn what_waited_at_the_end_is_sent_after_the_start_and_no_more_than_asked_for() {
    let mut gateway = Gateway::start().await;
    let home = gateway.home().await;
    let bob = home.member("bob").await;
    let pusher = serde_json::from_value(gateway.pusher(Some("event_id_only"))).unwrap();
    let set = home.accounts.set_pusher(bob.1, None, &pusher, false);
    set.await.unwrap();
    home.push.catch_up().await.unwrap();
    let read = home.say(&home.alice, text("read meanwhile")).await;
    let unread = home.say(&home.alice, text("secret")).await;
    home.push.catch_up().await.unwrap();
    home.read(&bob.0, &read, None).await;
    // Only now anybody looks at what has to be sent.
    tokio::spawn(home.push.clone().run());
    let told = gateway.next(200, "{}").await;
    assert_eq!(told["event_id"], json!(unread));
    let mut fields: Vec<_> = told.as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(fields, ["counts", "devices", "event_id", "prio", "room_id"]);
}
