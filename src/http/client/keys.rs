//! Keys for end-to-end encryption (Client-Server API, "End-to-End Encryption").
//!
//! Keys are passed on as the JSON that came: fields that ruma's types don't know are signed too.

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use http::Method;
use resuni_accounts::{
    AccountNum, Accounts,
    e2e::{CrossSigningUpload, KeyUpload, SignatureFailure, UserKeys},
};
use resuni_federation::Federation;
use resuni_sync::{Sync, SyncToken, Who};
use ruma::{
    DeviceId, OwnedUserId,
    api::client::keys::{
        claim_keys, get_key_changes, get_keys, upload_keys, upload_signatures, upload_signing_keys,
    },
};
use serde_json::{Map, Value, json};

use super::{
    remote_keys::{self, RemoteKeys},
    uia::Unconfirmed,
};
use crate::{
    error::ApiError,
    extract::{Answer, Policy, RawJson, Reply, Ruma, json_object},
    limits::Class,
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    let keys = Policy::GUEST.class(Class::Keys);
    Routes::new()
        .with(keys, upload)
        .with(keys, query)
        .with(keys, claim)
        .with(Policy::CLIENT.confirmed(), upload_cross_signing)
        .with(Policy::CLIENT.class(Class::Keys), sign)
        .guest(changes)
}

/// A member of the body that has to be an object if it is there.
pub fn object(
    body: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<Map<String, Value>>, ApiError> {
    match body.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(ApiError::bad_json(format!("\"{name}\" is not an object."))),
    }
}

/// Application services may act without a device; then they have no keys (Application Service API,
/// "Identity assertion").
fn no_device() -> ApiError {
    ApiError::invalid_param("A request about keys has to come from a device.")
}

async fn upload(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        body, caller, raw, ..
    }: Ruma<upload_keys::v3::Request>,
) -> Result<RawJson, ApiError> {
    // Keys without the fields they must have are refused here, and then kept as they came.
    if let Some(keys) = body.device_keys {
        keys.deserialize()
            .map_err(|error| ApiError::bad_json(error.to_string()))?;
    }
    let mut body = json_object(&raw)?;
    let upload = KeyUpload {
        device_keys: object(&mut body, "device_keys")?,
        one_time_keys: object(&mut body, "one_time_keys")?.unwrap_or_default(),
        fallback_keys: object(&mut body, "fallback_keys")?.unwrap_or_default(),
    };
    let device = caller.device_id.as_deref().ok_or_else(no_device)?;
    let counts = accounts
        .upload_keys(caller.account, device, &upload)
        .await?;
    Ok(RawJson::of(&json!({ "one_time_key_counts": counts })))
}

async fn query(
    State(accounts): State<Arc<Accounts>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, caller, .. }: Ruma<get_keys::v3::Request>,
) -> Result<RawJson, ApiError> {
    let mut answer = Map::new();
    let mut remote = remote_keys::Wanted::new();
    for (user, devices) in body.device_keys {
        if user.server_name() != accounts.server_name() {
            let server = user.server_name().to_owned();
            remote.entry(server).or_default().insert(user, devices);
        } else if let Some(account) = accounts.find_user(&user).await? {
            let devices: Vec<&DeviceId> = devices.iter().map(|device| &**device).collect();
            let keys = accounts
                .query_keys(account, &devices, Some(caller.account))
                .await?;
            add_keys(&mut answer, &user, keys);
        } else {
            // Nobody is somebody without devices, as for users of other servers.
            add(&mut answer, "device_keys", &user, Map::new());
        }
    }
    let (remote, failures) =
        remote_keys::query(federation.as_deref(), remote, body.timeout).await?;
    add_remote(&accounts, caller.account, &mut answer, remote).await?;
    answer.insert("failures".to_owned(), Value::Object(failures));
    answer
        .entry("device_keys")
        .or_insert_with(|| Value::Object(Map::new()));
    Ok(RawJson::of(&Value::Object(answer)))
}

/// Adds the keys of users of other servers, with what the reader has said about them.
async fn add_remote(
    accounts: &Accounts,
    reader: AccountNum,
    answer: &mut Map<String, Value>,
    mut remote: RemoteKeys,
) -> Result<(), ApiError> {
    let snapshot = accounts.store().snapshot();
    for (user, master) in &mut remote.master_keys {
        accounts
            .add_own_signatures(&snapshot, reader, user.as_str(), master)
            .await?;
    }
    for (name, part) in [
        ("device_keys", remote.device_keys),
        ("master_keys", remote.master_keys),
        ("self_signing_keys", remote.self_signing_keys),
    ] {
        for (user, keys) in part {
            add(answer, name, &user, keys);
        }
    }
    Ok(())
}

fn add_keys(answer: &mut Map<String, Value>, user: &OwnedUserId, keys: UserKeys) {
    let devices = keys.devices.into_iter();
    let devices = devices
        .map(|(id, keys)| (id, Value::Object(keys)))
        .collect();
    let parts = [
        ("device_keys", Some(devices)),
        ("master_keys", keys.master),
        ("self_signing_keys", keys.self_signing),
        ("user_signing_keys", keys.user_signing),
    ];
    for (name, part) in parts {
        if let Some(part) = part {
            add(answer, name, user, part);
        }
    }
}

fn add(answer: &mut Map<String, Value>, name: &str, user: &OwnedUserId, keys: Map<String, Value>) {
    let all = answer
        .entry(name)
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(all) = all.as_object_mut() {
        all.insert(user.to_string(), Value::Object(keys));
    }
}

async fn claim(
    State(accounts): State<Arc<Accounts>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, .. }: Ruma<claim_keys::v3::Request>,
) -> Result<RawJson, ApiError> {
    let mut claimed = BTreeMap::new();
    let mut remote = remote_keys::Wanted::new();
    for (user, devices) in body.one_time_keys {
        if user.server_name() != accounts.server_name() {
            let server = user.server_name().to_owned();
            remote.entry(server).or_default().insert(user, devices);
        } else if let Some(account) = accounts.find_user(&user).await? {
            let wanted: Vec<(&DeviceId, &str)> = devices
                .iter()
                .map(|(device, algorithm)| (&**device, algorithm.as_str()))
                .collect();
            let keys = accounts.claim_keys(account, &wanted).await?;
            if !keys.is_empty() {
                claimed.insert(user, json!(keys));
            }
        }
    }
    let (remote, failures) = remote_keys::claim(federation.as_deref(), remote, body.timeout).await;
    let remote = remote.into_iter();
    claimed.extend(remote.map(|(user, keys)| (user, Value::Object(keys))));
    Ok(RawJson::of(
        &json!({ "one_time_keys": claimed, "failures": failures }),
    ))
}

async fn upload_cross_signing(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        caller, raw, uri, ..
    }: Ruma<upload_signing_keys::v3::Request>,
) -> Result<RawJson, ApiError> {
    let mut body = json_object(&raw)?;
    let upload = CrossSigningUpload {
        master: object(&mut body, "master_key")?,
        self_signing: object(&mut body, "self_signing_key")?,
        user_signing: object(&mut body, "user_signing_key")?,
    };
    if accounts
        .cross_signing_needs_auth(caller.account, &upload)
        .await?
    {
        let request = Unconfirmed {
            method: Method::POST,
            uri: &uri,
            raw: &raw,
        };
        request.confirm_password(&accounts, &caller).await?;
    }
    accounts
        .upload_cross_signing(caller.account, &upload)
        .await?;
    Ok(RawJson::of(&json!({})))
}

async fn sign(
    State(accounts): State<Arc<Accounts>>,
    Ruma { caller, raw, .. }: Ruma<upload_signatures::v3::Request>,
) -> Result<RawJson, ApiError> {
    let signed: BTreeMap<OwnedUserId, BTreeMap<String, Map<String, Value>>> =
        serde_json::from_slice(&raw).map_err(|error| ApiError::bad_json(error.to_string()))?;
    let failures = accounts.upload_signatures(caller.account, &signed).await?;
    let failures: BTreeMap<_, BTreeMap<_, _>> = failures
        .into_iter()
        .map(|(user, keys)| {
            let keys = keys.into_iter();
            (user, keys.map(|(id, why)| (id, failure(why))).collect())
        })
        .collect();
    Ok(RawJson::of(&json!({ "failures": failures })))
}

/// Who shares a room with the caller and has changed their keys.
async fn changes(
    State(sync): State<Arc<Sync>>,
    Ruma { body, caller, .. }: Ruma<get_key_changes::v3::Request>,
) -> Answer<get_key_changes::v3::Response> {
    let token = |text: &str| {
        text.parse::<SyncToken>()
            .map_err(|_| ApiError::invalid_param("`from` and `to` have to be tokens of a sync."))
    };
    let who = Who {
        user: &caller.user_id,
        account: caller.account,
        device: caller.device_id.as_deref(),
    };
    token(&body.to)?;
    let lists = sync.key_changes(who, token(&body.from)?).await?;
    Ok(Reply(get_key_changes::v3::Response::new(
        lists.changed,
        lists.left,
    )))
}

fn failure(why: SignatureFailure) -> Value {
    match why {
        SignatureFailure::Invalid => json!({
            "errcode": "M_INVALID_SIGNATURE",
            "error": "There is no valid signature by a key that may sign this one.",
        }),
        SignatureFailure::UnknownKey => json!({
            "errcode": "M_NOT_FOUND",
            "error": "There is no such key, or it is another one.",
        }),
    }
}
