//! The account itself (Client-Server API, "Account registration and management", "Current account
//! information", "Adding Account Administrative Contact Information").

use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use http::Method;
use resuni_accounts::Accounts;
use resuni_federation::Federation;
use resuni_rooms::Rooms;
use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus, change_password, deactivate, get_3pids, request_openid_token, whoami,
};
use ruma::authentication::TokenType;

use super::{remote::Remote, uia::Unconfirmed};
use crate::{
    error::ApiError,
    extract::{Answer, Policy, RawJson, Reply, Ruma},
    limits::Class,
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .guest(who_am_i)
        .with(Policy::CLIENT.class(Class::Login), set_password)
        .with(Policy::CLIENT.class(Class::Login), end)
        .on(contacts)
        .on(openid)
}

async fn who_am_i(Ruma { caller, .. }: Ruma<whoami::v3::Request>) -> Answer<whoami::v3::Response> {
    let mut response = whoami::v3::Response::new(caller.user_id, caller.is_guest);
    response.device_id = caller.device_id;
    Ok(Reply(response))
}

async fn set_password(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        body,
        caller,
        raw,
        uri,
        ..
    }: Ruma<change_password::v3::Request>,
) -> Answer<change_password::v3::Response> {
    // Without a token one would show an e-mail address or a phone number instead; none is known.
    let caller = caller.ok_or_else(ApiError::missing_token)?;
    let request = Unconfirmed {
        method: Method::POST,
        uri: &uri,
        raw: &raw,
    };
    request.confirm_password(&accounts, &caller).await?;
    let keep = caller.device_id.as_deref();
    accounts
        .set_password(
            caller.account,
            &body.new_password,
            body.logout_devices,
            keep,
        )
        .await?;
    Ok(Reply(change_password::v3::Response::new()))
}

async fn end(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma {
        body,
        caller,
        raw,
        uri,
        ..
    }: Ruma<deactivate::v3::Request>,
) -> Answer<deactivate::v3::Response> {
    let caller = caller.ok_or_else(ApiError::missing_token)?;
    let request = Unconfirmed {
        method: Method::POST,
        uri: &uri,
        raw: &raw,
    };
    request.confirm_password(&accounts, &caller).await?;
    accounts.deactivate(caller.account, body.erase).await?;
    let remote = Remote {
        rooms: &rooms,
        federation: federation.as_deref(),
    };
    remote.leave_all(&caller.user_id).await?;
    // There was nothing to unbind.
    Ok(Reply(deactivate::v3::Response::new(
        ThirdPartyIdRemovalStatus::Success,
    )))
}

/// No address is kept for anybody, so the list is empty. ruma would leave it out, which clients
/// take badly.
async fn contacts(_: Ruma<get_3pids::v3::Request>) -> Result<RawJson, ApiError> {
    Ok(RawJson(Bytes::from_static(br#"{"threepids":[]}"#)))
}

async fn openid(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<request_openid_token::v3::Request>,
) -> Answer<request_openid_token::v3::Response> {
    if body.user_id != caller.user_id {
        return Err(ApiError::forbidden(
            "A token is only given for your own account.",
        ));
    }
    let token = accounts.create_openid_token(caller.account).await?;
    Ok(Reply(request_openid_token::v3::Response::new(
        token.access_token,
        TokenType::Bearer,
        accounts.server_name().to_owned(),
        std::time::Duration::from_secs(token.expires_in_s),
    )))
}
