//! Logging in, refreshing, logging out (Client-Server API, "Legacy API": login, logout, refresh).

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use resuni_accounts::{AccountError, Accounts, AppService, DeviceRequest, Login};
use ruma::{
    OwnedServerName, UserId,
    api::client::{
        session::{get_login_token, get_login_types, login, logout, logout_all, refresh_token},
        uiaa::UserIdentifier,
    },
};

use super::uia::Unconfirmed;
use crate::{
    error::ApiError,
    extract::{Answer, Policy, Reply, Ruma},
    limits::Class,
    routes::Routes,
    state::Settings,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(types)
        .with(
            Policy {
                required: Some("type"),
                ..Policy::CLIENT.class(Class::Login)
            },
            log_in,
        )
        .with(Policy::CLIENT.class(Class::Login), refresh)
        .on(login_token)
        .with(
            Policy {
                locked: true,
                ..Policy::GUEST
            },
            log_out,
        )
        .with(
            Policy {
                locked: true,
                ..Policy::GUEST
            },
            log_out_everywhere,
        )
}

async fn types(_: Ruma<get_login_types::v3::Request>) -> Answer<get_login_types::v3::Response> {
    use get_login_types::v3::{
        ApplicationServiceLoginType, LoginType, PasswordLoginType, Response, TokenLoginType,
    };
    let mut token = TokenLoginType::new();
    token.get_login_token = true;
    Ok(Reply(Response::new(vec![
        LoginType::Password(PasswordLoginType::new()),
        LoginType::Token(token),
        LoginType::ApplicationService(ApplicationServiceLoginType::new()),
    ])))
}

#[expect(deprecated, reason = "old clients still say `user`")]
async fn log_in(
    State(accounts): State<Arc<Accounts>>,
    State(settings): State<Arc<Settings>>,
    Ruma { body, caller, .. }: Ruma<login::v3::Request>,
) -> Answer<login::v3::Response> {
    use login::v3::LoginInfo;
    let device = DeviceRequest {
        // What has no name is none that is known.
        device_id: body.device_id.filter(|id| !id.as_str().is_empty()),
        display_name: body.initial_device_display_name,
        refresh: body.refresh_token,
    };
    let login = match body.login_info {
        LoginInfo::Password(login::v3::Password {
            identifier: Some(UserIdentifier::Email(email)),
            password,
            ..
        }) => {
            accounts
                .login_email(&email.address, &password, device)
                .await?
        }
        LoginInfo::Password(info) => {
            let user = user(info.identifier, info.user)?;
            accounts
                .login_password(&user, &info.password, device)
                .await?
        }
        LoginInfo::Token(info) => accounts.login_token(&info.token, device).await?,
        LoginInfo::ApplicationService(info) => {
            let user = user(info.identifier, info.user)?;
            let service = caller.ok_or_else(|| ApiError::unknown_token(false))?;
            log_in_for(&accounts, &service, &user, device).await?
        }
        other => {
            return Err(AccountError::Rejected(format!(
                "This server has no login of the type {}.",
                other.login_type()
            ))
            .into());
        }
    };
    let mut response = login::v3::Response::new(login.user_id, login.access_token, login.device_id);
    response.well_known = settings
        .public_baseurl
        .clone()
        .map(|url| login::v3::DiscoveryInfo::new(login::v3::HomeserverInfo::new(url)));
    response.refresh_token = login.refresh_token;
    response.expires_in = login.expires_in_ms.map(Duration::from_millis);
    Ok(Reply(response))
}

/// Who wants to log in: the identifier of today, or the plain user of old clients. This server
/// knows nobody by a phone number.
fn user(identifier: Option<UserIdentifier>, old: Option<String>) -> Result<String, ApiError> {
    match (identifier, old) {
        (Some(UserIdentifier::Matrix(identifier)), _) => Ok(identifier.user),
        (None, Some(user)) => Ok(user),
        (Some(_), _) => Err(ApiError::forbidden(
            "Log in with your user id or its local part.",
        )),
        (None, None) => Err(ApiError::missing_param(
            "There is no identifier to log in with.",
        )),
    }
}

/// An application service opens a session of one of its users.
async fn log_in_for(
    accounts: &Accounts,
    service: &AppService,
    user: &str,
    device: DeviceRequest,
) -> Result<Login, ApiError> {
    let server: OwnedServerName = accounts.server_name().to_owned();
    let user = UserId::parse_with_server_name(user, &server)
        .map_err(|error| AccountError::InvalidUsername(error.to_string()))?;
    if !service.owns_user(&user) {
        let message = "This user is not in the namespace of the application service.";
        return Err(ApiError::exclusive(message));
    }
    let account = accounts
        .find_user(&user)
        .await?
        .ok_or_else(|| ApiError::forbidden("This user has not been registered."))?;
    Ok(accounts.login(account, device).await?)
}

async fn refresh(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, .. }: Ruma<refresh_token::v3::Request>,
) -> Answer<refresh_token::v3::Response> {
    let login = accounts.refresh(&body.refresh_token).await?;
    let mut response = refresh_token::v3::Response::new(login.access_token);
    response.refresh_token = login.refresh_token;
    response.expires_in_ms = login.expires_in_ms.map(Duration::from_millis);
    Ok(Reply(response))
}

async fn login_token(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        caller, raw, uri, ..
    }: Ruma<get_login_token::v1::Request>,
) -> Answer<get_login_token::v1::Response> {
    let request = Unconfirmed {
        method: http::Method::POST,
        uri: &uri,
        raw: &raw,
    };
    request.confirm_password(&accounts, &caller).await?;
    let (token, millis) = accounts.create_login_token(caller.account).await?;
    Ok(Reply(get_login_token::v1::Response::new(
        Duration::from_millis(millis),
        token,
    )))
}

async fn log_out(
    State(accounts): State<Arc<Accounts>>,
    Ruma { caller, .. }: Ruma<logout::v3::Request>,
) -> Answer<logout::v3::Response> {
    accounts.logout(&caller).await?;
    Ok(Reply(logout::v3::Response::new()))
}

async fn log_out_everywhere(
    State(accounts): State<Arc<Accounts>>,
    Ruma { caller, .. }: Ruma<logout_all::v3::Request>,
) -> Answer<logout_all::v3::Response> {
    accounts.logout_all(caller.account).await?;
    Ok(Reply(logout_all::v3::Response::new()))
}
