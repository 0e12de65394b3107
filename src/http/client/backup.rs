//! Backups of room keys (Client-Server API, "Server-side key backups").

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use resuni_accounts::{
    Accounts,
    e2e::{Backup, BackupKeys, BackupPart},
};
use ruma::{
    UInt,
    api::client::backup::{
        RoomKeyBackup, add_backup_keys, add_backup_keys_for_room, add_backup_keys_for_session,
        create_backup_version, delete_backup_keys, delete_backup_keys_for_room,
        delete_backup_keys_for_session, delete_backup_version, get_backup_info, get_backup_keys,
        get_backup_keys_for_room, get_backup_keys_for_session, get_latest_backup_info,
        update_backup_version,
    },
};
use serde_json::{Map, Value, json};

use crate::{
    error::ApiError,
    extract::{Answer, Policy, RawJson, Reply, Ruma, json_object},
    routes::Routes,
};

/// Clients send some hundred keys at once.
const KEYS: Policy = Policy {
    body_bytes: 10 * 1024 * 1024,
    ..Policy::CLIENT
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(create)
        .on(latest)
        .on(info)
        .on(update)
        .on(delete)
        .with(KEYS, put_all)
        .with(KEYS, put_room)
        .on(put_session)
        .on(get_all)
        .on(get_room)
        .on(get_session)
        .on(delete_all)
        .on(delete_room)
        .on(delete_session)
}

/// A version as clients write it. One that no backup can have is none.
fn version(text: &str) -> Result<u64, ApiError> {
    text.parse()
        .map_err(|_| ApiError::not_found("There is no such key backup."))
}

fn count(backup: &Backup) -> UInt {
    UInt::try_from(backup.count).unwrap_or(UInt::MAX)
}

/// The algorithm and its data, in a body that says more.
fn algorithm(raw: &[u8]) -> Result<(Map<String, Value>, String, Value), ApiError> {
    let mut body = json_object(raw)?;
    let Some(Value::String(algorithm)) = body.remove("algorithm") else {
        return Err(ApiError::missing_param("The `algorithm` is missing."));
    };
    let auth_data = body.remove("auth_data").unwrap_or_default();
    if !auth_data.is_object() {
        return Err(ApiError::bad_json("The `auth_data` is an object."));
    }
    Ok((body, algorithm, auth_data))
}

async fn create(
    State(accounts): State<Arc<Accounts>>,
    Ruma { caller, raw, .. }: Ruma<create_backup_version::v3::Request>,
) -> Answer<create_backup_version::v3::Response> {
    let (_, algorithm, auth_data) = algorithm(&raw)?;
    let version = accounts
        .create_backup(caller.account, &algorithm, &auth_data)
        .await?;
    let version = version.to_string();
    Ok(Reply(create_backup_version::v3::Response::new(version)))
}

fn described(backup: &Backup) -> Result<RawJson, ApiError> {
    let auth_data: Value = serde_json::from_str(&backup.auth_data).map_err(ApiError::internal)?;
    Ok(RawJson::of(&json!({
        "algorithm": backup.algorithm,
        "auth_data": auth_data,
        "count": backup.count,
        "etag": backup.etag.to_string(),
        "version": backup.version.to_string(),
    })))
}

async fn latest(
    State(accounts): State<Arc<Accounts>>,
    Ruma { caller, .. }: Ruma<get_latest_backup_info::v3::Request>,
) -> Result<RawJson, ApiError> {
    described(&accounts.backup(caller.account, None).await?)
}

async fn info(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<get_backup_info::v3::Request>,
) -> Result<RawJson, ApiError> {
    let version = version(&body.version)?;
    described(&accounts.backup(caller.account, Some(version)).await?)
}

async fn update(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        body, caller, raw, ..
    }: Ruma<update_backup_version::v3::Request>,
) -> Answer<update_backup_version::v3::Response> {
    let (rest, algorithm, auth_data) = algorithm(&raw)?;
    let same = |said: &Value| said.as_str() == Some(&body.version);
    if !rest.get("version").is_none_or(same) {
        return Err(ApiError::invalid_param(
            "The version in the body is not that in the path.",
        ));
    }
    let version = version(&body.version)?;
    accounts
        .update_backup(caller.account, version, &algorithm, &auth_data)
        .await?;
    Ok(Reply(update_backup_version::v3::Response::new()))
}

async fn delete(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<delete_backup_version::v3::Request>,
) -> Answer<delete_backup_version::v3::Response> {
    let version = version(&body.version)?;
    accounts.delete_backup(caller.account, version).await?;
    Ok(Reply(delete_backup_version::v3::Response::new()))
}

fn read<T>(key: &ruma::serde::Raw<T>) -> Result<Value, ApiError> {
    key.deserialize_as_unchecked::<Value>()
        .map_err(|error| ApiError::bad_json(error.to_string()))
}

fn sessions(room: &RoomKeyBackup) -> Result<BTreeMap<String, Value>, ApiError> {
    let sessions = room.sessions.iter();
    sessions
        .map(|(session, key)| Ok((session.clone(), read(key)?)))
        .collect()
}

async fn put_all(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<add_backup_keys::v3::Request>,
) -> Answer<add_backup_keys::v3::Response> {
    let mut keys = BackupKeys::new();
    for (room, backup) in &body.rooms {
        keys.insert(room.to_string(), sessions(backup)?);
    }
    let version = version(&body.version)?;
    let backup = accounts
        .put_backup_keys(caller.account, version, &keys)
        .await?;
    let etag = backup.etag.to_string();
    let count = count(&backup);
    Ok(Reply(add_backup_keys::v3::Response::new(etag, count)))
}

async fn put_room(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<add_backup_keys_for_room::v3::Request>,
) -> Answer<add_backup_keys_for_room::v3::Response> {
    let sessions: Result<BTreeMap<String, Value>, ApiError> = body
        .sessions
        .iter()
        .map(|(session, key)| Ok((session.clone(), read(key)?)))
        .collect();
    let keys = BackupKeys::from([(body.room_id.to_string(), sessions?)]);
    let version = version(&body.version)?;
    let backup = accounts
        .put_backup_keys(caller.account, version, &keys)
        .await?;
    let etag = backup.etag.to_string();
    let count = count(&backup);
    Ok(Reply(add_backup_keys_for_room::v3::Response::new(
        etag, count,
    )))
}

async fn put_session(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<add_backup_keys_for_session::v3::Request>,
) -> Answer<add_backup_keys_for_session::v3::Response> {
    let session = BTreeMap::from([(body.session_id, read(&body.session_data)?)]);
    let keys = BackupKeys::from([(body.room_id.to_string(), session)]);
    let version = version(&body.version)?;
    let backup = accounts
        .put_backup_keys(caller.account, version, &keys)
        .await?;
    let etag = backup.etag.to_string();
    let count = count(&backup);
    Ok(Reply(add_backup_keys_for_session::v3::Response::new(
        etag, count,
    )))
}

async fn get_all(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<get_backup_keys::v3::Request>,
) -> Result<RawJson, ApiError> {
    let version = version(&body.version)?;
    let keys = accounts
        .backup_keys(caller.account, version, BackupPart::Everything)
        .await?;
    let rooms: Map<String, Value> = keys
        .into_iter()
        .map(|(room, sessions)| (room, json!({ "sessions": sessions })))
        .collect();
    Ok(RawJson::of(&json!({ "rooms": rooms })))
}

async fn get_room(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<get_backup_keys_for_room::v3::Request>,
) -> Result<RawJson, ApiError> {
    let version = version(&body.version)?;
    let part = BackupPart::Room(body.room_id.as_str());
    let mut keys = accounts.backup_keys(caller.account, version, part).await?;
    let sessions = keys.remove(body.room_id.as_str()).unwrap_or_default();
    Ok(RawJson::of(&json!({ "sessions": sessions })))
}

async fn get_session(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<get_backup_keys_for_session::v3::Request>,
) -> Result<RawJson, ApiError> {
    let version = version(&body.version)?;
    let (room, session) = (body.room_id.as_str(), body.session_id.as_str());
    let part = BackupPart::Session(room, session);
    let keys = accounts.backup_keys(caller.account, version, part).await?;
    let key = keys.get(room).and_then(|sessions| sessions.get(session));
    key.map(RawJson::of)
        .ok_or_else(|| ApiError::not_found("This key is not in the backup."))
}

async fn delete_all(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<delete_backup_keys::v3::Request>,
) -> Answer<delete_backup_keys::v3::Response> {
    let version = version(&body.version)?;
    let backup = accounts
        .delete_backup_keys(caller.account, version, BackupPart::Everything)
        .await?;
    let etag = backup.etag.to_string();
    let count = count(&backup);
    Ok(Reply(delete_backup_keys::v3::Response::new(etag, count)))
}

async fn delete_room(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<delete_backup_keys_for_room::v3::Request>,
) -> Answer<delete_backup_keys_for_room::v3::Response> {
    let version = version(&body.version)?;
    let part = BackupPart::Room(body.room_id.as_str());
    let backup = accounts
        .delete_backup_keys(caller.account, version, part)
        .await?;
    let etag = backup.etag.to_string();
    let count = count(&backup);
    Ok(Reply(delete_backup_keys_for_room::v3::Response::new(
        etag, count,
    )))
}

async fn delete_session(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<delete_backup_keys_for_session::v3::Request>,
) -> Answer<delete_backup_keys_for_session::v3::Response> {
    let version = version(&body.version)?;
    let part = BackupPart::Session(body.room_id.as_str(), &body.session_id);
    let backup = accounts
        .delete_backup_keys(caller.account, version, part)
        .await?;
    let etag = backup.etag.to_string();
    let count = count(&backup);
    Ok(Reply(delete_backup_keys_for_session::v3::Response::new(
        etag, count,
    )))
}
