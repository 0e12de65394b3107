//! What other servers see.

use axum::body::Body;
use http::{Method, Request, header};
use serde_json::{Value, json};

use super::{Server, edges::filled};
use crate::{AppState, router, table};

#[tokio::test]
async fn every_endpoint_for_servers_refuses_who_did_not_sign() {
    let server = Server::start().await;
    let token = server.user("alice").await;
    let table = table();
    let needing: Vec<_> = table
        .listed()
        .iter()
        .filter(|e| e.needs_signature)
        .collect();
    assert!(
        needing.len() > 15,
        "the sweep sees only {} endpoints",
        needing.len()
    );
    let bearer = format!("Bearer {token}");
    let unsigned = "X-Matrix origin=\"other.example\",key=\"ed25519:1\",sig=\"AAAA\"";
    let misled = "X-Matrix origin=\"other.example\",destination=\"third.example\",key=\"ed25519:1\",sig=\"AAAA\"";
    let own = "X-Matrix origin=\"example.org\",destination=\"example.org\",key=\"ed25519:1\",sig=\"AAAA\"";
    for endpoint in needing {
        let path = filled(&endpoint.path);
        for authorization in [
            None,
            Some(""),
            Some(bearer.as_str()),
            Some(unsigned),
            Some(misled),
            Some(own),
        ] {
            let mut request = Request::builder()
                .method(endpoint.method.clone())
                .uri(&path);
            if let Some(value) = authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            let got = server.send(request.body(Body::from("{}")).unwrap()).await;
            let what = format!("{} {path} {authorization:?}: {}", endpoint.method, got.body);
            assert_eq!(
                (got.status.as_u16(), got.errcode()),
                (401, "M_UNAUTHORIZED"),
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn keys_and_version_are_for_everybody() {
    let server = Server::start().await;
    let get = |path| server.ask(Method::GET, path, None, Value::Null);
    let keys = get("/_matrix/key/v2/server").await.ok();
    assert_eq!(keys["server_name"], "example.org");
    assert!(keys["verify_keys"]["ed25519:1"]["key"].is_string());
    assert!(keys["signatures"]["example.org"]["ed25519:1"].is_string());
    let version = get("/_matrix/federation/v1/version").await.ok();
    assert_eq!(version["server"]["name"], "Resuni");
    let query = json!({ "server_keys": { "example.org": {} } });
    let query = server
        .ask(Method::POST, "/_matrix/key/v2/query", None, query)
        .await
        .ok();
    assert_eq!(query["server_keys"][0]["server_name"], "example.org");
    server
        .ask(Method::PUT, "/_matrix/key/v2/query", None, json!({}))
        .await
        .fails(405, "M_UNRECOGNIZED");
    get("/_matrix/key/v2/unknown")
        .await
        .fails(404, "M_UNRECOGNIZED");
}

#[tokio::test]
async fn an_openid_token_proves_who_somebody_is_and_opens_nothing() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let path = "/_matrix/client/v3/user/@alice:example.org/openid/request_token";
    let got = server.post(path, &alice, json!({})).await.ok();
    let token = got["access_token"].as_str().unwrap();
    let ask = |token: &str| {
        let path = format!("/_matrix/federation/v1/openid/userinfo?access_token={token}");
        let server = &server;
        async move { server.ask(Method::GET, &path, None, Value::Null).await }
    };
    assert_eq!(ask(token).await.ok()["sub"], "@alice:example.org");
    ask("nonsense").await.fails(401, "M_UNKNOWN_TOKEN");
    ask(&alice).await.fails(401, "M_UNKNOWN_TOKEN");
    server
        .get("/_matrix/client/v3/account/whoami", token)
        .await
        .fails(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn where_federation_is_off_its_endpoints_do_not_exist() {
    let server = Server::start().await;
    let state = AppState {
        federation: None,
        ..server.state.clone()
    };
    let server = Server {
        folder: server.folder,
        router: router(state.clone()),
        state,
    };
    for path in ["/_matrix/key/v2/server", "/_matrix/federation/v1/version"] {
        server
            .ask(Method::GET, path, None, Value::Null)
            .await
            .fails(404, "M_UNRECOGNIZED");
    }
    let request = Request::put("/_matrix/federation/v1/send/1")
        .header(
            header::AUTHORIZATION,
            "X-Matrix origin=\"a\",key=\"ed25519:1\",sig=\"AAAA\"",
        )
        .body(Body::from("{}"))
        .unwrap();
    server.send(request).await.fails(404, "M_UNRECOGNIZED");
    let alice = server.user("alice").await;
    let far = "/_matrix/client/v3/join/!room:other.example?server_name=other.example";
    server
        .post(far, &alice, json!({}))
        .await
        .fails(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_server_that_can_not_be_reached_is_named() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let profile = server
        .get("/_matrix/client/v3/profile/@bob:127.0.0.1:9", &alice)
        .await;
    profile.fails(502, "M_UNKNOWN");
    assert!(
        profile.body["error"]
            .as_str()
            .unwrap()
            .contains("127.0.0.1:9")
    );
    let alias = server
        .get(
            "/_matrix/client/v3/directory/room/%23tea:127.0.0.1:9",
            &alice,
        )
        .await;
    alias.fails(404, "M_NOT_FOUND");
    let room = server
        .post(
            "/_matrix/client/v3/createRoom",
            &alice,
            json!({ "invite": ["@bob:127.0.0.1:9"] }),
        )
        .await;
    room.ok();
}
