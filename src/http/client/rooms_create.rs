//! Creating rooms (Client-Server API, "Creation").

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use resuni_accounts::Accounts;
use resuni_federation::Federation;
use resuni_rooms::{CreateRoom, InitialState, MemberDetails, Preset, Rooms, UpgradeRoom};
use ruma::{
    api::client::room::{
        Visibility,
        create_room::{self, v3::RoomPreset},
        upgrade_room,
    },
    serde::Raw,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{membership::check_invite, remote::Remote, rooms::profile};
use crate::{
    error::ApiError,
    extract::{Answer, Policy, Reply, Ruma, json_object},
    limits::Class,
    routes::Routes,
};

/// People who are invited to a new room by their addresses: an identity server is asked for each.
const MAX_BY_ADDRESS: usize = 20;

/// The table of this section.
pub fn routes() -> Routes {
    let creating = Policy::CLIENT.public().class(Class::Invite);
    Routes::new().with(creating, create).with(creating, upgrade)
}

async fn create(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma {
        mut body,
        caller,
        raw,
        ..
    }: Ruma<create_room::v3::Request>,
) -> Answer<create_room::v3::Response> {
    let own = rooms.server_name();
    let reason = invite_reason(&raw)?;
    let mut invite_profiles = BTreeMap::new();
    // The room is made without those who don't want to be invited (spec, "Invite permission").
    for user in std::mem::take(&mut body.invite) {
        match check_invite(&accounts, &caller.user_id, &user).await {
            Ok(()) => body.invite.push(user),
            Err(error) => tracing::debug!(%user, ?error, "not invited to a new room"),
        }
    }
    for user in &body.invite {
        if user.server_name() == own {
            invite_profiles.insert(user.clone(), profile(&accounts, user).await?);
        }
    }
    let by_address = std::mem::take(&mut body.invite_3pid);
    if by_address.len() > MAX_BY_ADDRESS {
        let message = format!("At most {MAX_BY_ADDRESS} people can be invited by their addresses.");
        return Err(ApiError::invalid_param(message));
    }
    let request = CreateRoom {
        creator_profile: profile(&accounts, &caller.user_id).await?,
        invite_profiles,
        invite_reason: reason.clone(),
        ..translate(body)?
    };
    let is_direct = request.is_direct;
    let mut far: Vec<_> = request
        .invite
        .iter()
        .filter(|user| user.server_name() != own)
        .cloned()
        .collect();
    let room = rooms.create(&caller.user_id, request).await?;
    // The room exists now, whatever their servers say: who is missing can be invited again.
    let remote = Remote {
        rooms: &rooms,
        federation: federation.as_deref(),
    };
    let details = MemberDetails {
        is_direct,
        reason,
        ..MemberDetails::default()
    };
    for who in by_address {
        match remote.invite_address(&room, &caller.user_id, who).await {
            Ok(user) => far.extend(user),
            Err(error) => tracing::info!(%room, ?error, "an invite by an address failed"),
        }
    }
    for user in far {
        if let Err(error) = remote.invite(&room, &caller.user_id, &user, &details).await {
            tracing::info!(%room, %user, ?error, "an invite to a new room failed");
        }
    }
    Ok(Reply(create_room::v3::Response::new(room)))
}

async fn upgrade(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<upgrade_room::v3::Request>,
) -> Answer<upgrade_room::v3::Response> {
    let request = UpgradeRoom {
        version: body.new_version.to_string(),
        additional_creators: body.additional_creators,
        profile: profile(&accounts, &caller.user_id).await?,
    };
    let replacement = rooms
        .upgrade(&body.room_id, &caller.user_id, &request)
        .await?;
    Ok(Reply(upgrade_room::v3::Response::new(replacement)))
}

/// MSC4491: "if the field is empty or omitted, no reason is attached".
fn invite_reason(raw: &[u8]) -> Result<Option<String>, ApiError> {
    let reason = json_object(raw)?.remove("uk.timedout.msc4491.invite_reason");
    match reason {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(reason)) => Ok(Some(reason).filter(|reason| !reason.is_empty())),
        Some(_) => Err(ApiError::bad_json(
            "The reason of the invites is not a string.",
        )),
    }
}

fn translate(body: create_room::v3::Request) -> Result<CreateRoom, ApiError> {
    let preset = match body.preset {
        None => None,
        Some(RoomPreset::PrivateChat) => Some(Preset::PrivateChat),
        Some(RoomPreset::PublicChat) => Some(Preset::PublicChat),
        Some(RoomPreset::TrustedPrivateChat) => Some(Preset::TrustedPrivateChat),
        Some(other) => {
            let message = format!("There is no preset {}.", other.as_str());
            return Err(ApiError::invalid_param(message));
        }
    };
    Ok(CreateRoom {
        published: body.visibility == Visibility::Public,
        room_alias_name: body.room_alias_name,
        name: body.name,
        topic: body.topic,
        invite: body.invite,
        room_version: body.room_version.map(|version| version.to_string()),
        creation_content: object(body.creation_content.as_ref())?,
        initial_state: body
            .initial_state
            .iter()
            .map(initial_state)
            .collect::<Result<_, _>>()?,
        preset,
        is_direct: body.is_direct,
        power_level_content_override: object(body.power_level_content_override.as_ref())?,
        ..CreateRoom::default()
    })
}

fn object<T>(raw: Option<&Raw<T>>) -> Result<Map<String, Value>, ApiError> {
    raw.map_or_else(|| Ok(Map::new()), parse)
}

fn initial_state<T>(raw: &Raw<T>) -> Result<InitialState, ApiError> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        state_key: String,
        content: Map<String, Value>,
    }
    let Event {
        kind,
        state_key,
        content,
    } = parse(raw)?;
    Ok(InitialState {
        kind,
        state_key,
        content,
    })
}

fn parse<T, U: DeserializeOwned>(raw: &Raw<T>) -> Result<U, ApiError> {
    serde_json::from_str(raw.json().get()).map_err(|error| ApiError::bad_json(error.to_string()))
}
