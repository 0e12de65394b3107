//! Profiles (Client-Server API, "Profiles").

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::{Accounts, Session};
use ruma::{
    UserId,
    api::client::profile::{
        delete_profile_field, get_profile, get_profile_field, set_profile_field,
    },
    profile::{ProfileFieldName, ProfileFieldValue},
};
use serde_json::{Map, Value};

use crate::{
    error::ApiError,
    extract::{Answer, Policy, RawJson, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(all)
        .on(one)
        .with(Policy::GUEST.public(), set)
        .with(Policy::GUEST.public(), delete)
}

fn unknown() -> ApiError {
    ApiError::not_found("There is no such user or no such field in the profile.")
}

async fn profile(accounts: &Accounts, user: &UserId) -> Result<Map<String, Value>, ApiError> {
    if user.server_name() != accounts.server_name() {
        return Err(unknown());
    }
    let profile = accounts
        .profile(user.localpart())
        .await?
        .ok_or_else(unknown)?;
    Ok(profile.into_iter().collect())
}

async fn all(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, .. }: Ruma<get_profile::v3::Request>,
) -> Result<RawJson, ApiError> {
    let profile = profile(&accounts, &body.user_id).await?;
    Ok(RawJson::of(&Value::Object(profile)))
}

async fn one(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, .. }: Ruma<get_profile_field::v3::Request>,
) -> Answer<get_profile_field::v3::Response> {
    let field = body.field.as_str();
    let value = profile(&accounts, &body.user_id)
        .await?
        .remove(field)
        .ok_or_else(unknown)?;
    let value = ProfileFieldValue::new(field, value).map_err(ApiError::internal)?;
    Ok(Reply(get_profile_field::v3::Response::new(value)))
}

/// One's own profile only; of it a guest may only change the name.
fn check(caller: &Session, user: &UserId, field: &ProfileFieldName) -> Result<(), ApiError> {
    if caller.user_id != user {
        return Err(ApiError::forbidden("This is not your profile."));
    }
    if caller.is_guest && *field != ProfileFieldName::DisplayName {
        return Err(ApiError::guests(
            "Guests may only change their display name.",
        ));
    }
    Ok(())
}

async fn set(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<set_profile_field::v3::Request>,
) -> Answer<set_profile_field::v3::Response> {
    let field = body.value.field_name();
    check(&caller, &body.user_id, &field)?;
    let value = body.value.value().into_owned();
    accounts
        .set_profile_field(caller.account, field.as_str(), value)
        .await?;
    Ok(Reply(set_profile_field::v3::Response::new()))
}

async fn delete(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<delete_profile_field::v3::Request>,
) -> Answer<delete_profile_field::v3::Response> {
    check(&caller, &body.user_id, &body.field)?;
    accounts
        .delete_profile_field(caller.account, body.field.as_str())
        .await?;
    Ok(Reply(delete_profile_field::v3::Response::new()))
}
