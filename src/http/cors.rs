//! Cross-origin requests (Client-Server API, "Web Browser Clients").
//!
//! Every answer of the client-server API carries the headers, errors included; a preflight is
//! answered here and goes no further. Credentials are never allowed: tokens go in a header.

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

/// Middleware: answers preflights and adds the headers to everything else.
pub async fn cors(request: Request, next: Next) -> Response {
    if !is_for_clients(request.uri().path()) {
        return next.run(request).await;
    }
    let rendezvous = is_rendezvous(request.uri().path());
    let mut response = if request.method() == Method::OPTIONS {
        StatusCode::OK.into_response()
    } else {
        next.run(request).await
    };
    add_headers(response.headers_mut());
    if rendezvous {
        add_rendezvous_headers(response.headers_mut());
    }
    response
}

/// Whether it is a session of MSC4108, whose revisions are told in headers.
fn is_rendezvous(path: &str) -> bool {
    path.strip_prefix("/_matrix/client/unstable/org.matrix.msc4108/rendezvous")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// MSC4108, "CORS".
fn add_rendezvous_headers(headers: &mut HeaderMap) {
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "X-Requested-With, Content-Type, Authorization, Date, If-Match, If-None-Match",
    );
    set(header::ACCESS_CONTROL_EXPOSE_HEADERS, "ETag");
}

/// Whether a browser's script may call it: all of Matrix but what servers say to each other.
fn is_for_clients(path: &str) -> bool {
    let server_only = ["/_matrix/federation/", "/_matrix/key/"];
    (path.starts_with("/_matrix/") && !server_only.iter().any(|prefix| path.starts_with(prefix)))
        || path.starts_with("/.well-known/matrix/")
}

fn add_headers(headers: &mut HeaderMap) {
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    set(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        "GET, HEAD, POST, PUT, DELETE, OPTIONS",
    );
    set(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "X-Requested-With, Content-Type, Authorization, Date",
    );
    set(header::ACCESS_CONTROL_MAX_AGE, "86400");
}
