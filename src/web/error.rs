//! When there is no page to show.

use axum::{
    http::StatusCode,
    response::{Html, IntoResponse, Response},
};
use maud::html;
use resuni_feed::FeedError;

use crate::{WebState, layout::page};

/// Why a page is not shown.
pub(crate) enum NoPage {
    /// There is nobody, or nothing, here.
    NotFound(&'static str),
    /// The address makes no sense.
    BadRequest(&'static str),
    /// Something of ours failed.
    Failed,
}

impl From<FeedError> for NoPage {
    fn from(error: FeedError) -> Self {
        tracing::error!(%error, "a page can't be shown");
        Self::Failed
    }
}

impl NoPage {
    /// As a page of the site.
    pub(crate) fn show(self, state: &WebState) -> Response {
        let (status, title, text) = match self {
            Self::NotFound(text) => (StatusCode::NOT_FOUND, "Not found", text),
            Self::BadRequest(text) => (StatusCode::BAD_REQUEST, "That can't be", text),
            Self::Failed => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Something went wrong",
                "This server could not read its data. Its operator finds the reason in the log.",
            ),
        };
        let body = html! { h1 { (title) } p { (text) } p { a href="/" { "To the beginning" } } };
        (status, Html(page(state, title, None, body).into_string())).into_response()
    }
}
