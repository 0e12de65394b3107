//! Two servers over TLS on loopback, with a private authority.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming as Body, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use resuni_dag::SigningKey;
use resuni_federation::{
    Client, FederationError, Incoming, Mode, Needed, Network, NetworkConfig, Terms,
};
use resuni_store::{Store, SystemClock};
use ruma::{
    OwnedServerName, ServerName, api::federation::query::get_profile_information::v1 as profile,
    owned_server_name, owned_user_id, server_name,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::authority::Authority;

/// What a part knows of the world.
#[derive(Clone)]
struct World {
    destinations: BTreeMap<OwnedServerName, SocketAddr>,
    deny: Vec<ipnet::IpNet>,
    mode: Mode,
}

async fn network(name: &ServerName, authority: &Authority, world: World) -> Network {
    let config = NetworkConfig {
        server_name: name.to_owned(),
        key: Arc::new(SigningKey::generate("k1", rand::random()).unwrap()),
        old_keys: Vec::new(),
        notaries: Vec::new(),
        mode: world.mode,
        destinations: world.destinations,
        extra_ca_files: vec![authority.file.path().to_owned()],
        deny_ip_ranges: world.deny,
    };
    Network::open(config, Store::memory().await, Arc::new(SystemClock)).unwrap()
}

/// Serves the keys of `network`, and answers everything else with the name of the server that signed.
struct Server {
    network: Network,
    key_requests: AtomicUsize,
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, server: Arc<Server>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, server) = (acceptor.clone(), Arc::clone(&server));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(move |request| {
                let server = Arc::clone(&server);
                async move { Ok::<_, std::convert::Infallible>(answer(&server, request).await) }
            });
            let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(server: &Server, request: Request<Body>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let uri = parts.uri.path_and_query().unwrap().as_str().to_owned();
    if uri == "/_matrix/key/v2/server" {
        server.key_requests.fetch_add(1, Ordering::SeqCst);
        let keys = server.network.keys.published().unwrap();
        return Response::new(Full::from(keys.json().get().to_owned()));
    }
    let body = body.collect().await.unwrap().to_bytes();
    let headers: Vec<_> = parts
        .headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect();
    let incoming = Incoming {
        method: parts.method.as_str(),
        uri: &uri,
        authorization: &headers,
        body: &body,
    };
    match server.network.authenticator.origin(incoming).await {
        Ok((origin, _)) => Response::new(Full::from(format!("{{\"displayname\":\"{origin}\"}}"))),
        Err(error) => {
            let body = format!("{{\"errcode\":\"M_UNAUTHORIZED\",\"error\":\"{error}\"}}");
            let mut response = Response::new(Full::from(body));
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            response
        }
    }
}

/// Both servers know where the other is; each serves its keys and checks signatures.
async fn two(authority: &Authority, world: impl Fn(World) -> World) -> (Arc<Server>, Arc<Server>) {
    let names = [server_name!("a.test"), server_name!("b.test")];
    let mut listeners = Vec::new();
    let mut destinations = BTreeMap::new();
    for name in names {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        destinations.insert(name.to_owned(), listener.local_addr().unwrap());
        listeners.push(listener);
    }
    let world = world(World {
        destinations,
        deny: Vec::new(),
        mode: Mode::Open,
    });
    let mut servers = Vec::new();
    for (name, listener) in names.into_iter().zip(listeners) {
        let network = network(name, authority, world.clone()).await;
        let server = Arc::new(Server {
            network,
            key_requests: AtomicUsize::new(0),
        });
        tokio::spawn(serve(
            listener,
            authority.acceptor(&[name.as_str()]),
            Arc::clone(&server),
        ));
        servers.push(server);
    }
    let b = servers.pop().unwrap();
    (servers.pop().unwrap(), b)
}

async fn ask(client: &Client, server: &ServerName) -> Result<Option<String>, FederationError> {
    let request = profile::Request::new(owned_user_id!("@who:b.test"));
    let response = client.send(server, request, Terms::ASKED).await?;
    Ok(response
        .get("displayname")
        .and_then(|name| name.as_str())
        .map(str::to_owned))
}

#[tokio::test]
async fn a_signed_request_arrives_and_the_key_is_fetched_once() {
    let authority = Authority::new();
    let (a, b) = two(&authority, |world| world).await;
    let client = &a.network.client;
    let many = (0..8).map(|_| ask(client, server_name!("b.test")));
    for answer in futures_util::future::join_all(many).await {
        assert_eq!(answer.unwrap().as_deref(), Some("a.test"));
    }
    assert_eq!(
        a.key_requests.load(Ordering::SeqCst),
        1,
        "fetches are coalesced and kept"
    );
    assert_eq!(b.key_requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_request_signed_with_another_key_is_refused() {
    let authority = Authority::new();
    let (a, b) = two(&authority, |world| world).await;
    let destinations = [(
        owned_server_name!("b.test"),
        address_of(&a, server_name!("b.test")).await,
    )]
    .into();
    let world = World {
        destinations,
        deny: Vec::new(),
        mode: Mode::Open,
    };
    // Says it is a.test, but has another key under the same id.
    let impostor = network(server_name!("a.test"), &authority, world).await;
    let error = ask(&impostor.client, server_name!("b.test"))
        .await
        .unwrap_err();
    let FederationError::Remote(remote) = error else {
        panic!("{error}")
    };
    assert_eq!(remote.status, StatusCode::UNAUTHORIZED);
    assert!(remote.error.contains("does not verify"), "{}", remote.error);
    drop(b);
}

/// Where `from` finds `name`.
async fn address_of(from: &Server, name: &ServerName) -> SocketAddr {
    use resuni_federation::net::web::Locate as _;
    let uri = format!("https://{name}/").parse().unwrap();
    from.network.discovery.locate(&uri).await.unwrap().1[0]
}

#[tokio::test]
async fn a_request_meant_for_another_server_is_refused() {
    let authority = Authority::new();
    let (a, b) = two(&authority, |world| world).await;
    // a.test signs for b.test; what b.test got is then shown to a third server.
    let headers = [
        "X-Matrix origin=\"a.test\",destination=\"c.test\",key=\"ed25519:k1\",sig=\"AAAA\"",
        "X-Matrix origin=\"b.test\",destination=\"b.test\",key=\"ed25519:k1\",sig=\"AAAA\"",
        "Bearer secret",
    ];
    for header in headers {
        let incoming = Incoming {
            method: "GET",
            uri: "/_matrix/federation/v1/version",
            authorization: &[header],
            body: b"",
        };
        let refusal = b.network.authenticator.origin(incoming).await.unwrap_err();
        assert!(
            matches!(refusal, FederationError::Unauthorized(_)),
            "{header}: {refusal}"
        );
    }
    assert_eq!(
        a.key_requests.load(Ordering::SeqCst),
        0,
        "no key is fetched for these"
    );
}

#[tokio::test]
async fn denied_addresses_are_not_connected_to() {
    let authority = Authority::new();
    let (a, b) = two(&authority, |world| World {
        deny: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        ..world
    })
    .await;
    let port = address_of(&a, server_name!("b.test")).await.port();
    for name in [
        "b.test".to_owned(),
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("[::1]:{port}"),
    ] {
        let name = <&ServerName>::try_from(name.as_str()).unwrap();
        let error = ask(&a.network.client, name).await.unwrap_err();
        assert!(
            error.to_string().contains("may not reach"),
            "{name}: {error}"
        );
    }
    assert_eq!(b.key_requests.load(Ordering::SeqCst), 0);
    let page = format!("https://127.0.0.1:{port}/.well-known/matrix/server");
    let error = a
        .network
        .web
        .get(&page, Terms::ASKED.timeout, 1000)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("may not reach"), "{error}");
}

#[tokio::test]
async fn the_certificate_must_be_for_the_name() {
    let authority = Authority::new();
    let (a, b) = two(&authority, |world| world).await;
    let port = address_of(&a, server_name!("b.test")).await.port();
    let name = format!("localhost:{port}");
    let error = ask(&a.network.client, name.as_str().try_into().unwrap())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("TLS with localhost failed"),
        "{error}"
    );
    drop(b);
}

#[tokio::test]
async fn a_consortium_neither_sends_nor_answers_beyond_its_members() {
    let authority = Authority::new();
    let (a, b) = two(&authority, |world| world).await;
    b.network
        .admission
        .set(Mode::Consortium([owned_server_name!("other.test")].into()));
    let error = ask(&a.network.client, server_name!("b.test"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("federates with"), "{error}");
    assert_eq!(
        a.key_requests.load(Ordering::SeqCst),
        0,
        "refused before any key is fetched"
    );
    let error = ask(&b.network.client, server_name!("a.test"))
        .await
        .unwrap_err();
    assert!(matches!(error, FederationError::NotAdmitted(_)));
}

#[tokio::test]
async fn a_notary_countersigns_and_keeps_the_keys_of_the_absent() {
    let authority = Authority::new();
    let (a, b) = two(&authority, |world| world).await;
    let need = || Needed {
        server: owned_server_name!("b.test"),
        key_ids: Vec::new(),
        at_ms: 0,
    };
    for _ in 0..2 {
        let answer = a.network.keys.notarise(vec![need()]).await.unwrap();
        let text = answer[0].json().get();
        assert!(
            text.contains("\"a.test\":{\"ed25519:k1\"") && text.contains("\"b.test\":{"),
            "{text}"
        );
    }
    assert_eq!(b.key_requests.load(Ordering::SeqCst), 1);
    let unknown = Needed {
        server: owned_server_name!("gone.test:1"),
        ..need()
    };
    assert!(
        a.network
            .keys
            .notarise(vec![unknown])
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_server_that_is_gone_is_left_alone() {
    let authority = Authority::new();
    let gone: SocketAddr = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let destinations = [(owned_server_name!("b.test"), gone)].into();
    let world = World {
        destinations,
        deny: Vec::new(),
        mode: Mode::Open,
    };
    let network = network(server_name!("a.test"), &authority, world).await;
    let error = ask(&network.client, server_name!("b.test"))
        .await
        .unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    assert_eq!(network.backoff.paused(), 1);
    let request = profile::Request::new(owned_user_id!("@who:b.test"));
    let error = network
        .client
        .send(server_name!("b.test"), request, Terms::BACKGROUND)
        .await
        .unwrap_err();
    assert!(
        matches!(error, FederationError::BackedOff { .. }),
        "{error}"
    );
}

/// What links lead to is looked at by the same guard, by http too.
#[tokio::test]
async fn s096_pages_at_denied_addresses_are_not_looked_at() {
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let server = tokio::spawn({
        let asked = asked.clone();
        async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                asked.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let answer = "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 2\r\n\r\nhi";
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    let look = async |deny: &[&str], host: &str| {
        let deny = deny.iter().map(|net| net.parse().unwrap()).collect();
        let web = resuni_federation::web_client(deny, &[]).unwrap();
        let url = format!("http://{host}:{port}/").parse().unwrap();
        web.look(&url, http::HeaderMap::new()).await
    };
    let denied = ["127.0.0.0/8", "::1/128", "0.0.0.0/8", "::ffff:0:0/96"];
    for host in [
        "127.0.0.1",
        "2130706433",
        "localhost",
        "0.0.0.0",
        "[::ffff:127.0.0.1]",
    ] {
        let error = look(&denied, host).await.unwrap_err();
        assert!(
            error.to_string().contains("may not reach"),
            "{host}: {error}"
        );
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    // Where it may be reached, a redirect is an answer and not followed.
    let answer = look(&[], "127.0.0.1").await.unwrap();
    assert_eq!(answer.status(), 302);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!((&body[..], asked.load(Ordering::SeqCst)), (&b"hi"[..], 1));
    server.abort();
}
