//! Filters (Client-Server API, "Filtering").

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::{Accounts, Session};
use ruma::{
    UserId,
    api::client::filter::{create_filter, get_filter},
};

use crate::{
    error::ApiError,
    extract::{Answer, RawJson, Reply, Ruma, json_object},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().guest(create).guest(get)
}

fn own(caller: &Session, user: &UserId) -> Result<(), ApiError> {
    if caller.user_id == user {
        Ok(())
    } else {
        Err(ApiError::forbidden("These are not your filters."))
    }
}

async fn create(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        body, caller, raw, ..
    }: Ruma<create_filter::v3::Request>,
) -> Answer<create_filter::v3::Response> {
    own(&caller, &body.user_id)?;
    let number = accounts
        .store_filter(caller.account, &json_object(&raw)?)
        .await?;
    Ok(Reply(create_filter::v3::Response::new(number.to_string())))
}

async fn get(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<get_filter::v3::Request>,
) -> Result<RawJson, ApiError> {
    own(&caller, &body.user_id)?;
    let unknown = || ApiError::not_found("You have no such filter.");
    let number = body.filter_id.parse().map_err(|_| unknown())?;
    let filter = accounts
        .filter_json(caller.account, number)
        .await?
        .ok_or_else(unknown)?;
    Ok(RawJson(Box::<str>::from(filter).into_string().into()))
}
