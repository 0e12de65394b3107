//! Who types and who has read what: told to the servers in the room.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use resuni_rooms::{
    Membership, PresenceNow, ReceiptKind, RoomNum, RoomView, Typing,
    receipts::{RECEIPTS_IN_ORDER, ReceiptLog},
};
use resuni_store::LogEntry;
use ruma::{OwnedUserId, serde::Raw};
use serde_json::json;

use super::{Ephemeral, MAX_SERVERS, Shared, Subject};
use crate::error::FederationError;

/// A room's typists are not told to more servers than this: in a room that large nobody would read it.
const MAX_TYPING_SERVERS: usize = 500;

/// A receipt of one of our users, as the log has it. Private ones stay here.
pub(super) async fn dispatch_receipt(
    shared: &Arc<Shared>,
    entry: &LogEntry,
) -> Result<(), FederationError> {
    let Some(log) = ReceiptLog::from_bytes(&entry.payload) else {
        return Ok(());
    };
    if !log.local || log.kind != ReceiptKind::Read {
        return Ok(());
    }
    let Some(view) = shared.rooms.view_num(RoomNum(entry.scope)).await? else {
        return Ok(());
    };
    let row = (view.num(), entry.position);
    let Some(receipt) = view.snapshot().get(&RECEIPTS_IN_ORDER, &row).await? else {
        return Ok(()); // A newer one has taken its place and has an entry of its own.
    };
    let mut data = json!({ "ts": receipt.ts });
    if let Some(thread) = &receipt.thread {
        data["thread_id"] = json!(thread);
    }
    let content = json!({ view.room_id().as_str(): { "m.read": { receipt.user_id.as_str(): {
        "data": data, "event_ids": [receipt.event_id],
    } } } });
    let subject = Subject::Receipt(
        view.room_id().to_owned(),
        receipt.user_id.clone(),
        receipt.thread.clone(),
    );
    tell(shared, &view, MAX_SERVERS, "m.receipt", subject, &content).await
}

/// Follows who of our users types, and tells what changed.
pub(super) async fn run_typing(shared: &Arc<Shared>, typing: &Typing) {
    let mut told: HashMap<RoomNum, BTreeSet<OwnedUserId>> = HashMap::new();
    let mut watch = typing.watch();
    let mut serial = typing.serial();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            changed = watch.changed() => if changed.is_err() { return },
        }
        let newest = *watch.borrow_and_update();
        for room in typing.changed_since(serial) {
            let ours: BTreeSet<OwnedUserId> = typing
                .now(room)
                .users
                .into_iter()
                .filter(|user| user.server_name() == shared.origin)
                .collect();
            let before = told.remove(&room).unwrap_or_default();
            if let Err(error) = tell_typing(shared, room, &before, &ours).await {
                tracing::warn!(%error, "cannot tell other servers who types");
            }
            if !ours.is_empty() {
                told.insert(room, ours);
            }
        }
        serial = newest;
    }
}

async fn tell_typing(
    shared: &Arc<Shared>,
    room: RoomNum,
    before: &BTreeSet<OwnedUserId>,
    now: &BTreeSet<OwnedUserId>,
) -> Result<(), FederationError> {
    let changes: BTreeMap<&OwnedUserId, bool> = before
        .symmetric_difference(now)
        .map(|user| (user, now.contains(user)))
        .collect();
    if changes.is_empty() {
        return Ok(());
    }
    let Some(view) = shared.rooms.view_num(room).await? else {
        return Ok(());
    };
    for (user, typing) in changes {
        let content = json!({ "room_id": view.room_id(), "user_id": user, "typing": typing });
        let subject = Subject::Typing(view.room_id().to_owned(), user.clone());
        tell(
            shared,
            &view,
            MAX_TYPING_SERVERS,
            "m.typing",
            subject,
            &content,
        )
        .await?;
    }
    Ok(())
}

async fn tell(
    shared: &Arc<Shared>,
    view: &RoomView,
    limit: usize,
    kind: &str,
    subject: Subject,
    content: &serde_json::Value,
) -> Result<(), FederationError> {
    let edu = json!({ "edu_type": kind, "content": content });
    let edu = serde_json::value::to_raw_value(&edu)
        .map_err(|e| FederationError::Internal(e.to_string()))?;
    for server in view.servers(limit).await? {
        // Stale by the time the server is back; it asks for nothing of this kind either.
        if shared.backoff.wait_ms(&server).is_none() {
            let edu = Ephemeral {
                subject: subject.clone(),
                edu: Raw::from_json(edu.clone()),
            };
            shared.send_edu(&server, edu);
        }
    }
    Ok(())
}

/// Servers that are told of one person's presence: more would not be looked at.
const MAX_PRESENCE_SERVERS: usize = 500;
/// People whose change is told at once; of the rest the next change.
const MAX_PRESENCE: usize = 500;

/// Follows who of our users is there, and tells the servers they share a room with.
pub(super) async fn run_presence(shared: &Arc<Shared>) {
    let presence = shared.rooms.presence().clone();
    let mut watch = presence.watch();
    let mut serial = shared.rooms.typing().serial();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            changed = watch.changed() => if changed.is_err() { return },
        }
        let newest = *watch.borrow_and_update();
        for user in presence.changed_since(serial, MAX_PRESENCE) {
            if user.server_name() != shared.origin {
                continue;
            }
            if let Some(now) = presence.of(&user)
                && let Err(error) = tell_presence(shared, &user, &now).await
            {
                tracing::warn!(%error, "cannot tell other servers who is there");
            }
        }
        serial = newest;
    }
}

async fn tell_presence(
    shared: &Arc<Shared>,
    user: &OwnedUserId,
    now: &PresenceNow,
) -> Result<(), FederationError> {
    let mut servers = BTreeSet::new();
    for room in shared.rooms.rooms_of(user, &[Membership::Join]).await? {
        if servers.len() >= MAX_PRESENCE_SERVERS {
            break;
        }
        if let Some(view) = shared.rooms.view_num(room.num).await? {
            servers.extend(view.servers(MAX_PRESENCE_SERVERS).await?);
        }
    }
    let mut update = now.content();
    update["user_id"] = json!(user);
    if now.last_active_ago.is_none() {
        // It is required between servers.
        update["last_active_ago"] = json!(0);
    }
    let edu = json!({ "edu_type": "m.presence", "content": { "push": [update] } });
    let edu = serde_json::value::to_raw_value(&edu)
        .map_err(|e| FederationError::Internal(e.to_string()))?;
    for server in servers
        .into_iter()
        .filter(|server| *server != shared.origin)
    {
        if shared.backoff.wait_ms(&server).is_none() {
            let subject = Subject::Presence(user.clone());
            let edu = Raw::from_json(edu.clone());
            shared.send_edu(&server, Ephemeral { subject, edu });
        }
    }
    Ok(())
}
