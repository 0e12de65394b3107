//! Endpoints for operators and their tools.
//!
//! `/_synapse/admin/v1/register` registers accounts with a shared secret, as the tools that come
//! with many deployments expect it: the body is signed with HMAC-SHA1 over
//! `nonce \0 user \0 password \0 (admin|notadmin) [\0 user_type]`.

mod destinations;
mod devices;
mod extract;
mod media;
mod notices;
mod redactions;
mod reports;
mod room;
mod rooms;
mod server;
mod tokens;
mod user;
mod users;

use std::sync::Arc;

use axum::{Extension, Router, body::Body, extract::State, routing::get};
use http::Request;
use resuni_accounts::{Accounts, DeviceRequest, NewAccount, SharedSecretRequest};
use serde::Deserialize;
use serde_json::json;

pub use extract::{Operator, POLICY};

use crate::{
    AppState,
    error::ApiError,
    extract::{Policy, RawJson, read_body},
    limits::{Class, Limits, Who},
    peer::ClientAddr,
    routes::Routes,
};

/// The table of these endpoints.
pub fn routes() -> Routes {
    let register = get(nonce).post(register).layer(Extension(Policy::CLIENT));
    [
        destinations::routes,
        devices::routes,
        media::routes,
        redactions::routes,
        reports::routes,
        room::routes,
        rooms::routes,
        server::routes,
        tokens::routes,
        user::routes,
        users::routes,
    ]
    .into_iter()
    .fold(notices::routes(), |all, section| all.merge(section()))
    .raw(Router::<AppState>::new().route("/_synapse/admin/v1/register", register))
}

async fn nonce(State(accounts): State<Arc<Accounts>>) -> Result<RawJson, ApiError> {
    if !accounts.shared_secret_enabled() {
        return Err(ApiError::unrecognized());
    }
    Ok(RawJson::of(
        &json!({ "nonce": accounts.shared_secret_nonce()? }),
    ))
}

#[derive(Deserialize)]
struct Registration {
    nonce: String,
    username: String,
    password: String,
    #[serde(default)]
    admin: bool,
    user_type: Option<String>,
    displayname: Option<String>,
    mac: String,
    #[serde(default)]
    inhibit_login: bool,
}

async fn register(
    State(accounts): State<Arc<Accounts>>,
    State(limits): State<Arc<Limits>>,
    request: Request<Body>,
) -> Result<RawJson, ApiError> {
    if !accounts.shared_secret_enabled() {
        return Err(ApiError::unrecognized());
    }
    let (parts, body) = request.into_parts();
    limits.take(
        Class::Register,
        true,
        Who::Address(ClientAddr::of(&parts).0),
    )?;
    let raw = read_body(&parts, body, Policy::of(&parts).body_bytes).await?;
    let body: Registration =
        serde_json::from_slice(&raw).map_err(|error| ApiError::unreadable(error.into(), &raw))?;
    let account = accounts.verify_shared_secret(&SharedSecretRequest {
        nonce: &body.nonce,
        username: &body.username,
        password: &body.password,
        admin: body.admin,
        user_type: body.user_type.as_deref(),
        mac: &body.mac,
    })?;
    let device = (!body.inhibit_login).then_some(DeviceRequest {
        device_id: None,
        display_name: None,
        refresh: false,
    });
    let account = NewAccount {
        device,
        display_name: body.displayname,
        ..account
    };
    let registered = accounts.register(account).await?;
    let mut answer = json!({
        "user_id": registered.user_id,
        "home_server": accounts.server_name(),
    });
    if let Some(login) = registered.login {
        answer["access_token"] = json!(login.access_token);
        answer["device_id"] = json!(login.device_id);
    }
    Ok(RawJson::of(&answer))
}
