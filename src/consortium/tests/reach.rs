//! Members over TLS on loopback: one that answers, one that doesn't.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use resuni_consortium::{Consortium, Member, Reachability, Roster};
use resuni_dag::SigningKey;
use resuni_federation::{Network, NetworkConfig};
use resuni_store::{Store, SystemClock};
use ruma::owned_server_name;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A server for `name`, and the certificate that makes others trust it.
fn acceptor(name: &str) -> (TlsAcceptor, tempfile::NamedTempFile) {
    let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), certified.cert.pem()).unwrap();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.into())
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), file)
}

fn member(server: &str) -> Member {
    Member {
        name: format!("The operator of {server}"),
        server_name: server.try_into().unwrap(),
        url: None,
        country: Some("AT".to_owned()),
        language: Some("de".to_owned()),
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.uri().path(), "/_matrix/federation/v1/version");
    let body = r#"{"server":{"name":"Some\u0007thing","version":"1.2"}}"#;
    Ok(Response::new(Full::from(body)))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Ok(stream) = acceptor.accept(stream).await else {
            continue;
        };
        tokio::spawn(async move {
            let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        });
    }
}

async fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn members_are_asked_and_strangers_are_not() {
    let (acceptor, certificate) = acceptor("there.test");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, acceptor));
    let members = ["us.test", "there.test", "gone.test"].map(member);
    let roster = Roster::new(owned_server_name!("us.test"), members.to_vec()).unwrap();
    let config = NetworkConfig {
        server_name: owned_server_name!("us.test"),
        key: Arc::new(SigningKey::generate("k", rand::random()).unwrap()),
        old_keys: Vec::new(),
        notaries: Vec::new(),
        mode: roster.mode(),
        destinations: [
            (owned_server_name!("there.test"), there),
            (owned_server_name!("gone.test"), free_address().await),
        ]
        .into(),
        extra_ca_files: vec![certificate.path().to_owned()],
        deny_ip_ranges: Vec::new(),
    };
    let network = Network::open(config, Store::memory().await, Arc::new(SystemClock)).unwrap();
    let consortium = Consortium::new(roster.clone(), Some(network.client));
    let status = consortium.status().await;
    let of = |at: usize| &status.members[at].reachability;
    assert_eq!(of(0), &Reachability::Ourselves);
    let Reachability::Reachable { software, .. } = of(1) else {
        unreachable!("{:?}", of(1))
    };
    assert_eq!(software.as_deref(), Some("Something 1.2"));
    assert!(
        matches!(of(2), Reachability::Unreachable { .. }),
        "{:?}",
        of(2)
    );
    // The answers at hand are given again.
    assert!(Arc::ptr_eq(&status, &consortium.status().await));

    let alone = Consortium::new(roster, None).check().await;
    assert_eq!(alone.members[1].reachability, Reachability::NotAsked);
}
