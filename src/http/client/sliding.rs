//! Sliding sync (MSC4186), as it was accepted and as clients know it under an unstable name.

mod accepted;
mod unstable;
mod wire;

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::Session;
use resuni_sync::{Sync, Who, sliding::SlidingRequest};

use crate::{
    error::ApiError,
    extract::{RawJson, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().guest(unstable).guest(accepted)
}

// No `async fn`s: their futures would keep the whole request while the client waits.
fn unstable(
    State(sync): State<Arc<Sync>>,
    Ruma { body, caller, .. }: Ruma<unstable::Request>,
) -> impl Future<Output = Result<RawJson, ApiError>> + Send {
    let request = body.translate(&caller.user_id);
    async move { answer(&sync, &caller, &request?).await }
}

fn accepted(
    State(sync): State<Arc<Sync>>,
    Ruma { body, caller, .. }: Ruma<accepted::Request>,
) -> impl Future<Output = Result<RawJson, ApiError>> + Send {
    let request = body.translate();
    async move { answer(&sync, &caller, &request?).await }
}

async fn answer(
    sync: &Sync,
    caller: &Session,
    request: &SlidingRequest,
) -> Result<RawJson, ApiError> {
    let who = Who {
        user: &caller.user_id,
        account: caller.account,
        device: caller.device_id.as_deref(),
    };
    Ok(RawJson(sync.sliding(who, request).await?.into()))
}
