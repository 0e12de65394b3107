//! Ephemeral messages of other servers. A server speaks for its own users only.

use resuni_accounts::{Accounts, e2e::MessageId};
use resuni_rooms::{
    Membership, PresenceNow, PresenceState, Receipt, ReceiptKind, Rooms, Typing,
    presence::MAX_STATUS_BYTES,
};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, UserId,
    api::federation::transactions::edu::Edu, serde::Raw,
};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

use crate::{acl, error::FederationError};

/// How long somebody counts as typing unless more is heard. The message has no time of its own.
const TYPING_MS: u64 = 30_000;
/// People that are read out of one message about presence.
const MAX_PRESENCE: usize = 500;
/// Receipts that are read out of one message.
const MAX_RECEIPTS: usize = 500;

/// Takes an ephemeral message in.
///
/// # Errors
/// When it makes no sense or the server may not say it.
pub(crate) async fn receive(
    to: &Receivers,
    origin: &ServerName,
    edu: &Raw<Edu>,
) -> Result<(), FederationError> {
    #[derive(Deserialize)]
    struct Typed<'a> {
        edu_type: String,
        #[serde(borrow)]
        content: &'a serde_json::value::RawValue,
    }
    let bad = |e: serde_json::Error| FederationError::bad_json(e.to_string());
    let Typed { edu_type, content } = serde_json::from_str(edu.json().get()).map_err(bad)?;
    let (rooms, json) = (&*to.rooms, content.get());
    match edu_type.as_str() {
        "m.typing" => {
            let content = serde_json::from_str(json).map_err(bad)?;
            receive_typing(rooms, &to.typing, origin, content).await
        }
        "m.receipt" => {
            receive_receipts(rooms, origin, serde_json::from_str(json).map_err(bad)?).await
        }
        "m.direct_to_device" => {
            let content = serde_json::from_str(json).map_err(bad)?;
            receive_to_device(&to.accounts, origin, content).await
        }
        "m.device_list_update" | "m.signing_key_update" => {
            receive_keys_changed(to, origin, serde_json::from_str(json).map_err(bad)?).await
        }
        "m.presence" => {
            receive_presence(rooms, origin, serde_json::from_str(json).map_err(bad)?).await
        }
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
struct PresenceContent {
    push: Vec<PresenceUpdate>,
}

#[derive(Deserialize)]
struct PresenceUpdate {
    user_id: OwnedUserId,
    presence: String,
    #[serde(default)]
    status_msg: Option<String>,
    #[serde(default)]
    last_active_ago: Option<u64>,
    #[serde(default)]
    currently_active: bool,
}

/// Of users of the server that shares a room with us; nobody else here would be told of them.
async fn receive_presence(
    rooms: &Rooms,
    origin: &ServerName,
    content: PresenceContent,
) -> Result<(), FederationError> {
    for update in content.push.into_iter().take(MAX_PRESENCE) {
        let status = update.status_msg.filter(|status| !status.is_empty());
        let bounded = status
            .as_ref()
            .is_none_or(|status| status.len() <= MAX_STATUS_BYTES);
        let (Some(state), true) = (PresenceState::from_name(&update.presence), bounded) else {
            continue;
        };
        if update.user_id.server_name() != origin || !rooms.is_in_a_room(&update.user_id).await? {
            continue;
        }
        let told = PresenceNow {
            state,
            status,
            last_active_ago: update.last_active_ago,
            currently_active: update.currently_active,
        };
        rooms.presence().receive(&update.user_id, told);
    }
    Ok(())
}

#[derive(Deserialize)]
struct ToDevice {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    kind: String,
    message_id: String,
    messages: BTreeMap<OwnedUserId, BTreeMap<String, Value>>,
}

async fn receive_to_device(
    accounts: &Accounts,
    origin: &ServerName,
    content: ToDevice,
) -> Result<(), FederationError> {
    own_user(origin, &content.sender)?;
    let mut messages = BTreeMap::new();
    for (user, mut devices) in content.messages {
        // A content that is no object is none that a client could take.
        devices.retain(|_, content| content.is_object());
        // For active users of ours only; whoever else is named is passed over.
        if user.server_name() != accounts.server_name()
            || accounts.profile(user.localpart()).await?.is_none()
        {
            continue;
        }
        if let Some(account) = accounts.find(user.localpart()).await? {
            messages.insert(account, devices);
        }
    }
    let id = MessageId::Edu(&content.message_id);
    Ok(accounts
        .send_to_device(&content.sender, id, &content.kind, &messages)
        .await?)
}

#[derive(Deserialize)]
struct KeysChanged {
    user_id: OwnedUserId,
}

/// What changed is not kept here: clients that share a room with the user are told to ask, and are answered from
/// the user's own server.
async fn receive_keys_changed(
    to: &Receivers,
    origin: &ServerName,
    content: KeysChanged,
) -> Result<(), FederationError> {
    own_user(origin, &content.user_id)?;
    let shared = to
        .rooms
        .rooms_of(&content.user_id, &[Membership::Join])
        .await?;
    // Of a partial room nobody knows yet who is in it: what changes meanwhile is told when it is whole.
    if shared.is_empty() && !to.rooms.told_of(origin).await? {
        return Ok(());
    }
    Ok(to.accounts.remote_keys_changed(&content.user_id).await?)
}

fn own_user(origin: &ServerName, user: &UserId) -> Result<(), FederationError> {
    if user.server_name() == origin {
        Ok(())
    } else {
        Err(FederationError::Forbidden(
            "that is somebody else's user".to_owned(),
        ))
    }
}

/// Where messages go.
pub(crate) struct Receivers {
    pub rooms: Arc<Rooms>,
    pub accounts: Arc<Accounts>,
    pub typing: Arc<Typing>,
}

#[derive(Deserialize)]
struct TypingContent {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    typing: bool,
}

async fn receive_typing(
    rooms: &Rooms,
    typing: &Typing,
    origin: &ServerName,
    content: TypingContent,
) -> Result<(), FederationError> {
    own_user(origin, &content.user_id)?;
    let Some(view) = rooms.view(&content.room_id).await? else {
        return Ok(());
    };
    acl::require(&view, origin).await?;
    if !view.may_be_joined(&content.user_id).await? {
        return Err(FederationError::Forbidden(
            "the user is not in the room".to_owned(),
        ));
    }
    typing.set(
        view.num(),
        &content.user_id,
        content.typing.then_some(TYPING_MS),
    );
    Ok(())
}

/// Room → receipt type → user → what was read.
type ReceiptContent = BTreeMap<OwnedRoomId, BTreeMap<String, BTreeMap<OwnedUserId, Read>>>;

#[derive(Deserialize)]
struct Read {
    data: ReadData,
    event_ids: Vec<OwnedEventId>,
}

#[derive(Deserialize)]
struct ReadData {
    #[serde(default)]
    ts: u64,
    thread_id: Option<String>,
}

async fn receive_receipts(
    rooms: &Rooms,
    origin: &ServerName,
    content: ReceiptContent,
) -> Result<(), FederationError> {
    let mut left = MAX_RECEIPTS;
    for (room, kinds) in content {
        let Some(view) = rooms.view(&room).await? else {
            continue;
        };
        if !acl::allows(&view, origin).await? {
            continue;
        }
        // Only `m.read` travels between servers.
        for (user_id, read) in kinds
            .into_iter()
            .filter(|(kind, _)| kind == "m.read")
            .flat_map(|k| k.1)
        {
            let Some(rest) = left.checked_sub(1) else {
                return Ok(());
            };
            left = rest;
            let Some(event_id) = read.event_ids.into_iter().next() else {
                continue;
            };
            let receipt = Receipt {
                user_id,
                kind: ReceiptKind::Read,
                thread: read.data.thread_id,
                event_id,
                ts: read.data.ts,
            };
            rooms.receive_receipt(origin, &room, receipt).await?;
        }
    }
    Ok(())
}
