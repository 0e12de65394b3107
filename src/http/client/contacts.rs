//! Addresses of people elsewhere (Client-Server API, "Adding Account Administrative Contact Information", and the
//! `requestToken` endpoints). Addresses are of e-mail only: this server sends no text messages.

use std::sync::Arc;

use axum::extract::State;
use http::{Method, StatusCode};
use resuni_accounts::{AccountNum, Accounts, Medium, Purpose, Session, ValidationRequest};
use resuni_delivery::Mailer;
use ruma::{
    ClientSecret, OwnedClientSecret, OwnedSessionId,
    api::{
        client::account::{
            ThirdPartyIdRemovalStatus, add_3pid, delete_3pid, get_3pids,
            request_3pid_management_token_via_email, request_3pid_management_token_via_msisdn,
            request_password_change_token_via_email, request_password_change_token_via_msisdn,
            request_registration_token_via_email, request_registration_token_via_msisdn,
            unbind_3pid,
        },
        error::ErrorCode,
    },
};
use serde_json::{Value, json};

use super::uia::Unconfirmed;
use crate::{
    error::ApiError,
    extract::{Answer, Policy, RawJson, Reply, Ruma},
    limits::Class,
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    let asking = Policy::CLIENT.class(Class::Login);
    Routes::new()
        .on(list)
        .with(asking.confirmed(), add)
        .with(asking, add_as_of_old)
        // "Account suspension": addresses may be added, but not be removed.
        .with(Policy::CLIENT.public(), remove)
        .on(unbind)
        .with(asking, for_registration)
        .with(asking, for_password)
        .with(asking, for_account)
        .with(asking, text_for_registration)
        .with(asking, text_for_password)
        .with(asking, text_for_account)
}

/// `POST /account/3pid`, deprecated: ruma no longer has it.
mod add_of_old {
    use ruma::api::{auth_scheme::AccessToken, metadata, request, response};
    use ruma::{OwnedClientSecret, OwnedSessionId};
    use serde::{Deserialize, Serialize};

    metadata! {
        method: POST,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/account/3pid",
            1.1 => "/_matrix/client/v3/account/3pid",
        }
    }

    /// Adds an address.
    #[request]
    pub struct Request {
        /// What shows that it is one's own.
        #[serde(alias = "threePidCreds")]
        pub three_pid_creds: Credentials,
    }

    /// A validated session.
    #[derive(Clone, Debug, Deserialize, Serialize)]
    pub struct Credentials {
        /// Its secret.
        pub client_secret: OwnedClientSecret,
        /// Its id.
        pub sid: OwnedSessionId,
    }

    /// Nothing.
    #[response]
    pub struct Response {}
}

async fn list(
    State(accounts): State<Arc<Accounts>>,
    Ruma { caller, .. }: Ruma<get_3pids::v3::Request>,
) -> Result<RawJson, ApiError> {
    let contacts = contacts_of(&accounts, caller.account).await?;
    // ruma would leave an empty list out, which clients take badly.
    Ok(RawJson::of(&json!({ "threepids": contacts })))
}

/// The addresses of an account, as clients and the tools of operators know them.
pub async fn contacts_of(accounts: &Accounts, account: AccountNum) -> Result<Vec<Value>, ApiError> {
    let contacts = accounts.contacts(account).await?;
    let shown = contacts.into_iter().map(|contact| {
        json!({
            "medium": contact.medium,
            "address": contact.address,
            "validated_at": contact.validated_ms,
            "added_at": contact.added_ms,
        })
    });
    Ok(shown.collect())
}

async fn add_validated(
    accounts: &Accounts,
    caller: &Session,
    sid: &OwnedSessionId,
    secret: &OwnedClientSecret,
) -> Result<(), ApiError> {
    let validated = accounts
        .validated(Purpose::Add, sid.as_str(), secret.as_str())
        .await?;
    Ok(accounts.add_contact(caller.account, validated).await?)
}

async fn add(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        body,
        caller,
        raw,
        uri,
        ..
    }: Ruma<add_3pid::v3::Request>,
) -> Answer<add_3pid::v3::Response> {
    let request = Unconfirmed {
        method: Method::POST,
        uri: &uri,
        raw: &raw,
    };
    request.confirm_password(&accounts, &caller).await?;
    add_validated(&accounts, &caller, &body.sid, &body.client_secret).await?;
    Ok(Reply(add_3pid::v3::Response::new()))
}

/// The form of old asks for no password. A session that was validated here is as good as one of an identity server.
async fn add_as_of_old(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<add_of_old::Request>,
) -> Answer<add_of_old::Response> {
    let shown = &body.three_pid_creds;
    let added = add_validated(&accounts, &caller, &shown.sid, &shown.client_secret).await;
    match added {
        Err(error) if error.status() == StatusCode::BAD_REQUEST => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            ErrorCode::ThreepidAuthFailed,
            "It has not been shown that this address is yours.",
        )),
        added => added.map(|()| Reply(add_of_old::Response {})),
    }
}

/// No identity server knows of the address through this server, so there is none to be told.
async fn remove(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<delete_3pid::v3::Request>,
) -> Answer<delete_3pid::v3::Response> {
    if let Some(medium) = Medium::from_name(body.medium.as_str()) {
        accounts
            .remove_contact(caller.account, medium, &body.address)
            .await?;
    }
    let unbound = ThirdPartyIdRemovalStatus::NoSupport;
    Ok(Reply(delete_3pid::v3::Response::new(unbound)))
}

/// "If the homeserver does not know the original `id_server`, it MUST return … `no-support`."
async fn unbind(_: Ruma<unbind_3pid::v3::Request>) -> Answer<unbind_3pid::v3::Response> {
    let unbound = ThirdPartyIdRemovalStatus::NoSupport;
    Ok(Reply(unbind_3pid::v3::Response::new(unbound)))
}

fn not_supported() -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        ErrorCode::ThreepidMediumNotSupported,
        "This server does not reach people that way.",
    )
}

async fn mailed(
    accounts: &Accounts,
    mail: Option<Arc<Mailer>>,
    request: ValidationRequest<'_>,
) -> Result<OwnedSessionId, ApiError> {
    let mail = mail.ok_or_else(not_supported)?;
    let sid = mail.validate(accounts, &request).await?;
    OwnedSessionId::try_from(sid).map_err(ApiError::internal)
}

fn asked<'a>(
    purpose: Purpose,
    address: &'a str,
    client_secret: &'a ClientSecret,
    attempt: ruma::UInt,
    next_link: Option<&'a String>,
) -> ValidationRequest<'a> {
    ValidationRequest {
        purpose,
        address,
        client_secret,
        attempt: attempt.into(),
        next_link: next_link.map(String::as_str),
    }
}

macro_rules! by_mail {
    ($name:ident, $request:ident, $purpose:ident) => {
        async fn $name(
            State(accounts): State<Arc<Accounts>>,
            State(mail): State<Option<Arc<Mailer>>>,
            Ruma { body, .. }: Ruma<$request::v3::Request>,
        ) -> Answer<$request::v3::Response> {
            let link = body.next_link.as_ref();
            let secret = &body.client_secret;
            let asked = asked(
                Purpose::$purpose,
                &body.email,
                secret,
                body.send_attempt,
                link,
            );
            let sid = mailed(&accounts, mail, asked).await?;
            Ok(Reply($request::v3::Response::new(sid)))
        }
    };
}

by_mail!(
    for_registration,
    request_registration_token_via_email,
    Register
);
by_mail!(
    for_password,
    request_password_change_token_via_email,
    ResetPassword
);
by_mail!(for_account, request_3pid_management_token_via_email, Add);

async fn text_for_registration(
    _: Ruma<request_registration_token_via_msisdn::v3::Request>,
) -> ApiError {
    not_supported()
}

async fn text_for_password(
    _: Ruma<request_password_change_token_via_msisdn::v3::Request>,
) -> ApiError {
    not_supported()
}

async fn text_for_account(
    _: Ruma<request_3pid_management_token_via_msisdn::v3::Request>,
) -> ApiError {
    not_supported()
}
