//! `POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync`, as clients send it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use resuni_sync::sliding::{
    RequiredState, RoomConfig, RoomFilters, SlidingForm, SlidingList, SlidingRequest, StateRule,
};
use ruma::{
    OwnedRoomId, UserId,
    api::{auth_scheme::AccessToken, metadata, request, response},
};
use serde::{Deserialize, Serialize};

use super::wire::{self, Extensions};
use crate::error::ApiError;

metadata! {
    method: POST,
    rate_limited: false,
    authentication: AccessToken,
    path: "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
}

/// A request.
#[request]
pub struct Request {
    /// From the answer before.
    #[ruma_api(query)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pos: Option<String>,
    /// In milliseconds.
    #[ruma_api(query)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// How the user is.
    #[ruma_api(query)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_presence: Option<String>,
    /// Which of the device's connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conn_id: Option<String>,
    /// Given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn_id: Option<String>,
    /// Windows.
    #[serde(default)]
    pub lists: BTreeMap<String, List>,
    /// Rooms.
    #[serde(default)]
    pub room_subscriptions: BTreeMap<OwnedRoomId, Config>,
    /// The rest.
    #[serde(default)]
    pub extensions: Extensions,
}

/// Written by the model.
#[response]
pub struct Response {}

/// A window.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct List {
    #[serde(default)]
    ranges: Option<Vec<(usize, usize)>>,
    #[serde(default)]
    filters: Option<Filters>,
    #[serde(flatten)]
    config: Config,
}

/// What is wanted of a room: pairs of a type and a state key.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub struct Config {
    #[serde(default)]
    required_state: Vec<(String, String)>,
    #[serde(default)]
    timeline_limit: u64,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
struct Filters {
    is_dm: Option<bool>,
    spaces: Option<Vec<OwnedRoomId>>,
    is_encrypted: Option<bool>,
    is_invite: Option<bool>,
    room_types: Option<Vec<Option<String>>>,
    not_room_types: Option<Vec<Option<String>>>,
    room_name_like: Option<String>,
    tags: Option<Vec<String>>,
    not_tags: Option<Vec<String>>,
}

impl Request {
    /// In the model's terms; `$ME` is this user.
    pub fn translate(self, me: &UserId) -> Result<SlidingRequest, ApiError> {
        wire::check_names(
            self.conn_id.as_deref(),
            &self.lists,
            &self.room_subscriptions,
        )?;
        let lists = self.lists.into_iter().map(|(name, list)| {
            let list = SlidingList {
                ranges: list.ranges,
                filters: list.filters.unwrap_or_default().translate()?,
                config: list.config.translate(me)?,
            };
            wire::bounded(list.ranges.as_ref().map_or(0, Vec::len))?;
            Ok((name, list))
        });
        let subscriptions = self.room_subscriptions.into_iter();
        let subscriptions = subscriptions.map(|(room, config)| Ok((room, config.translate(me)?)));
        Ok(SlidingRequest {
            form: SlidingForm::Unstable,
            conn_id: self.conn_id.unwrap_or_default(),
            pos: self.pos.filter(|pos| !pos.is_empty()),
            txn_id: self.txn_id,
            timeout: Duration::from_millis(self.timeout.unwrap_or(0)),
            set_presence: wire::presence(self.set_presence.as_deref())?,
            lists: lists.collect::<Result<_, ApiError>>()?,
            subscriptions: subscriptions.collect::<Result<_, ApiError>>()?,
            extensions: self.extensions.translate()?,
        })
    }
}

impl Config {
    fn translate(self, me: &UserId) -> Result<Arc<RoomConfig>, ApiError> {
        let mut state = RequiredState::default();
        for (kind, state_key) in self.required_state {
            if kind == "m.room.member" && state_key == "$LAZY" {
                state.lazy_members = true;
                continue;
            }
            state.include.push(StateRule {
                kind: (kind != "*").then_some(kind),
                state_key: match state_key.as_str() {
                    "*" => None,
                    "$ME" => Some(me.to_string()),
                    _ => Some(state_key),
                },
            });
        }
        Ok(Arc::new(RoomConfig {
            timeline_limit: wire::timeline_limit(self.timeline_limit),
            required_state: wire::check_state(state)?,
        }))
    }
}

impl Filters {
    fn translate(self) -> Result<RoomFilters, ApiError> {
        let filters = RoomFilters {
            is_dm: self.is_dm,
            is_encrypted: self.is_encrypted,
            is_invited: self.is_invite,
            spaces: self.spaces,
            room_types: self.room_types,
            not_room_types: self.not_room_types.unwrap_or_default(),
            tags: self.tags,
            not_tags: self.not_tags.unwrap_or_default(),
            name_like: self.room_name_like,
        };
        wire::check_filters(filters)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    #[test]
    fn placeholders() {
        let config: Config = serde_json::from_value(json!({
            "required_state": [["m.room.member", "$LAZY"], ["m.room.member", "$ME"], ["*", "*"]],
            "timeline_limit": 1_000_000,
        }))
        .unwrap();
        let config = config.translate(user_id!("@me:h")).unwrap();
        assert_eq!(config.timeline_limit, 100);
        let state = &config.required_state;
        assert!(state.lazy_members && state.wants("m.room.topic", ""));
        assert!(state.wants("m.room.member", "@me:h"));
        assert!(!state.wants("m.room.member", "@you:h"));
    }
}
