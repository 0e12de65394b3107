//! `POST /_matrix/client/v4/sync`, as MSC4186 was accepted.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use resuni_sync::sliding::{
    RequiredState, RoomConfig, RoomFilters, SlidingForm, SlidingList, SlidingRequest, StateRule,
};
use ruma::{
    OwnedRoomId,
    api::{auth_scheme::AccessToken, metadata, request, response},
};
use serde::{Deserialize, Serialize};

use super::wire::{self, Extensions};
use crate::error::ApiError;

metadata! {
    method: POST,
    rate_limited: false,
    authentication: AccessToken,
    path: "/_matrix/client/v4/sync",
}

/// A request.
#[request]
pub struct Request {
    /// Which of the device's connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conn_id: Option<String>,
    /// From the answer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pos: Option<String>,
    /// In milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// How the user is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_presence: Option<String>,
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
    range: Option<(usize, usize)>,
    #[serde(default)]
    filters: Filters,
    #[serde(flatten)]
    config: Config,
}

/// What is wanted of a room.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Config {
    required_state: State,
    timeline_limit: u64,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
struct State {
    include: Vec<Element>,
    exclude: Vec<Element>,
    lazy_members: bool,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
struct Element {
    #[serde(rename = "type")]
    kind: Option<String>,
    state_key: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
struct Filters {
    is_dm: Option<bool>,
    spaces: Option<Vec<OwnedRoomId>>,
    is_encrypted: Option<bool>,
    is_invited: Option<bool>,
    room_types: Option<Vec<Option<String>>>,
    not_room_types: Option<Vec<Option<String>>>,
    tags: Option<Vec<String>>,
    not_tags: Option<Vec<String>>,
}

impl Request {
    /// In the model's terms.
    pub fn translate(self) -> Result<SlidingRequest, ApiError> {
        wire::check_names(
            self.conn_id.as_deref(),
            &self.lists,
            &self.room_subscriptions,
        )?;
        let lists = self.lists.into_iter().map(|(name, list)| {
            let list = SlidingList {
                ranges: list.range.map(|range| vec![range]),
                filters: list.filters.translate()?,
                config: list.config.translate()?,
            };
            Ok((name, list))
        });
        let subscriptions = self.room_subscriptions.into_iter();
        let subscriptions = subscriptions.map(|(room, config)| Ok((room, config.translate()?)));
        Ok(SlidingRequest {
            form: SlidingForm::Accepted,
            conn_id: self.conn_id.unwrap_or_default(),
            pos: self.pos.filter(|pos| !pos.is_empty()),
            txn_id: None,
            timeout: Duration::from_millis(self.timeout.unwrap_or(0)),
            set_presence: wire::presence(self.set_presence.as_deref())?,
            lists: lists.collect::<Result<_, ApiError>>()?,
            subscriptions: subscriptions.collect::<Result<_, ApiError>>()?,
            extensions: self.extensions.translate()?,
        })
    }
}

impl Config {
    fn translate(self) -> Result<Arc<RoomConfig>, ApiError> {
        let rules = |elements: Vec<Element>| {
            let rule = |Element { kind, state_key }| StateRule { kind, state_key };
            elements.into_iter().map(rule).collect()
        };
        let state = RequiredState {
            include: rules(self.required_state.include),
            exclude: rules(self.required_state.exclude),
            lazy_members: self.required_state.lazy_members,
        };
        Ok(Arc::new(RoomConfig {
            timeline_limit: wire::timeline_limit(self.timeline_limit),
            required_state: wire::check_state(state)?,
        }))
    }
}

impl Filters {
    fn translate(self) -> Result<RoomFilters, ApiError> {
        wire::check_filters(RoomFilters {
            is_dm: self.is_dm,
            is_encrypted: self.is_encrypted,
            is_invited: self.is_invited,
            spaces: self.spaces,
            room_types: self.room_types,
            not_room_types: self.not_room_types.unwrap_or_default(),
            tags: self.tags,
            not_tags: self.not_tags.unwrap_or_default(),
            name_like: None,
        })
    }
}
