//! Two devices that meet here, in both forms.

use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::Server;

const TEXT: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";
const JSON: &str = "/_matrix/client/unstable/io.element.msc4388/rendezvous";

/// A request as a device makes it, with the headers it has beside the body.
async fn ask(
    server: &Server,
    (method, path): (Method, &str),
    headers: &[(&str, &str)],
    body: &'static str,
) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if !body.is_empty() {
        request = request.header("content-length", body.len());
    }
    let request = request.body(Body::from(body)).unwrap();
    let response = server.router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.into()).unwrap();
    (parts.status, parts.headers, body)
}

const PLAIN: (&str, &str) = ("content-type", "text/plain; charset=utf-8");

/// A new session: its path and its ETag.
async fn create(server: &Server) -> (String, String) {
    let (status, headers, body) = ask(server, (Method::POST, TEXT), &[PLAIN], "one").await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    for name in [header::EXPIRES, header::LAST_MODIFIED] {
        assert!(httpdate::parse_http_date(headers[name].to_str().unwrap()).is_ok());
    }
    assert_eq!(headers[header::CACHE_CONTROL], "no-store");
    assert_eq!(headers[header::PRAGMA], "no-cache");
    assert_eq!(headers[header::ACCESS_CONTROL_EXPOSE_HEADERS], "ETag");
    let body: Value = serde_json::from_str(&body).unwrap();
    let url = body["url"].as_str().unwrap();
    let path = url.strip_prefix("https://example.org").unwrap().to_owned();
    (path, headers[header::ETAG].to_str().unwrap().to_owned())
}

#[tokio::test]
async fn two_devices_take_turns() {
    let server = Server::start().await;
    let (path, etag) = create(&server).await;
    let (status, headers, body) = ask(&server, (Method::GET, &path), &[], "").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "one"));
    assert_eq!(headers[header::CONTENT_TYPE], "text/plain");
    let seen = [("if-none-match", etag.as_str())];
    let (status, _, body) = ask(&server, (Method::GET, &path), &seen, "").await;
    assert_eq!((status, body.as_str()), (StatusCode::NOT_MODIFIED, ""));

    let mine = [PLAIN, ("if-match", etag.as_str())];
    let (status, headers, _) = ask(&server, (Method::PUT, &path), &mine, "two").await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_ne!(headers[header::ETAG], etag.as_str());
    // The other has not seen it.
    let (status, now, body) = ask(&server, (Method::PUT, &path), &mine, "three").await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(now[header::ETAG], headers[header::ETAG]);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["errcode"], "M_UNKNOWN");
    assert_eq!(body["org.matrix.msc4108.errcode"], "M_CONCURRENT_WRITE");
    let (_, _, body) = ask(&server, (Method::GET, &path), &seen, "").await;
    assert_eq!(body, "two");

    let (status, ..) = ask(&server, (Method::DELETE, &path), &[], "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    for method in [Method::GET, Method::DELETE] {
        let (status, ..) = ask(&server, (method, &path), &[], "").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn what_is_no_such_text_is_refused() {
    let server = Server::start().await;
    let (path, _) = create(&server).await;
    let fails = |got: (StatusCode, HeaderMap, String), status: u16, code: &str| {
        let body: Value = serde_json::from_str(&got.2).unwrap();
        assert_eq!(
            (got.0.as_u16(), body["errcode"].as_str()),
            (status, Some(code))
        );
    };
    let post = (Method::POST, TEXT);
    fails(
        ask(&server, post.clone(), &[], "a").await,
        400,
        "M_MISSING_PARAM",
    );
    fails(
        ask(&server, post.clone(), &[PLAIN], "").await,
        400,
        "M_MISSING_PARAM",
    );
    let html = [("content-type", "text/html")];
    fails(
        ask(&server, post.clone(), &html, "a").await,
        400,
        "M_INVALID_PARAM",
    );
    let long: &'static str = Box::leak("x".repeat(4097).into_boxed_str());
    fails(ask(&server, post, &[PLAIN], long).await, 413, "M_TOO_LARGE");
    let put = (Method::PUT, path.as_str());
    fails(
        ask(&server, put.clone(), &[PLAIN], "a").await,
        400,
        "M_MISSING_PARAM",
    );
    for tag in ["*", "W/\"a\"", "\"a\", \"b\"", "a"] {
        let headers = [PLAIN, ("if-match", tag)];
        fails(
            ask(&server, put.clone(), &headers, "a").await,
            400,
            "M_INVALID_PARAM",
        );
    }
    // A browser that was led here shows nothing of it.
    let page = [("sec-fetch-mode", "navigate")];
    fails(
        ask(&server, (Method::GET, &path), &page, "").await,
        403,
        "M_FORBIDDEN",
    );
}

#[tokio::test]
async fn browsers_may_send_and_read_the_revision() {
    let server = Server::start().await;
    let (path, _) = create(&server).await;
    let (status, headers, _) = ask(&server, (Method::OPTIONS, &path), &[], "").await;
    assert_eq!(status, StatusCode::OK);
    let allowed = headers[header::ACCESS_CONTROL_ALLOW_HEADERS]
        .to_str()
        .unwrap();
    assert!(allowed.contains("If-Match") && allowed.contains("If-None-Match"));
    assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
}

#[tokio::test]
async fn the_same_in_json() {
    let server = Server::start().await;
    let call = |method: Method, path: String, body: Value| {
        let server = &server;
        async move { server.ask(method, &path, None, body).await }
    };
    let found = call(Method::GET, JSON.to_owned(), Value::Null).await.ok();
    assert_eq!(found, json!({ "create_available": true }));
    let made = call(Method::POST, JSON.to_owned(), json!({ "data": "one" }))
        .await
        .ok();
    assert!(
        made["expires_in_ms"]
            .as_u64()
            .is_some_and(|ms| ms <= 300_000)
    );
    let path = format!("{JSON}/{}", made["id"].as_str().unwrap());
    let got = call(Method::GET, path.clone(), Value::Null).await.ok();
    assert_eq!(got["data"], "one");
    assert_eq!(got["sequence_token"], made["sequence_token"]);

    let put = |token: &Value, data: &str| {
        let body = json!({ "sequence_token": token, "data": data });
        call(Method::PUT, path.clone(), body)
    };
    let second = put(&made["sequence_token"], "two").await.ok();
    // Its answer was lost: the same again changes nothing, something else is refused.
    assert_eq!(put(&made["sequence_token"], "two").await.ok(), second);
    put(&made["sequence_token"], "three")
        .await
        .fails(409, "IO_ELEMENT_MSC4388_CONCURRENT_WRITE");
    let long = "x".repeat(4097);
    put(&second["sequence_token"], &long)
        .await
        .fails(413, "M_TOO_LARGE");
    call(Method::POST, JSON.to_owned(), json!({}))
        .await
        .fails(400, "M_MISSING_PARAM");
    call(Method::DELETE, path.clone(), Value::Null).await.ok();
    put(&second["sequence_token"], "four")
        .await
        .fails(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn where_it_is_switched_off_there_is_nothing() {
    let mut server = Server::start().await;
    let flags = |server: &Server| {
        let router = server.router.clone();
        async move {
            let request = Request::get("/_matrix/client/versions");
            let request = request.body(Body::empty()).unwrap();
            let body = router.oneshot(request).await.unwrap().into_body();
            let body = body.collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap();
            body["unstable_features"]["org.matrix.msc4108"].clone()
        }
    };
    assert_eq!(flags(&server).await, true);
    server.state.rendezvous = None;
    server.router = crate::router(server.state.clone());
    assert_eq!(flags(&server).await, Value::Null);
    server
        .ask(Method::GET, JSON, None, Value::Null)
        .await
        .fails(404, "M_UNRECOGNIZED");
    let (status, ..) = ask(&server, (Method::POST, TEXT), &[PLAIN], "one").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
