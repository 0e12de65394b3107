//! Creating rooms (Client-Server API, "Creation").

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use resuni_accounts::Accounts;
use resuni_rooms::{CreateRoom, InitialState, Preset, Rooms};
use ruma::{
    api::client::room::{
        Visibility,
        create_room::{self, v3::RoomPreset},
    },
    serde::Raw,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::rooms::profile;
use crate::{
    error::ApiError,
    extract::{Answer, Policy, Reply, Ruma},
    limits::Class,
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().with(Policy::CLIENT.public().class(Class::Invite), create)
}

async fn create(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<create_room::v3::Request>,
) -> Answer<create_room::v3::Response> {
    let mut invite_profiles = BTreeMap::new();
    for user in &body.invite {
        if user.server_name() == rooms.server_name() {
            invite_profiles.insert(user.clone(), profile(&accounts, user).await?);
        }
    }
    let request = CreateRoom {
        creator_profile: profile(&accounts, &caller.user_id).await?,
        invite_profiles,
        ..translate(body)?
    };
    let room = rooms.create(&caller.user_id, request).await?;
    Ok(Reply(create_room::v3::Response::new(room)))
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
        initial_state: body.initial_state.iter().map(initial_state).collect::<Result<_, _>>()?,
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
    let Event { kind, state_key, content } = parse(raw)?;
    Ok(InitialState { kind, state_key, content })
}

fn parse<T, U: DeserializeOwned>(raw: &Raw<T>) -> Result<U, ApiError> {
    serde_json::from_str(raw.json().get()).map_err(|error| ApiError::bad_json(error.to_string()))
}
