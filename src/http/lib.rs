//! The routers. They translate and decide nothing: from HTTP to typed requests, from the errors of
//! the crates below to Matrix errors.
//!
//! * one file per section of the spec under `client` and `federation`; its `routes()` is its table;
//! * [`extract`]: the one extractor, with authentication and body limits by the request's type;
//! * [`error`]: the one place where an error becomes a Matrix error.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

pub mod auth;
pub mod client;
pub mod cors;
pub mod error;
pub mod extract;
pub mod federation;
pub mod limits;
pub mod observe;
pub mod operator;
mod page;
pub mod peer;
pub mod routes;
mod state;
#[cfg(test)]
mod tests;
pub mod wellknown;

use axum::{Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;

pub use client::end_account;
pub use state::{AppState, Registration, Settings, Support};

/// Every endpoint of this server. Add the listener's `ConnectInfo<SocketAddr>` to the requests.
pub fn router(state: AppState) -> Router {
    finish(table(), state)
}

/// All endpoints.
fn table() -> routes::Routes {
    client::routes()
        .merge(federation::routes())
        .merge(operator::routes())
        .merge(wellknown::routes())
}

/// What holds for all endpoints: the answers for unknown ones, CORS, panics, tracing.
fn finish(routes: routes::Routes, state: AppState) -> Router {
    routes
        .into_router()
        .fallback(async || error::ApiError::unrecognized())
        .method_not_allowed_fallback(async || error::ApiError::wrong_method())
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(middleware::from_fn(cors::cors))
        .layer(middleware::from_fn_with_state(state.clone(), peer::find))
        .layer(middleware::from_fn(observe::observe))
        .with_state(state)
}
