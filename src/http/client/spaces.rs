//! Spaces and rooms in brief (Client-Server API, "Spaces", "Room Summary").

use std::sync::Arc;

use axum::extract::State;
use resuni_federation::{Federation, spaces};
use resuni_rooms::{
    Membership, Rooms,
    spaces::{RoomDetails, SpaceRoom, Walk},
};
use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, UserId,
    api::client::{room::get_summary, space::get_hierarchy},
};
use serde::Serialize;

use super::{directory::find_alias, rooms::not_in_room};
use crate::{
    error::ApiError,
    extract::{RawJson, Ruma},
    routes::Routes,
};

/// Rooms of a page when the client names no number, and at most.
const DEFAULT_LIMIT: usize = 50;
const MOST: usize = 100;

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().guest(hierarchy).guest(summary)
}

async fn hierarchy(
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, caller, .. }: Ruma<get_hierarchy::v1::Request>,
) -> Result<RawJson, ApiError> {
    #[derive(Serialize)]
    struct Page {
        rooms: Vec<SpaceRoom>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_batch: Option<String>,
    }
    let depth = body
        .max_depth
        .map(|depth| u32::try_from(u64::from(depth)).unwrap_or(u32::MAX));
    let mut walk = Walk::new(body.room_id, caller.user_id, body.suggested_only, depth);
    if let Some(from) = &body.from {
        walk = rooms.walks.resume(from, &walk, depth.is_some())?;
    }
    let limit = body.limit.map_or(DEFAULT_LIMIT, |limit| {
        usize::try_from(u64::from(limit)).unwrap_or(MOST)
    });
    let client = federation.as_ref().map(|f| f.network.client.as_ref());
    let page = spaces::page(&rooms, client, &mut walk, limit.clamp(1, MOST)).await?;
    if body.from.is_none() && page.is_empty() {
        // The space itself comes first.
        return Err(not_in_room());
    }
    let next_batch = (!walk.is_over()).then(|| rooms.walks.keep(walk));
    RawJson::written(&Page {
        rooms: page,
        next_batch,
    })
}

async fn summary(
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, caller, .. }: Ruma<get_summary::v1::Request>,
) -> Result<RawJson, ApiError> {
    #[derive(Serialize)]
    struct Summary {
        #[serde(flatten)]
        details: RoomDetails,
        #[serde(skip_serializing_if = "Option::is_none")]
        membership: Option<&'static str>,
    }
    let user = caller.as_ref().map(|caller| caller.user_id.as_ref());
    let federation = federation.as_deref();
    let mut via = body.via;
    let room = match <&RoomAliasId>::try_from(body.room_id_or_alias.as_str()) {
        Ok(alias) => {
            // Without an account nobody makes this server ask others.
            let federation = federation.filter(|_| user.is_some());
            let (room, servers) = find_alias(&rooms, federation, alias).await?;
            via.extend(servers);
            room
        }
        Err(_) => OwnedRoomId::try_from(body.room_id_or_alias.as_str())
            .map_err(|_| ApiError::invalid_param("This is no room id and no alias."))?,
    };
    let details = match rooms.participating(&room).await? {
        Some(view) => {
            let details = view.details().await?;
            let shown = match user {
                Some(user) => rooms.may_preview(&view, user).await?,
                None => details.is_open(),
            };
            Some(details).filter(|_| shown)
        }
        None => match (federation, user) {
            (Some(federation), Some(user)) => {
                elsewhere(&rooms, federation, &room, &via, user).await?
            }
            _ => None,
        },
    };
    let details = details.ok_or_else(|| ApiError::not_found("There is no such room to see."))?;
    let membership = match user {
        Some(user) => {
            let membership = rooms.membership(&room, user).await?;
            Some(membership.unwrap_or(Membership::Leave).as_str())
        }
        None => None,
    };
    RawJson::written(&Summary {
        details,
        membership,
    })
}

/// What another server says of a room, if the user may know of it.
async fn elsewhere(
    rooms: &Rooms,
    federation: &Federation,
    room: &RoomId,
    via: &[OwnedServerName],
    user: &UserId,
) -> Result<Option<RoomDetails>, ApiError> {
    let client = &federation.network.client;
    let answer = spaces::ask(client, rooms.server_name(), room, via, false).await;
    let Some(details) = answer.map(|answer| answer.room.details) else {
        return Ok(None);
    };
    let shown =
        details.summary.room_id == *room && rooms.may_preview_remote(&details, user).await?;
    Ok(Some(details).filter(|_| shown))
}
