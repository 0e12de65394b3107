//! Profiles (Client-Server API, "Profiles").

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::{Accounts, Session};
use resuni_delivery::ServiceClient;
use resuni_federation::{Federation, Terms};
use resuni_rooms::Rooms;
use ruma::{
    UserId,
    api::{
        client::profile::{
            delete_profile_field, get_profile, get_profile_field, set_profile_field,
        },
        federation::query::get_profile_information,
    },
    profile::{ProfileFieldName, ProfileFieldValue},
};
use serde_json::{Map, Value};

use super::appservice::bridged_user;
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

/// The profile, or one field of it; a stranger's is asked of their server.
async fn profile(
    accounts: &Accounts,
    federation: Option<&Federation>,
    user: &UserId,
    field: Option<&ProfileFieldName>,
) -> Result<Map<String, Value>, ApiError> {
    if user.server_name() == accounts.server_name() {
        let profile = accounts
            .profile(user.localpart())
            .await?
            .ok_or_else(unknown)?;
        return Ok(profile.into_iter().collect());
    }
    let client = &federation.ok_or_else(unknown)?.network.client;
    let mut request = get_profile_information::v1::Request::new(user.to_owned());
    request.field = field.cloned();
    let answer = client
        .answer(user.server_name(), request, Terms::ASKED)
        .await?;
    serde_json::from_slice(&answer.body).map_err(|_| unknown())
}

async fn all(
    State(accounts): State<Arc<Accounts>>,
    State(federation): State<Option<Arc<Federation>>>,
    State(services): State<Arc<ServiceClient>>,
    Ruma { body, .. }: Ruma<get_profile::v3::Request>,
) -> Result<RawJson, ApiError> {
    bridged_user(&accounts, &services, &body.user_id).await?;
    let profile = profile(&accounts, federation.as_deref(), &body.user_id, None).await?;
    Ok(RawJson::of(&Value::Object(profile)))
}

async fn one(
    State(accounts): State<Arc<Accounts>>,
    State(federation): State<Option<Arc<Federation>>>,
    State(services): State<Arc<ServiceClient>>,
    Ruma { body, .. }: Ruma<get_profile_field::v3::Request>,
) -> Answer<get_profile_field::v3::Response> {
    let field = &body.field;
    bridged_user(&accounts, &services, &body.user_id).await?;
    let mut profile = profile(&accounts, federation.as_deref(), &body.user_id, Some(field)).await?;
    let value = profile.remove(field.as_str()).ok_or_else(unknown)?;
    let value = ProfileFieldValue::new(field.as_str(), value).map_err(ApiError::internal)?;
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

/// Names and pictures stand in the membership events too (Client-Server API, "Events on Change of
/// Profile Information").
async fn bring_to_rooms(
    accounts: &Accounts,
    rooms: &Rooms,
    caller: &Session,
    field: &ProfileFieldName,
) -> Result<(), ApiError> {
    if matches!(
        field,
        ProfileFieldName::DisplayName | ProfileFieldName::AvatarUrl
    ) {
        let profile = super::rooms::profile(accounts, &caller.user_id).await?;
        rooms.propagate_profile(&caller.user_id, &profile).await?;
    }
    Ok(())
}

async fn set(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<set_profile_field::v3::Request>,
) -> Answer<set_profile_field::v3::Response> {
    let field = body.value.field_name();
    check(&caller, &body.user_id, &field)?;
    let value = body.value.value().into_owned();
    accounts
        .set_profile_field(caller.account, field.as_str(), value)
        .await?;
    bring_to_rooms(&accounts, &rooms, &caller, &field).await?;
    Ok(Reply(set_profile_field::v3::Response::new()))
}

async fn delete(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<delete_profile_field::v3::Request>,
) -> Answer<delete_profile_field::v3::Response> {
    check(&caller, &body.user_id, &body.field)?;
    accounts
        .delete_profile_field(caller.account, body.field.as_str())
        .await?;
    bring_to_rooms(&accounts, &rooms, &caller, &body.field).await?;
    Ok(Reply(delete_profile_field::v3::Response::new()))
}
