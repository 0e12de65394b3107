//! Telling other servers whose devices changed (server-server API, "Device Management"): "sent to all the
//! servers who share a room with a given local user […] whenever that user's device list changes […]
//! when that user joins a room which contains servers which are not already receiving updates".

use std::{collections::BTreeSet, sync::Arc};

use resuni_accounts::{AccountNum, e2e::DeviceListChanged};
use resuni_rooms::{
    Membership, RoomNum, membership_of,
    tables::{EventLog, WholeLog},
};
use resuni_store::{Batch, LogEntry, Position};
use ruma::{OwnedServerName, UserId};
use serde_json::{Value, json};

use super::{MAX_SERVERS, Shared};
use crate::{error::FederationError, tables::DEVICE_STREAMS};

/// Local members of one room.
const MAX_LOCAL: usize = 100_000;

/// The devices or the cross-signing keys of one of our users changed.
pub(super) async fn changed(shared: &Arc<Shared>, entry: &LogEntry) -> Result<(), FederationError> {
    let Ok(change) = postcard::from_bytes::<DeviceListChanged>(&entry.payload) else {
        return Ok(());
    };
    let Ok(user) = UserId::parse(&change.user_id) else {
        return Ok(());
    };
    if user.server_name() != shared.origin {
        return Ok(());
    }
    let Some(account) = shared.accounts.find(user.localpart()).await? else {
        return Ok(());
    };
    let servers = servers_of(shared, &user, None).await?;
    if servers.is_empty() {
        return Ok(());
    }
    let mut edus = Vec::new();
    if change.devices.is_empty() {
        edus.extend(cross_signing_update(shared, &user, account).await?);
    }
    edus.extend(updates(shared, &user, account, &change.devices, entry.position).await?);
    tell(shared, &servers, &edus).await
}

/// Users of ours joined a room: its servers that shared none with them before learn of their devices.
pub(super) async fn joined(
    shared: &Arc<Shared>,
    room: RoomNum,
    log: &EventLog,
    position: Position,
) -> Result<(), FederationError> {
    let Some(view) = shared.rooms.view_num(room).await? else {
        return Ok(());
    };
    let servers: BTreeSet<_> = view.servers(MAX_SERVERS).await?.into_iter().collect();
    if !servers.iter().any(|server| shared.is_destination(server)) {
        return Ok(());
    }
    let Some(join) = view.pdus(&[log.event]).await?.pop() else {
        return Ok(());
    };
    if membership_of(&join) != Some(Membership::Join) {
        return Ok(());
    }
    let user = join.state_key().and_then(|key| UserId::parse(key).ok());
    let Some(user) = user.filter(|user| user.server_name() == shared.origin) else {
        return Ok(());
    };
    let before = view.state_before(join.event_id()).await?;
    let before = before.get("m.room.member", user.as_str()).await?;
    if before.as_ref().and_then(membership_of) == Some(Membership::Join) {
        return Ok(()); // A new name is no join.
    }
    let Some(account) = shared.accounts.find(user.localpart()).await? else {
        return Ok(());
    };
    let known = servers_of(shared, &user, Some(room)).await?;
    let new: BTreeSet<_> = servers.difference(&known).cloned().collect();
    if !new.iter().any(|server| shared.is_destination(server)) {
        return Ok(());
    }
    // A device without keys can't be encrypted for: as long as it is not certain who is in the room, it can wait.
    let all = !view.is_partial();
    introduce(shared, (&user, account), &new, all, position).await
}

/// The members of a partial room have arrived. Servers that we did not know to be in it missed what was said of the
/// devices of our users meanwhile, also if they have left since (MSC3902).
pub(super) async fn came_whole(
    shared: &Arc<Shared>,
    room: RoomNum,
    entry: &LogEntry,
) -> Result<(), FederationError> {
    let (Some(view), Some(log)) = (
        shared.rooms.view_num(room).await?,
        WholeLog::from_bytes(&entry.payload),
    ) else {
        return Ok(());
    };
    let mut missed = BTreeSet::new();
    for server in log.missed {
        missed.extend(view.server_name_of(server).await?);
    }
    missed.retain(|server| shared.is_destination(server));
    if missed.is_empty() {
        return Ok(());
    }
    for user in view.local_members(MAX_LOCAL).await? {
        let Some(account) = shared.accounts.find(user.localpart()).await? else {
            continue;
        };
        let changed = shared.accounts.device_list_position(&user).await?;
        let changed = changed.is_some_and(|changed| changed > log.since);
        introduce(shared, (&user, account), &missed, changed, entry.position).await?;
    }
    Ok(())
}

/// Tells servers of a user's devices: of those that can be encrypted for, or of all.
async fn introduce(
    shared: &Arc<Shared>,
    (user, account): (&UserId, AccountNum),
    servers: &BTreeSet<OwnedServerName>,
    all: bool,
    position: Position,
) -> Result<(), FederationError> {
    let keys = shared.accounts.query_keys(account, &[], None).await?;
    let with_keys = |device: &str| keys.devices.keys().any(|known| known.as_str() == device);
    let devices = shared.accounts.devices(account).await?;
    let devices: Vec<_> = devices
        .into_iter()
        .map(|device| device.device_id.to_string())
        .filter(|device| all || with_keys(device))
        .map(|device| (device, false))
        .collect();
    let mut edus = updates(shared, user, account, &devices, position).await?;
    edus.extend(cross_signing_update(shared, user, account).await?);
    tell(shared, servers, &edus).await
}

async fn tell(
    shared: &Arc<Shared>,
    servers: &BTreeSet<OwnedServerName>,
    edus: &[Value],
) -> Result<(), FederationError> {
    let pairs = servers
        .iter()
        .flat_map(|server| edus.iter().map(|edu| (server.clone(), edu.clone())));
    shared.store_edus(pairs.collect(), false).await
}

async fn cross_signing_update(
    shared: &Shared,
    user: &UserId,
    account: AccountNum,
) -> Result<Option<Value>, FederationError> {
    let keys = shared.accounts.query_keys(account, &[], None).await?;
    if keys.master.is_none() && keys.self_signing.is_none() {
        return Ok(None);
    }
    let content = json!({
        "user_id": user, "master_key": keys.master, "self_signing_key": keys.self_signing,
    });
    Ok(Some(
        json!({ "edu_type": "m.signing_key_update", "content": content }),
    ))
}

/// An update for each device, chained by their stream ids.
async fn updates(
    shared: &Shared,
    user: &UserId,
    account: AccountNum,
    devices: &[(String, bool)],
    position: Position,
) -> Result<Vec<Value>, FederationError> {
    let row = user.to_string();
    let last = shared.store.snapshot().get(&DEVICE_STREAMS, &row).await?;
    let mut previous = last;
    let mut edus = Vec::with_capacity(devices.len());
    for (device, deleted) in devices {
        let stream_id = previous.map_or(0, |id| id + 1).max(position.0);
        let mut content = json!({
            "user_id": user, "device_id": device, "stream_id": stream_id,
            "prev_id": previous.into_iter().collect::<Vec<u64>>(), "deleted": deleted,
        });
        if !deleted {
            describe(shared, account, device, &mut content).await?;
        }
        edus.push(json!({ "edu_type": "m.device_list_update", "content": content }));
        previous = Some(stream_id);
    }
    if let Some(newest) = previous.filter(|_| previous != last) {
        let mut batch = Batch::new();
        batch.put(&DEVICE_STREAMS, &row, &newest);
        // Written again if it is lost: the log entry is handed out anew then.
        let _applied = shared.store.commit(batch).await?;
    }
    Ok(edus)
}

/// The keys of a device and its name.
async fn describe(
    shared: &Shared,
    account: AccountNum,
    device: &str,
    content: &mut Value,
) -> Result<(), FederationError> {
    let keys = shared
        .accounts
        .query_keys(account, &[device.into()], None)
        .await?;
    if let Some(mut keys) = keys.devices.into_values().next() {
        // The name travels beside the keys, which are as the device signed them.
        keys.remove("unsigned");
        content["keys"] = Value::Object(keys);
    }
    let device = shared.accounts.device(account, device.into()).await?;
    if let Some(name) = device.and_then(|device| device.display_name) {
        content["device_display_name"] = Value::String(name);
    }
    Ok(())
}

/// The servers of all rooms that a user of ours is joined to, but for one.
async fn servers_of(
    shared: &Shared,
    user: &UserId,
    but: Option<RoomNum>,
) -> Result<BTreeSet<OwnedServerName>, FederationError> {
    let mut servers = BTreeSet::new();
    for room in shared.rooms.rooms_of(user, &[Membership::Join]).await? {
        if Some(room.num) == but {
            continue;
        }
        if let Some(view) = shared.rooms.view_num(room.num).await? {
            servers.extend(view.servers(MAX_SERVERS).await?);
        }
    }
    servers.remove(&shared.origin);
    Ok(servers)
}
