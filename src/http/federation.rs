//! The server-server API, one file per section of the spec. Who asks is found out by the extractor;
//! everything else is decided in `resuni_federation`.

mod devices;
mod history;
mod keys;
mod media;
mod members;
mod query;
mod transaction;

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use resuni_federation::Federation;

use crate::{AppState, error::ApiError, routes::Routes};

/// The tables of all sections.
pub fn routes() -> Routes {
    [
        devices::routes,
        history::routes,
        keys::routes,
        media::routes,
        members::routes,
        query::routes,
        transaction::routes,
    ]
    .into_iter()
    .fold(Routes::new(), |all, section| all.merge(section()))
}

/// Federation, where it is on. Where it is off its endpoints do not exist.
pub struct On(pub Arc<Federation>);

impl FromRequestParts<AppState> for On {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, state: &AppState) -> Result<On, ApiError> {
        state
            .federation
            .clone()
            .map(On)
            .ok_or_else(ApiError::unrecognized)
    }
}
