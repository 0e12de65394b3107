//! Registering (Client-Server API, "Account registration and management").

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use resuni_accounts::{
    AccountKind, Accounts, AppService, DeviceRequest, NewAccount,
    uia::{Flow, Stage},
};
use resuni_delivery::Mailer;
use ruma::api::client::account::{
    check_registration_token_validity, get_username_availability,
    register::{self, LoginType, RegistrationKind},
};

use super::uia::Unconfirmed;
use crate::{
    error::ApiError,
    extract::{Answer, Policy, Reply, Ruma, Sparse, json_object},
    limits::Class,
    routes::Routes,
    state::{Registration, Settings},
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .with(Policy::CLIENT.class(Class::Register).confirmed(), register)
        .on(available)
        .with(Policy::CLIENT.class(Class::Login), token_validity)
}

async fn register(
    State(accounts): State<Arc<Accounts>>,
    State(mail): State<Option<Arc<Mailer>>>,
    State(settings): State<Arc<Settings>>,
    mut request: Ruma<register::v3::Request>,
) -> Result<Sparse<register::v3::Response>, ApiError> {
    recall(&accounts, &mut request)?;
    let body = &request.body;
    let account = match (&body.login_type, &body.kind) {
        (Some(LoginType::ApplicationService), _) => {
            let service = request.caller.as_ref();
            for_service(service.ok_or_else(|| ApiError::unknown_token(false))?, body)?
        }
        (_, RegistrationKind::Guest) if settings.registration.guests => {
            NewAccount::of_kind(AccountKind::Guest)
        }
        (_, RegistrationKind::Guest) => {
            return Err(ApiError::guests("This server has no guests."));
        }
        (_, kind) if *kind != RegistrationKind::User => {
            return Err(ApiError::invalid_param("`kind` is `guest` or `user`."));
        }
        _ => for_person(&accounts, &settings.registration, mail.is_some(), &request).await?,
    };
    // A guest without a session would be nobody.
    let log_in = !body.inhibit_login || account.kind == AccountKind::Guest;
    let body = request.body;
    let device = log_in.then_some(DeviceRequest {
        device_id: body.device_id.filter(|id| !id.as_str().is_empty()),
        display_name: body.initial_device_display_name,
        refresh: body.refresh_token,
    });
    let registered = accounts.register(NewAccount { device, ..account }).await?;
    let mut response = register::v3::Response::new(registered.user_id);
    if let Some(login) = registered.login {
        response.access_token = Some(login.access_token);
        response.device_id = Some(login.device_id);
        response.refresh_token = login.refresh_token;
        response.expires_in = login.expires_in_ms.map(Duration::from_millis);
    }
    Ok(Sparse(response))
}

/// Adds what the client said when it began, and does not say again while it confirms.
fn recall(accounts: &Accounts, request: &mut Ruma<register::v3::Request>) -> Result<(), ApiError> {
    let mut body = json_object(&request.raw)?;
    let members = body.len();
    accounts.uia_recall(&mut body);
    if body.len() > members {
        request.replace_body(&body)?;
    }
    Ok(())
}

/// A user of an application service: no password, no confirmation.
fn for_service(service: &AppService, body: &register::v3::Request) -> Result<NewAccount, ApiError> {
    let Some(username) = body.username.clone() else {
        return Err(ApiError::missing_param(
            "Application services name their users themselves.",
        ));
    };
    Ok(NewAccount {
        localpart: Some(username),
        ..NewAccount::of_kind(AccountKind::AppService(service.id().to_owned()))
    })
}

/// An ordinary account, once the registration is confirmed as the operator wants it.
async fn for_person(
    accounts: &Accounts,
    registration: &Registration,
    mail: bool,
    request: &Ruma<register::v3::Request>,
) -> Result<NewAccount, ApiError> {
    if !registration.enabled {
        return Err(ApiError::forbidden(
            "Registration is closed on this server.",
        ));
    }
    // Who asks for a name that can't be had learns it before the confirmation.
    if let Some(username) = &request.body.username {
        accounts.available(username).await?;
    }
    let flows = flows(registration, mail);
    let unconfirmed = Unconfirmed {
        method: http::Method::POST,
        uri: &request.uri,
        raw: &request.raw,
    };
    let done = unconfirmed.confirm(accounts, None, &flows).await?;
    let Some(password) = request.body.password.clone() else {
        return Err(ApiError::missing_param("An account needs a password."));
    };
    Ok(NewAccount {
        localpart: request.body.username.clone(),
        password: Some(password),
        registration_token: done.registration_token,
        email: done.email,
        ..NewAccount::of_kind(AccountKind::User)
    })
}

/// What somebody has to show. Where mail is set up, an address may be given though none is asked for.
fn flows(registration: &Registration, mail: bool) -> Vec<Flow> {
    let token = registration
        .require_token
        .then_some(Stage::RegistrationToken);
    let of = |last: Option<Stage>| -> Vec<Stage> { token.into_iter().chain(last).collect() };
    let without = match token {
        Some(_) => of(None),
        None => of(Some(Stage::Dummy)),
    };
    let with = Flow::of(of(Some(Stage::EmailIdentity)));
    match (mail, registration.require_email) {
        (_, true) => vec![with],
        (true, false) => vec![Flow::of(without), with],
        (false, false) => vec![Flow::of(without)],
    }
}

async fn available(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, .. }: Ruma<get_username_availability::v3::Request>,
) -> Answer<get_username_availability::v3::Response> {
    accounts.available(&body.username).await?;
    Ok(Reply(get_username_availability::v3::Response::new(true)))
}

async fn token_validity(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, .. }: Ruma<check_registration_token_validity::v1::Request>,
) -> Answer<check_registration_token_validity::v1::Response> {
    let valid = accounts.registration_token_valid(&body.token).await?;
    Ok(Reply(check_registration_token_validity::v1::Response::new(
        valid,
    )))
}
