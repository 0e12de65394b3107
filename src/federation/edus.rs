//! Ephemeral messages of other servers. A server speaks for its own users only.

use resuni_rooms::{Membership, Receipt, ReceiptKind, Rooms, Typing};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, api::federation::transactions::edu::Edu,
    serde::Raw,
};
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::{acl, error::FederationError};

/// How long somebody counts as typing unless more is heard. The message has no time of its own.
const TYPING_MS: u64 = 30_000;
/// Receipts that are read out of one message.
const MAX_RECEIPTS: usize = 500;

/// Takes an ephemeral message in.
///
/// # Errors
/// When it makes no sense or the server may not say it.
pub(crate) async fn receive(
    rooms: &Rooms,
    typing: &Typing,
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
    match edu_type.as_str() {
        "m.typing" => {
            receive_typing(
                rooms,
                typing,
                origin,
                serde_json::from_str(content.get()).map_err(bad)?,
            )
            .await
        }
        "m.receipt" => {
            receive_receipts(
                rooms,
                origin,
                serde_json::from_str(content.get()).map_err(bad)?,
            )
            .await
        }
        // Presence, device lists and to-device messages are not built yet.
        _ => Ok(()),
    }
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
    if content.user_id.server_name() != origin {
        return Err(FederationError::Forbidden(
            "that is somebody else's user".to_owned(),
        ));
    }
    let Some(view) = rooms.view(&content.room_id).await? else {
        return Ok(());
    };
    acl::require(&view, origin).await?;
    if view.member(&content.user_id).await? != Some(Membership::Join) {
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
