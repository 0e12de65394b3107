#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use hickory_resolver::{
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    proto::{
        op::{Message, MessageType, OpCode, ResponseCode},
        rr::{Name, RData, Record, RecordType, rdata::SRV},
    },
};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use resuni_store::SystemClock;
use ruma::{OwnedServerName, ServerName, owned_server_name};
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::net::{Dialer, Guard, tls};

#[path = "../tests/it/authority.rs"]
mod authority;

const WEB_NAMES: &[&str] = &[
    "port.test",
    "ip4.test",
    "ip6.test",
    "plain.test",
    "srv.test",
    "broken.test",
    "missing.test",
    "redirect.test",
    "loop.test",
    "huge.test",
    "nameless.test",
];

/// What each web server says: status, header, body.
fn page(host: &str) -> (u16, Option<&'static str>, String) {
    let delegation = |to: &str| (200, None, format!("{{\"m.server\":\"{to}\"}}"));
    match host {
        "port.test" => delegation("delegated.test:1234"),
        "ip4.test" => delegation("10.9.9.9"),
        "ip6.test" => delegation("[2001:db8::1]:77"),
        "plain.test" => delegation("delegated.test"),
        "srv.test" => delegation("delegated-srv.test"),
        "broken.test" => (200, None, "<html>".to_owned()),
        "nameless.test" => delegation("not a name"),
        "redirect.test" => (
            302,
            Some("https://port.test/.well-known/matrix/server"),
            String::new(),
        ),
        "loop.test" => (307, Some("/.well-known/matrix/server"), String::new()),
        "huge.test" => (
            200,
            None,
            format!("{{\"m.server\":\"delegated.test\"{}}}", " ".repeat(60_000)),
        ),
        _ => (404, None, String::new()),
    }
}

async fn web_server(authority: &authority::Authority, asked: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = authority.acceptor(WEB_NAMES);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, asked) = (acceptor.clone(), Arc::clone(&asked));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |request: Request<Incoming>| {
                    asked.fetch_add(1, Ordering::SeqCst);
                    let host = request.uri().host().map(str::to_owned).unwrap_or_else(|| {
                        request.headers()[header::HOST].to_str().unwrap().to_owned()
                    });
                    let (status, location, body) = page(&host);
                    let mut response = Response::new(Full::new(Bytes::from(body)));
                    *response.status_mut() = StatusCode::from_u16(status).unwrap();
                    if let Some(to) = location {
                        response
                            .headers_mut()
                            .insert(header::LOCATION, to.parse().unwrap());
                    }
                    async move { Ok::<_, std::convert::Infallible>(response) }
                });
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    port
}

/// The zone: addresses and services.
fn record(name: &str, kind: RecordType) -> Option<RData> {
    let name = name.trim_end_matches('.');
    let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
    let service =
        |target: &str, port| RData::SRV(SRV::new(10, 5, port, Name::from_ascii(target).unwrap()));
    match (name, kind) {
        ("explicit.test", RecordType::A) => Some(address("10.0.0.2")),
        ("six.test", RecordType::AAAA) => Some(address("2001:db8::6")),
        ("bare.test", RecordType::A) => Some(address("10.0.0.1")),
        ("delegated.test", RecordType::A) => Some(address("10.0.0.3")),
        ("target.test", RecordType::A) => Some(address("10.0.0.4")),
        ("service.test" | "old.test", RecordType::A) => Some(address("10.0.0.5")),
        ("_matrix-fed._tcp.service.test", RecordType::SRV) => Some(service("target.test.", 1000)),
        ("_matrix._tcp.service.test", RecordType::SRV) => Some(service("explicit.test.", 1)),
        ("_matrix._tcp.old.test", RecordType::SRV) => Some(service("target.test.", 2000)),
        ("_matrix-fed._tcp.delegated-srv.test", RecordType::SRV) => {
            Some(service("target.test.", 3000))
        }
        (name, RecordType::A) if WEB_NAMES.contains(&name) => Some(address("127.0.0.1")),
        _ => None,
    }
}

async fn name_server() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..n]).unwrap();
            let query = question.queries[0].clone();
            let mut answer =
                Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
            answer.metadata.recursion_available = true;
            match record(&query.name().to_ascii().to_lowercase(), query.query_type()) {
                Some(data) => {
                    answer.add_answer(Record::from_rdata(query.name().clone(), 300, data));
                }
                None => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            answer.add_query(query);
            socket
                .send_to(&answer.to_vec().unwrap(), from)
                .await
                .unwrap();
        }
    });
    port
}

struct World {
    discovery: Arc<Discovery>,
    asked: Arc<AtomicUsize>,
    _authority: authority::Authority,
}

async fn world(overrides: BTreeMap<OwnedServerName, SocketAddr>) -> World {
    let authority = authority::Authority::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let web_port = web_server(&authority, Arc::clone(&asked)).await;
    let mut connection = ConnectionConfig::udp();
    connection.port = name_server().await;
    let servers = vec![NameServerConfig::new(
        IpAddr::from([127, 0, 0, 1]),
        true,
        vec![connection],
    )];
    let dns = Dns::with_config(ResolverConfig::from_name_servers(servers)).unwrap();
    let trust = tls::client_config(&[authority.file.path().to_owned()]).unwrap();
    // What is not the web server on loopback is refused at once instead of being dialled.
    let guard = Guard::new(vec![
        "10.0.0.0/8".parse().unwrap(),
        "2001:db8::/32".parse().unwrap(),
    ]);
    let web = WebClient::with_port(Dialer::new(guard, trust), dns.clone(), web_port);
    let discovery = Discovery::new(overrides, dns, web, Arc::new(SystemClock));
    World {
        discovery,
        asked,
        _authority: authority,
    }
}

/// The authority of requests (the `Host` header), the name the certificate must be for, and the first
/// address; or an error.
async fn resolve(discovery: &Discovery, name: &str) -> Result<(String, String, String), String> {
    let name = <&ServerName>::try_from(name).unwrap();
    let authority = discovery.delegate(name).await;
    let uri = format!("https://{authority}/x").parse().unwrap();
    let (host, addresses) = discovery.locate(&uri).await.map_err(|e| e.to_string())?;
    Ok((authority.to_string(), host, addresses[0].to_string()))
}

#[tokio::test]
async fn every_step_of_the_specification() {
    let world = world(BTreeMap::new()).await;
    for (name, authority, host, address) in [
        // 1: IP literals.
        ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.1:8448"),
        ("192.0.2.1:99", "192.0.2.1:99", "192.0.2.1", "192.0.2.1:99"),
        (
            "[2001:db8::2]",
            "[2001:db8::2]",
            "2001:db8::2",
            "[2001:db8::2]:8448",
        ),
        (
            "[2001:db8::2]:99",
            "[2001:db8::2]:99",
            "2001:db8::2",
            "[2001:db8::2]:99",
        ),
        // 2: an explicit port, no .well-known.
        (
            "explicit.test:99",
            "explicit.test:99",
            "explicit.test",
            "10.0.0.2:99",
        ),
        ("port.test:99", "port.test:99", "port.test", "127.0.0.1:99"),
        // 3.1–3.5: .well-known.
        ("ip4.test", "10.9.9.9", "10.9.9.9", "10.9.9.9:8448"),
        (
            "ip6.test",
            "[2001:db8::1]:77",
            "2001:db8::1",
            "[2001:db8::1]:77",
        ),
        (
            "port.test",
            "delegated.test:1234",
            "delegated.test",
            "10.0.0.3:1234",
        ),
        (
            "redirect.test",
            "delegated.test:1234",
            "delegated.test",
            "10.0.0.3:1234",
        ),
        (
            "srv.test",
            "delegated-srv.test",
            "delegated-srv.test",
            "10.0.0.4:3000",
        ),
        (
            "plain.test",
            "delegated.test",
            "delegated.test",
            "10.0.0.3:8448",
        ),
        // An invalid answer means none.
        (
            "broken.test",
            "broken.test",
            "broken.test",
            "127.0.0.1:8448",
        ),
        (
            "nameless.test",
            "nameless.test",
            "nameless.test",
            "127.0.0.1:8448",
        ),
        (
            "missing.test",
            "missing.test",
            "missing.test",
            "127.0.0.1:8448",
        ),
        ("loop.test", "loop.test", "loop.test", "127.0.0.1:8448"),
        ("huge.test", "huge.test", "huge.test", "127.0.0.1:8448"),
        // 4: _matrix-fed before 5: _matrix; Host and certificate stay the name's.
        (
            "service.test",
            "service.test",
            "service.test",
            "10.0.0.4:1000",
        ),
        ("old.test", "old.test", "old.test", "10.0.0.4:2000"),
        // 6: the name itself.
        ("bare.test", "bare.test", "bare.test", "10.0.0.1:8448"),
        ("six.test", "six.test", "six.test", "[2001:db8::6]:8448"),
    ] {
        let found = resolve(&world.discovery, name).await;
        let expected = (authority.to_owned(), host.to_owned(), address.to_owned());
        assert_eq!(found, Ok(expected), "{name}");
    }
    assert!(resolve(&world.discovery, "nowhere.test").await.is_err());
}

#[tokio::test]
async fn answers_and_failures_are_kept() {
    let world = world(BTreeMap::new()).await;
    for name in ["plain.test", "missing.test"] {
        let before = world.asked.load(Ordering::SeqCst);
        for _ in 0..3 {
            resolve(&world.discovery, name).await.unwrap();
        }
        assert_eq!(world.asked.load(Ordering::SeqCst) - before, 1, "{name}");
    }
}

#[tokio::test]
async fn the_map_comes_before_everything() {
    let address: SocketAddr = "127.0.0.1:14321".parse().unwrap();
    let names = [owned_server_name!("plain.test"), owned_server_name!("hs2")];
    let world = world(names.into_iter().map(|name| (name, address)).collect()).await;
    for name in ["plain.test", "hs2"] {
        let found = resolve(&world.discovery, name).await.unwrap();
        assert_eq!(
            found,
            (name.to_owned(), name.to_owned(), address.to_string())
        );
    }
    assert_eq!(world.asked.load(Ordering::SeqCst), 0);
    // Another port is another name, which is not in the map.
    assert!(resolve(&world.discovery, "hs2:8448").await.is_err());
}

#[test]
fn cache_headers_are_respected_within_bounds() {
    for (value, ms) in [
        (None, WELL_KNOWN_DEFAULT_MS),
        (Some("max-age=3600"), 3_600_000),
        (Some("public, Max-Age=\"7200\""), 7_200_000),
        (Some("no-cache"), WELL_KNOWN_MIN_MS),
        (Some("max-age=1"), WELL_KNOWN_MIN_MS),
        (Some("max-age=99999999"), WELL_KNOWN_MAX_MS),
        (Some("max-age=nonsense"), WELL_KNOWN_DEFAULT_MS),
    ] {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::CACHE_CONTROL, value.parse().unwrap());
        }
        assert_eq!(life_ms(&headers), ms, "{value:?}");
    }
}
