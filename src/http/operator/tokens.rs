//! Registration tokens, in the form of Synapse's admin API.

use std::sync::Arc;

use axum::extract::State;
use http::Method;
use resuni_accounts::{Accounts, NewRegistrationToken, RegistrationToken};
use resuni_rooms::Rooms;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Asked, Named, Operator, Sent, given};
use crate::{error::ApiError, extract::RawJson, routes::Routes};

/// The table of these endpoints.
pub fn routes() -> Routes {
    const ALL: &str = "/_synapse/admin/v1/registration_tokens";
    const ONE: &str = "/_synapse/admin/v1/registration_tokens/{token}";
    Routes::new()
        .operator(Method::GET, ALL, list)
        .operator(
            Method::POST,
            "/_synapse/admin/v1/registration_tokens/new",
            create,
        )
        .operator(Method::GET, ONE, show)
        .operator(Method::PUT, ONE, change)
        .operator(Method::DELETE, ONE, delete)
}

fn described(token: &RegistrationToken) -> Value {
    json!({
        "token": token.token,
        "uses_allowed": token.uses_allowed,
        "pending": token.pending,
        "completed": token.used,
        "expiry_time": token.expires_ms,
    })
}

fn unknown() -> ApiError {
    ApiError::not_found("There is no such registration token.")
}

#[derive(Deserialize)]
struct Which {
    valid: Option<bool>,
}

async fn list(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Asked(which): Asked<Which>,
) -> Result<RawJson, ApiError> {
    let now = rooms.now_ms();
    let tokens = accounts.registration_tokens().await?;
    let wanted = tokens.iter().filter(|token| {
        let wanted = which.valid;
        wanted.is_none_or(|valid| valid == token.is_valid(now))
    });
    let tokens: Vec<Value> = wanted.map(described).collect();
    Ok(RawJson::of(&json!({ "registration_tokens": tokens })))
}

#[derive(Deserialize)]
struct New {
    token: Option<String>,
    length: Option<usize>,
    uses_allowed: Option<u64>,
    expiry_time: Option<u64>,
}

async fn create(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Sent(new): Sent<New>,
) -> Result<RawJson, ApiError> {
    let new = NewRegistrationToken {
        token: new.token,
        length: new.length,
        uses_allowed: new.uses_allowed,
        expires_ms: new.expiry_time,
    };
    let token = accounts.create_registration_token(new).await?;
    Ok(RawJson::of(&described(&token)))
}

async fn show(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(token): Named<String>,
) -> Result<RawJson, ApiError> {
    let token = accounts.registration_token(&token).await?;
    Ok(RawJson::of(&described(&token.ok_or_else(unknown)?)))
}

/// Limits that are left out stay; `null` is no limit.
#[derive(Deserialize)]
struct Change {
    #[serde(default, deserialize_with = "given")]
    uses_allowed: Option<Option<u64>>,
    #[serde(default, deserialize_with = "given")]
    expiry_time: Option<Option<u64>>,
}

async fn change(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(token): Named<String>,
    Sent(change): Sent<Change>,
) -> Result<RawJson, ApiError> {
    let token = accounts
        .limit_registration_token(&token, change.uses_allowed, change.expiry_time)
        .await?;
    Ok(RawJson::of(&described(&token.ok_or_else(unknown)?)))
}

async fn delete(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(token): Named<String>,
) -> Result<RawJson, ApiError> {
    if accounts.registration_token(&token).await?.is_none() {
        return Err(unknown());
    }
    accounts.delete_registration_token(&token).await?;
    Ok(RawJson::of(&json!({})))
}
