//! The few pages of the client-server API: for clients that lack a form of their own, and for links in mails. They need
//! nothing from elsewhere, are shown in no frame, and have no script but the one below.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use resuni_delivery::escaped;

/// The script that tells the client that opened the page that it is done ("Fallback": `onAuthDone`), and the one that
/// logs in ("Login Fallback").
pub const SCRIPT: &str = include_str!("page.js");

/// Where the script is.
pub const SCRIPT_PATH: &str = "/_matrix/static/client/page.js";

/// A page; `body` is HTML whose texts are [`escaped`]. With a `script` its body names it as `data-page`.
pub fn page(status: StatusCode, title: &str, script: Option<&str>, body: &str) -> Response {
    let (tag, data) = match script {
        Some(name) => (
            format!(r#"<script src="{SCRIPT_PATH}" defer></script>"#),
            format!(r#" data-page="{}""#, escaped(name)),
        ),
        None => Default::default(),
    };
    let title = escaped(title);
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>{tag}</head>\
         <body{data}><h1>{title}</h1>{body}</body></html>\n"
    );
    let mut response = (status, html).into_response();
    guard(&mut response, "text/html; charset=utf-8");
    response
}

/// The script as a response.
pub async fn script() -> Response {
    let mut response = SCRIPT.into_response();
    guard(&mut response, "text/javascript; charset=utf-8");
    response
}

fn guard(response: &mut Response, kind: &'static str) {
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, kind);
    set(
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; connect-src 'self'; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
    );
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::CACHE_CONTROL, "no-store");
}
