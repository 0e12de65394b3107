//! What is done with one account, in the form of Synapse's admin API.

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use http::{Method, StatusCode};
use resuni_accounts::{Accounts, OwnRate, Restriction};
use resuni_federation::Federation;
use resuni_rooms::{Membership, Rooms};
use ruma::{OwnedUserId, UserId, api::error::ErrorCode};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    extract::{Asked, Named, Operator, Sent},
    users::set_admin_of,
};
use crate::{
    client::{end_account, where_seen},
    error::ApiError,
    extract::RawJson,
    routes::Routes,
};

/// The table of these endpoints.
pub fn routes() -> Routes {
    const ADMIN: &str = "/_synapse/admin/v1/users/{user}/admin";
    const RATE: &str = "/_synapse/admin/v1/users/{user}/override_ratelimit";
    Routes::new()
        .operator(Method::GET, ADMIN, is_admin)
        .operator(Method::PUT, ADMIN, set_admin)
        .operator(Method::GET, RATE, rate)
        .operator(Method::POST, RATE, set_rate)
        .operator(Method::DELETE, RATE, delete_rate)
        .operator(
            Method::GET,
            "/_synapse/admin/v1/users/{user}/joined_rooms",
            joined_rooms,
        )
        .operator(
            Method::GET,
            "/_synapse/admin/v1/users/{user}/memberships",
            memberships,
        )
        .operator(
            Method::GET,
            "/_synapse/admin/v1/users/{user}/accountdata",
            account_data,
        )
        .operator(
            Method::POST,
            "/_synapse/admin/v1/users/{user}/login",
            login_as,
        )
        .operator(
            Method::POST,
            "/_synapse/admin/v1/users/{user}/_allow_cross_signing_replacement_without_uia",
            allow_replacing_keys,
        )
        .operator(
            Method::POST,
            "/_synapse/admin/v1/deactivate/{user}",
            deactivate,
        )
        .operator(
            Method::POST,
            "/_synapse/admin/v1/reset_password/{user}",
            reset_password,
        )
        .operator(Method::PUT, "/_synapse/admin/v1/suspend/{user}", suspend)
        .operator(Method::GET, "/_synapse/admin/v1/whois/{user}", whois)
        .operator(
            Method::GET,
            "/_synapse/admin/v1/username_available",
            available,
        )
        .operator(
            Method::GET,
            "/_synapse/admin/v1/threepid/{medium}/users/{address}",
            of_address,
        )
}

fn nothing() -> RawJson {
    RawJson::of(&json!({}))
}

async fn is_admin(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    let row = accounts.account(account).await?;
    let is = row.is_some_and(|row| row.admin);
    Ok(RawJson::of(&json!({ "admin": is })))
}

#[derive(Deserialize)]
struct Admin {
    admin: bool,
}

async fn set_admin(
    Operator(by): Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
    Sent(wanted): Sent<Admin>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    set_admin_of(&accounts, &by, account, wanted.admin).await?;
    Ok(nothing())
}

fn described(rate: OwnRate) -> RawJson {
    RawJson::of(&json!({
        "messages_per_second": rate.messages_per_second,
        "burst_count": rate.burst_count,
    }))
}

async fn rate(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    Ok(accounts.own_rate(account).map_or_else(nothing, described))
}

#[derive(Deserialize)]
struct Rate {
    #[serde(default)]
    messages_per_second: u32,
    #[serde(default)]
    burst_count: u32,
}

async fn set_rate(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
    Sent(wanted): Sent<Rate>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    let rate = OwnRate {
        messages_per_second: wanted.messages_per_second,
        burst_count: wanted.burst_count,
    };
    accounts.set_own_rate(account, Some(rate)).await?;
    Ok(described(rate))
}

async fn delete_rate(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    accounts.set_own_rate(account, None).await?;
    Ok(nothing())
}

/// Of users of other servers too: of the rooms that ours are in.
async fn joined_rooms(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(user): Named<OwnedUserId>,
) -> Result<RawJson, ApiError> {
    let joined = rooms.rooms_of(&user, &[Membership::Join]).await?;
    let ids: Vec<_> = joined.into_iter().map(|room| room.room_id).collect();
    let total = ids.len();
    Ok(RawJson::of(&json!({ "joined_rooms": ids, "total": total })))
}

async fn memberships(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(user): Named<OwnedUserId>,
) -> Result<RawJson, ApiError> {
    let all = rooms.rooms_of(&user, &[]).await?;
    let all: BTreeMap<_, _> = all
        .into_iter()
        .map(|room| (room.room_id, room.row.membership.as_str()))
        .collect();
    Ok(RawJson::of(&json!({ "memberships": all })))
}

async fn account_data(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
) -> Result<RawJson, ApiError> {
    type Types = BTreeMap<String, Box<RawValue>>;
    let account = accounts.local_account(&user).await?;
    let snapshot = accounts.store().snapshot();
    let (mut global, mut rooms) = (Types::new(), BTreeMap::<String, Types>::new());
    for change in accounts.all_account_data(&snapshot, account).await? {
        let types = match change.room {
            Some(room) => rooms.entry(room).or_default(),
            None => &mut global,
        };
        types.insert(change.event.kind, change.event.content);
    }
    RawJson::written(&json!({ "account_data": { "global": global, "rooms": rooms } }))
}

#[derive(Deserialize)]
struct LoginAs {
    valid_until_ms: Option<u64>,
}

async fn login_as(
    Operator(by): Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
    Sent(wanted): Sent<LoginAs>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    if account == by.account {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::Unknown,
            "You are logged in as yourself already.",
        ));
    }
    let token = accounts.login_as(account, wanted.valid_until_ms).await?;
    Ok(RawJson::of(&json!({ "access_token": token })))
}

#[derive(Deserialize)]
struct End {
    #[serde(default)]
    erase: bool,
}

async fn deactivate(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Named(user): Named<OwnedUserId>,
    Sent(wanted): Sent<End>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    let federation = federation.as_deref();
    end_account(&accounts, &rooms, federation, account, &user, wanted.erase).await?;
    Ok(RawJson::of(
        &json!({ "id_server_unbind_result": "success" }),
    ))
}

async fn allow_replacing_keys(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    let until = accounts.allow_replacing_keys(account).await?;
    let until =
        until.ok_or_else(|| ApiError::not_found("This user has no cross-signing master key."))?;
    Ok(RawJson::of(
        &json!({ "updatable_without_uia_before_ms": until }),
    ))
}

#[derive(Deserialize)]
struct Password {
    new_password: String,
    #[serde(default = "yes")]
    logout_devices: bool,
}

fn yes() -> bool {
    true
}

async fn reset_password(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
    Sent(wanted): Sent<Password>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    accounts
        .set_password(account, &wanted.new_password, wanted.logout_devices, None)
        .await?;
    Ok(nothing())
}

#[derive(Deserialize)]
struct Suspend {
    suspend: bool,
}

async fn suspend(
    Operator(by): Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
    Sent(wanted): Sent<Suspend>,
) -> Result<RawJson, ApiError> {
    let suspend = wanted.suspend;
    accounts
        .restrict(&by, &user, Restriction::Suspended, suspend)
        .await?;
    let key = format!("user_{user}_suspended");
    Ok(RawJson::of(&json!({ key: suspend })))
}

async fn whois(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
) -> Result<RawJson, ApiError> {
    let account = accounts.local_account(&user).await?;
    Ok(RawJson::of(&where_seen(&accounts, account, &user).await?))
}

#[derive(Deserialize)]
struct Name {
    username: String,
}

/// As `/register/available`, which may be shut to others.
async fn available(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Asked(asked): Asked<Name>,
) -> Result<RawJson, ApiError> {
    accounts.available(&asked.username).await?;
    Ok(RawJson::of(&json!({ "available": true })))
}

async fn of_address(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named((medium, address)): Named<(String, String)>,
) -> Result<RawJson, ApiError> {
    let unknown = || ApiError::not_found("Nobody here has this address.");
    let owner = match medium.as_str() {
        "email" => accounts.owner_of(&address.to_lowercase()).await?,
        _ => None,
    };
    let user: Option<OwnedUserId> = match owner {
        Some(owner) => accounts.user_of(owner).await?,
        None => None,
    };
    let user: &UserId = user.as_deref().ok_or_else(unknown)?;
    let answer: Value = json!({ "user_id": user });
    Ok(RawJson::of(&answer))
}
