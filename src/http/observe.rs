//! What the operator sees of a request: a span with an id, one line when it is done, and numbers.
//!
//! The path is logged without its query, which may hold a token; the numbers go by the route's
//! pattern, so that there are only as many series as routes.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::Instrument;

use crate::error::ApiError;

/// Middleware: see the module.
pub async fn observe(request: Request, next: Next) -> Response {
    static LAST_ID: AtomicU64 = AtomicU64::new(0);
    let id = LAST_ID.fetch_add(1, Ordering::Relaxed) + 1;
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let pattern = route.as_ref().map_or("", MatchedPath::as_str);
    let path = loggable(pattern, request.uri().path()).to_owned();
    let span = tracing::info_span!("request", id, %method, path);
    let started = Instant::now();
    async move {
        let response = next.run(request).await;
        let status = response.status();
        let elapsed = started.elapsed();
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), ?elapsed, "answered");
        } else {
            tracing::debug!(status = status.as_u16(), ?elapsed, "answered");
        }
        let route = route
            .as_ref()
            .map_or("(none)", MatchedPath::as_str)
            .to_owned();
        metrics::histogram!(
            "resuni_http_request_seconds",
            "method" => method.to_string(),
            "route" => route,
            "status" => status.as_u16().to_string()
        )
        .record(elapsed.as_secs_f64());
        response
    }
    .instrument(span)
    .await
}

/// A path as it may be logged: registration tokens are secrets, and one of them may stand in it.
pub fn loggable<'a>(route: &'a str, path: &'a str) -> &'a str {
    match route.contains("{token}") {
        true => route,
        false => path,
    }
}

/// A handler panicked: the client gets a Matrix error, the operator the message.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature is the panic layer's"
)]
pub fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message");
    tracing::error!(message, "a request handler panicked");
    ApiError::unknown().into_response()
}
