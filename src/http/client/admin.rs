//! What operators see and do of accounts (Client-Server API, "Server Administration").

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::{AccountNum, Accounts, Restriction};
use ruma::{
    UserId,
    api::client::admin::{
        get_user_info, is_user_locked, is_user_suspended, lock_user, suspend_user,
    },
};
use serde_json::{Map, Value, json};

use crate::{
    error::ApiError,
    extract::{Answer, RawJson, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(is_locked)
        .on(lock)
        .on(is_suspended)
        .on(suspend)
        .on(whois)
}

async fn is_locked(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<is_user_locked::v1::Request>,
) -> Answer<is_user_locked::v1::Response> {
    let is = accounts
        .is_restricted(&caller, &body.user_id, Restriction::Locked)
        .await?;
    Ok(Reply(is_user_locked::v1::Response::new(is)))
}

async fn lock(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<lock_user::v1::Request>,
) -> Answer<lock_user::v1::Response> {
    accounts
        .restrict(&caller, &body.user_id, Restriction::Locked, body.locked)
        .await?;
    Ok(Reply(lock_user::v1::Response::new(body.locked)))
}

async fn is_suspended(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<is_user_suspended::v1::Request>,
) -> Answer<is_user_suspended::v1::Response> {
    let is = accounts
        .is_restricted(&caller, &body.user_id, Restriction::Suspended)
        .await?;
    Ok(Reply(is_user_suspended::v1::Response::new(is)))
}

async fn suspend(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<suspend_user::v1::Request>,
) -> Answer<suspend_user::v1::Response> {
    let suspended = body.suspended;
    accounts
        .restrict(&caller, &body.user_id, Restriction::Suspended, suspended)
        .await?;
    Ok(Reply(suspend_user::v1::Response::new(suspended)))
}

/// Where somebody was last seen: of themselves, or of anybody for an operator.
async fn whois(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<get_user_info::v3::Request>,
) -> Result<RawJson, ApiError> {
    let account = if body.user_id == caller.user_id {
        caller.account
    } else {
        accounts.require_operator(&caller)?;
        accounts.local_account(&body.user_id).await?
    };
    let seen = where_seen(&accounts, account, &body.user_id).await?;
    Ok(RawJson::of(&seen))
}

/// Where the devices of an account were last seen.
pub async fn where_seen(
    accounts: &Accounts,
    account: AccountNum,
    user: &UserId,
) -> Result<Value, ApiError> {
    let devices = accounts.devices(account).await?;
    let devices: Map<String, Value> = devices
        .into_iter()
        .map(|device| {
            let mut connections = Vec::new();
            if let (Some(ip), Some(seen)) = (device.last_seen_ip, device.last_seen_ms) {
                let mut connection = json!({ "ip": ip, "last_seen": seen });
                if let Some(program) = device.user_agent {
                    connection["user_agent"] = program.into();
                }
                connections.push(connection);
            }
            let sessions = json!({ "sessions": [{ "connections": connections }] });
            (device.device_id.to_string(), sessions)
        })
        .collect();
    Ok(json!({ "user_id": user, "devices": devices }))
}
