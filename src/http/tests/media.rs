//! Files, over the router.

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};

use super::{Got, Server};

const UPLOAD: &str = "/_matrix/media/v3/upload";

impl Server {
    pub(super) async fn upload(
        &self,
        query: &str,
        kind: &str,
        token: &str,
        file: &'static [u8],
    ) -> Got {
        let request = Request::post(format!("{UPLOAD}{query}"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", kind);
        self.send(request.body(Body::from(file)).unwrap()).await
    }
}

/// The part of an address after the server's name.
fn id(got: Got) -> String {
    let uri = got.ok()["content_uri"].as_str().unwrap().to_owned();
    uri.strip_prefix("mxc://example.org/").unwrap().to_owned()
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_and_runs_nowhere() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let picture = id(server
        .upload(
            "?filename=na%C3%AFve.json",
            "application/json",
            &alice,
            b"[1]",
        )
        .await);
    let download = format!("/_matrix/client/v1/media/download/example.org/{picture}");
    server
        .ask(Method::GET, &download, None, Value::Null)
        .await
        .fails(401, "M_MISSING_TOKEN");
    let got = server.get(&download, &alice).await;
    let header = |got: &Got, name: &str| got.headers[name].to_str().unwrap().to_owned();
    assert_eq!(header(&got, "content-type"), "application/json");
    assert_eq!(
        header(&got, "content-disposition"),
        "inline; filename*=utf-8''na%C3%AFve.json"
    );
    assert!(header(&got, "content-security-policy").starts_with("sandbox;"));
    assert_eq!(header(&got, "x-content-type-options"), "nosniff");
    assert_eq!(header(&got, "access-control-allow-origin"), "*");
    assert_eq!(got.ok(), json!([1]));
    let named = server.get(&format!("{download}/other.json"), &alice).await;
    assert_eq!(
        header(&named, "content-disposition"),
        "inline; filename=other.json"
    );
    let old = format!("/_matrix/media/v3/download/example.org/{picture}");
    assert_eq!(
        server.ask(Method::GET, &old, None, Value::Null).await.ok(),
        json!([1])
    );

    let page = id(server.upload("", "text/html", &alice, b"<script>").await);
    let page = server
        .get(
            &format!("/_matrix/client/v1/media/download/example.org/{page}"),
            &alice,
        )
        .await;
    assert_eq!(header(&page, "content-disposition"), "attachment");
}

#[tokio::test]
async fn files_that_are_refused_or_not_there() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let config = server
        .get("/_matrix/client/v1/media/config", &alice)
        .await
        .ok();
    assert_eq!(config["m.upload.size"], 1000);
    server
        .upload("", "text/plain", &alice, &[b'x'; 1001])
        .await
        .fails(413, "M_TOO_LARGE");
    server
        .upload("", "text/plain", "", b"x")
        .await
        .fails(401, "M_MISSING_TOKEN");
    server
        .ask(Method::PATCH, UPLOAD, None, Value::Null)
        .await
        .fails(405, "M_UNRECOGNIZED");
    for address in [
        "example.org/unknown",
        "example.org/..%2f..%2fkey",
        "example.org/%00",
    ] {
        let path = format!("/_matrix/client/v1/media/download/{address}");
        server.get(&path, &alice).await.fails(404, "M_NOT_FOUND");
    }
    let elsewhere = server
        .get("/_matrix/client/v1/media/download/127.0.0.1:9/abc", &alice)
        .await;
    elsewhere.fails(502, "M_UNKNOWN");
}

#[tokio::test]
async fn a_part_of_a_file() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let file = id(server.upload("", "text/plain", &alice, b"0123456789").await);
    let part = |range: &'static str| {
        let path = format!("/_matrix/client/v1/media/download/example.org/{file}");
        let request = Request::get(path)
            .header("authorization", format!("Bearer {alice}"))
            .header("range", range);
        server.send(request.body(Body::empty()).unwrap())
    };
    let got = part("bytes=2-4").await;
    assert_eq!((got.status.as_u16(), &got.body), (206, &json!(234)));
    assert_eq!(got.headers["content-range"], "bytes 2-4/10");
    let got = part("bytes=20-").await;
    assert_eq!(got.status.as_u16(), 416);
    assert_eq!(got.headers["content-range"], "bytes */10");
}

#[tokio::test]
async fn a_file_that_comes_later() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let address = id(server
        .ask(
            Method::POST,
            "/_matrix/media/v1/create",
            Some(&alice),
            Value::Null,
        )
        .await);
    let path = format!("/_matrix/client/v1/media/download/example.org/{address}");
    server
        .get(&format!("{path}?timeout_ms=1"), &bob)
        .await
        .fails(504, "M_NOT_YET_UPLOADED");
    let put = |id: &str, token: &str| {
        let request = Request::put(format!("{UPLOAD}/example.org/{id}"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json");
        server.send(request.body(Body::from("[2]")).unwrap())
    };
    put(&address, &bob).await.fails(403, "M_FORBIDDEN");
    put("unknown", &alice).await.fails(404, "M_NOT_FOUND");
    // Who waits gets it as it comes.
    let (got, _) = tokio::join!(server.get(&path, &bob), put(&address, &alice));
    assert_eq!(got.ok(), json!([2]));
    put(&address, &alice)
        .await
        .fails(409, "M_CANNOT_OVERWRITE_MEDIA");
}

#[tokio::test]
async fn a_thumbnail_is_made_of_pictures_only() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let text = id(server.upload("", "image/png", &alice, b"no picture").await);
    let path = |id: &str, size: &str| {
        format!("/_matrix/client/v1/media/thumbnail/example.org/{id}?{size}&method=crop")
    };
    let size = "width=32&height=32";
    server
        .get(&path(&text, size), &alice)
        .await
        .fails(400, "M_UNKNOWN");
    server
        .get(&path(&text, "width=0&height=1"), &alice)
        .await
        .fails(400, "M_INVALID_PARAM");
    let picture: &[u8] = include_bytes!("picture.png");
    let picture = id(server.upload("", "image/png", &alice, picture).await);
    let got = server.get(&path(&picture, size), &alice).await;
    assert_eq!(
        (got.status.as_u16(), &got.headers["content-type"]),
        (200, &"image/png".try_into().unwrap())
    );
    let again = server.get(&path(&picture, size), &alice).await;
    assert_eq!(
        got.headers["content-length"],
        again.headers["content-length"]
    );
}

/// What another server says of its file decides neither how browsers take it nor which headers we send.
#[tokio::test]
async fn s111_files_of_other_servers_have_our_headers() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let far = ruma::server_name!("far.example");
    let page = "<script>alert(document.domain)</script>";
    let said = [
        ("text/html", "attachment"),
        ("TEXT/HTML; charset=utf-8", "attachment"),
        ("image/svg+xml", "attachment"),
        ("application/xhtml+xml", "attachment"),
        ("text/html\r\nSet-Cookie: a=b", "attachment"),
        ("text/plain", "inline"),
    ];
    for (n, (kind, shown)) in said.into_iter().enumerate() {
        let about = resuni_media::About {
            content_type: Some(kind.to_owned()),
            filename: Some("a\"\r\nSet-Cookie: c=d; .html".to_owned()),
            uploader: None,
        };
        let bytes = futures_util::stream::iter([Ok::<_, std::io::Error>(page.into())]);
        let id = format!("file{n}");
        server
            .state
            .media
            .keep(far, &id, about, bytes)
            .await
            .unwrap();
        for path in [
            format!("/_matrix/client/v1/media/download/far.example/{id}"),
            format!("/_matrix/client/v1/media/download/far.example/{id}/page.html"),
        ] {
            let got = server.get(&path, &alice).await;
            let header = |name: &str| got.headers.get(name).map(|value| value.to_str().unwrap());
            let how = header("content-disposition").unwrap();
            assert_eq!(how.split(';').next(), Some(shown), "{kind}: {how}");
            let policy = header("content-security-policy").unwrap();
            assert!(policy.starts_with("sandbox; default-src 'none'; script-src 'none';"));
            assert_eq!(header("x-content-type-options"), Some("nosniff"));
            assert_eq!(header("set-cookie"), None);
        }
    }
}
