//! Pages for people, made on the server and readable without JavaScript: what this server is, the public timeline,
//! profiles, the roster of the consortium, and Atom feeds.
//!
//! Everything that people wrote is text here and nothing else: maud escapes it, no HTML of theirs is kept, and the
//! content security policy allows neither scripts nor anything from elsewhere.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod atom;
mod error;
mod headers;
mod layout;
mod pages;
mod posts;
#[cfg(test)]
mod tests;
mod text;

use std::sync::Arc;

use axum::{Router, middleware, routing::get};
use resuni_consortium::Consortium;
use resuni_feed::Feed;

/// What the pages show.
#[derive(Clone)]
pub struct WebState {
    /// What this server is.
    pub site: Arc<Site>,
    /// What people have to say.
    pub feed: Arc<Feed>,
    /// Who else there is.
    pub consortium: Arc<Consortium>,
}

/// What this server is.
#[derive(Debug, Clone)]
pub struct Site {
    /// Where people reach it, without a slash at the end.
    pub base_url: String,
    /// Whether people can make accounts by themselves.
    pub registration: bool,
}

/// The pages: `/`, `/timeline`, `/@name`, `/consortium` and the feeds of the middle two. It has no fallback, so that it
/// can be merged with other routers.
pub fn router(state: WebState) -> Router {
    Router::new()
        .route("/", get(pages::home))
        .route("/timeline", get(pages::timeline))
        .route("/timeline.atom", get(atom::timeline))
        .route("/consortium", get(pages::consortium))
        .route("/@{name}", get(pages::profile))
        .route("/@{name}/feed.atom", get(atom::profile))
        .route("/style.css", get(headers::style))
        .layer(middleware::map_response(headers::guard))
        .with_state(state)
}
