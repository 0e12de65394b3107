//! What holds for every endpoint.

use axum::body::Body;
use http::{Method, Request, header};
use serde_json::{Value, json};

use super::Server;
use crate::{client, table};

/// A path with something of the right form in place of each variable.
pub(super) fn filled(pattern: &str) -> String {
    let fill = |segment: &str| match segment {
        "{user_id}" => "@alice:example.org".to_owned(),
        "{room_id}" | "{room_id_or_alias}" => "!room:example.org".to_owned(),
        "{room_alias}" => "%23alias:example.org".to_owned(),
        "{event_id}" => "$event".to_owned(),
        variable if variable.starts_with('{') => "x".to_owned(),
        fixed => fixed.to_owned(),
    };
    pattern.split('/').map(fill).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_endpoint_that_needs_a_token_refuses_to_go_without() {
    let server = Server::start().await;
    let needing: Vec<_> = table()
        .listed()
        .iter()
        .filter(|e| e.needs_token)
        .cloned()
        .collect();
    assert!(
        needing.len() > 40,
        "the sweep sees only {} endpoints",
        needing.len()
    );
    for endpoint in needing {
        let path = filled(&endpoint.path);
        let ask = |token: Option<&'static str>| {
            let (method, path) = (endpoint.method.clone(), path.clone());
            let server = &server;
            async move { server.ask(method, &path, token, json!({})).await }
        };
        let what = format!("{} {}", endpoint.method, endpoint.path);
        for (token, errcode) in [
            (None, "M_MISSING_TOKEN"),
            (Some(""), "M_MISSING_TOKEN"),
            (Some("unknown"), "M_UNKNOWN_TOKEN"),
        ] {
            let got = ask(token).await;
            assert_eq!(
                (got.status.as_u16(), got.errcode()),
                (401, errcode),
                "{what} {token:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_may_be_in_the_query_but_not_be_empty_there() {
    let server = Server::start().await;
    let token = server.user("alice").await;
    let whoami = "/_matrix/client/v3/account/whoami?access_token=";
    let ask = |path: String| async { server.ask(Method::GET, &{ path }, None, Value::Null).await };
    assert_eq!(
        ask(format!("{whoami}{token}")).await.ok()["user_id"],
        "@alice:example.org"
    );
    ask(whoami.to_owned()).await.fails(401, "M_MISSING_TOKEN");
}

#[tokio::test]
async fn another_kind_of_authorization_is_no_token() {
    let server = Server::start().await;
    for value in ["Basic YWxpY2U6", "Bearer", "X-Matrix origin=a,key=b,sig=c"] {
        let request = Request::get("/_matrix/client/v3/account/whoami")
            .header(header::AUTHORIZATION, value)
            .body(Body::empty())
            .unwrap();
        server.send(request).await.fails(401, "M_MISSING_TOKEN");
    }
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_unrecognized() {
    let server = Server::start().await;
    for path in [
        "/_matrix/unknown",
        "/_matrix/client/v3/unknown",
        "/_matrix/client/v3/room/x",
        "/",
    ] {
        server
            .ask(Method::GET, path, None, Value::Null)
            .await
            .fails(404, "M_UNRECOGNIZED");
    }
    let got = server
        .ask(Method::PUT, "/_matrix/client/v3/login", None, json!({}))
        .await;
    got.fails(405, "M_UNRECOGNIZED");
}

#[tokio::test]
async fn browsers_get_their_headers_with_every_answer() {
    let server = Server::start().await;
    let ask = |method, path: &'static str| server.ask(method, path, None, Value::Null);
    let preflight = ask(Method::OPTIONS, "/_matrix/client/v3/rooms/!a:b/send/m.x/1").await;
    assert_eq!(preflight.status.as_u16(), 200);
    let answers = [
        preflight,
        ask(Method::OPTIONS, "/_matrix/client/v3/unknown").await,
        ask(Method::GET, "/_matrix/client/versions").await,
        ask(Method::GET, "/_matrix/client/v3/unknown").await,
        ask(Method::PUT, "/_matrix/client/v3/login").await,
        ask(Method::GET, "/_matrix/client/v3/account/whoami").await,
        ask(Method::GET, "/.well-known/matrix/client").await,
    ];
    for got in answers {
        let header = |name| got.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(
            header("access-control-allow-origin"),
            Some("*"),
            "{}",
            got.status
        );
        assert!(
            header("access-control-allow-headers")
                .unwrap()
                .contains("Authorization")
        );
        assert!(
            header("access-control-allow-methods")
                .unwrap()
                .contains("DELETE")
        );
        assert_eq!(header("access-control-allow-credentials"), None);
    }
    let other = ask(Method::GET, "/_matrix/federation/v1/unknown").await;
    assert!(!other.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_body_is_told_what_is_wrong_with_it() {
    let server = Server::start().await;
    let send = |body: &'static [u8]| {
        let request = Request::post("/_matrix/client/v3/refresh")
            .body(Body::from(body))
            .unwrap();
        server.send(request)
    };
    send(b"{").await.fails(400, "M_NOT_JSON");
    send(b"nonsense").await.fails(400, "M_NOT_JSON");
    send(b"{\"refresh_token\":\"a\x81\"}")
        .await
        .fails(400, "M_NOT_JSON");
    send(b"{\"refresh_token\":1}")
        .await
        .fails(400, "M_BAD_JSON");
    send(b"[]").await.fails(400, "M_BAD_JSON");
    send(b"{}").await.fails(400, "M_MISSING_PARAM");
    send(b"").await.fails(400, "M_MISSING_PARAM");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_declared_or_not() {
    let server = Server::start().await;
    let path = "/_matrix/client/v3/login";
    let long = vec![b' '; 1024 * 1024 + 1];
    let declared = Request::post(path).header(header::CONTENT_LENGTH, long.len());
    server
        .send(declared.body(Body::from("{")).unwrap())
        .await
        .fails(413, "M_TOO_LARGE");
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(long)]);
    let streamed = Request::post(path).body(Body::from_stream(chunks)).unwrap();
    server.send(streamed).await.fails(413, "M_TOO_LARGE");
}

/// A compressed body stays as it is, so there is nothing that could blow it up.
#[tokio::test]
async fn s121_a_compressed_body_is_not_unpacked() {
    const PACKED: &[u8] =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\x2a\x4a\x4d\x2b\x4a\x2d\xce\x88\x2f\xc9\
      \xcf\x4e\xcd\x53\xb2\x52\xaa\x50\xaa\x05\x00\x9c\x22\x6a\x12\x15\x00\x00\x00";
    let server = Server::start().await;
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        let request = Request::post("/_matrix/client/v3/refresh")
            .header(header::CONTENT_ENCODING, encoding)
            .body(Body::from(PACKED))
            .unwrap();
        server.send(request).await.fails(400, "M_NOT_JSON");
    }
}

#[tokio::test]
async fn arguments_in_the_path_are_decoded_and_checked() {
    let server = Server::start().await;
    let token = server.user("alice").await;
    let decoded = "/_matrix/client/v3/profile/%40alice%3Aexample.org/displayname";
    server
        .put(decoded, &token, json!({ "displayname": "Alice" }))
        .await
        .ok();
    server.get(decoded, &token).await.ok();
    let wrong = server
        .get("/_matrix/client/v3/profile/nobody", &token)
        .await;
    wrong.fails(400, "M_INVALID_PARAM");
    let not_text = server.get("/_matrix/client/v3/profile/%ff", &token).await;
    not_text.fails(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    async fn broken() {
        panic!("on purpose");
    }
    let server = Server::start().await;
    let table =
        client::routes().raw(axum::Router::new().route("/broken", axum::routing::get(broken)));
    let router = crate::finish(table, server.state.clone());
    let server = Server { router, ..server };
    server
        .ask(Method::GET, "/broken", None, Value::Null)
        .await
        .fails(500, "M_UNKNOWN");
    server
        .ask(Method::GET, "/_matrix/client/versions", None, Value::Null)
        .await
        .ok();
}
