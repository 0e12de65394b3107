//! The account itself (Client-Server API, "Account registration and management", "Current account
//! information").

use std::sync::Arc;

use axum::extract::State;
use http::Method;
use resuni_accounts::{
    AccountNum, Accounts,
    uia::{Flow, Stage},
};
use resuni_delivery::Mailer;
use resuni_federation::Federation;
use resuni_rooms::Rooms;
use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus, change_password, deactivate, request_openid_token, whoami,
};
use ruma::{UserId, authentication::TokenType};

use super::{remote::Remote, uia::Unconfirmed};
use crate::{
    error::ApiError,
    extract::{Answer, Policy, Reply, Ruma},
    limits::Class,
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .guest(who_am_i)
        .with(Policy::CLIENT.class(Class::Login).confirmed(), set_password)
        .with(Policy::CLIENT.class(Class::Login).confirmed(), end)
        .on(openid)
}

async fn who_am_i(Ruma { caller, .. }: Ruma<whoami::v3::Request>) -> Answer<whoami::v3::Response> {
    let mut response = whoami::v3::Response::new(caller.user_id, caller.is_guest);
    response.device_id = caller.device_id;
    Ok(Reply(response))
}

async fn set_password(
    State(accounts): State<Arc<Accounts>>,
    State(mail): State<Option<Arc<Mailer>>>,
    Ruma {
        body,
        caller,
        raw,
        uri,
        ..
    }: Ruma<change_password::v3::Request>,
) -> Answer<change_password::v3::Response> {
    let request = Unconfirmed {
        method: Method::POST,
        uri: &uri,
        raw: &raw,
    };
    // Who has forgotten it shows their e-mail address instead.
    let Some(caller) = caller else {
        if mail.is_none() {
            return Err(ApiError::missing_token());
        }
        let flows = [Flow::of([Stage::EmailIdentity])];
        let done = request.confirm(&accounts, None, &flows).await?;
        let email = done.email.ok_or_else(ApiError::missing_token)?;
        accounts
            .reset_password(email, &body.new_password, body.logout_devices)
            .await?;
        return Ok(Reply(change_password::v3::Response::new()));
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
    let federation = federation.as_deref();
    let (account, user) = (caller.account, &caller.user_id);
    end_account(&accounts, &rooms, federation, account, user, body.erase).await?;
    // No identity server knows of anybody through this server.
    Ok(Reply(deactivate::v3::Response::new(
        ThirdPartyIdRemovalStatus::Success,
    )))
}

/// Ends an account, and takes it out of its rooms.
pub async fn end_account(
    accounts: &Accounts,
    rooms: &Rooms,
    federation: Option<&Federation>,
    account: AccountNum,
    user: &UserId,
    erase: bool,
) -> Result<(), ApiError> {
    accounts.deactivate(account, erase).await?;
    Remote { rooms, federation }.leave_all(user).await
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
