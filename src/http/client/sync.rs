//! `/sync` (Client-Server API, "Syncing").

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::{Accounts, Session};
use resuni_rooms::PresenceState;
use resuni_sync::{Sync, SyncRequest, Who};
use ruma::api::client::{filter::FilterDefinition, sync::sync_events};

use crate::{
    error::ApiError,
    extract::{RawJson, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().guest(sync)
}

#[expect(
    clippy::manual_async_fn,
    reason = "an async fn would keep the whole request while the client waits, and the buffer its headers came in"
)]
fn sync(
    State(accounts): State<Arc<Accounts>>,
    State(sync): State<Arc<Sync>>,
    Ruma { body, caller, .. }: Ruma<sync_events::v3::Request>,
) -> impl Future<Output = Result<RawJson, ApiError>> + Send {
    async move {
        // In a box that is gone when the waiting begins.
        let request = Box::pin(asked(&accounts, &caller, body)).await?;
        let who = Who {
            user: &caller.user_id,
            account: caller.account,
            device: caller.device_id.as_deref(),
        };
        Ok(RawJson(sync.sync(who, &request).await?.into()))
    }
}

async fn asked(
    accounts: &Accounts,
    caller: &Session,
    body: sync_events::v3::Request,
) -> Result<Box<SyncRequest>, ApiError> {
    let since = body.since.as_deref().filter(|since| !since.is_empty());
    let since = since.map(str::parse).transpose();
    Ok(Box::new(SyncRequest {
        since: since.map_err(|_| ApiError::invalid_param("`since` is not a token of a sync."))?,
        timeout: body.timeout.unwrap_or_default(),
        filter: filter(accounts, caller, body.filter).await?,
        full_state: body.full_state,
        set_presence: PresenceState::from_name(body.set_presence.as_str()).unwrap_or_default(),
        use_state_after: body.use_state_after,
    }))
}

/// The filter itself, or the number of a stored one.
async fn filter(
    accounts: &Accounts,
    caller: &Session,
    filter: Option<sync_events::v3::Filter>,
) -> Result<FilterDefinition, ApiError> {
    use sync_events::v3::Filter;
    match filter {
        None => Ok(FilterDefinition::default()),
        Some(Filter::FilterDefinition(filter)) => Ok(filter),
        Some(Filter::FilterId(id)) => {
            let unknown = || ApiError::invalid_param("You have no such filter.");
            let number = id.parse().map_err(|_| unknown())?;
            let filter = accounts
                .filter(caller.account, number)
                .await?
                .ok_or_else(unknown)?;
            Ok(Arc::unwrap_or_clone(filter))
        }
        Some(_) => Err(ApiError::invalid_param("This is not a filter.")),
    }
}
