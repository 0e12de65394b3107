//! What both forms have in common, and the limits of a request.

use std::collections::BTreeMap;

use resuni_rooms::PresenceState;
use resuni_store::Position;
use resuni_sync::sliding::{
    RequiredState, RoomFilters, Scope, SlidingExtensions, ToDeviceExtension,
};
use ruma::OwnedRoomId;
use serde::{Deserialize, Serialize};

use crate::error::ApiError;

/// Lists of a request, and subscriptions (MSC4186).
const MAX_NAMED: usize = 100;
/// The longest name of a list or a connection, in bytes: an opaque identifier.
const MAX_NAME: usize = 255;
/// Events of one room's timeline at most, whatever the client asks for.
const MAX_TIMELINE: usize = 100;
/// Rules of one `required_state`, and entries of a filter.
const MAX_RULES: usize = 500;

/// `extensions`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Extensions {
    to_device: ToDevice,
    e2ee: Toggle,
    account_data: OfRooms,
    receipts: OfRooms,
    typing: OfRooms,
    #[serde(rename = "io.element.msc4308.thread_subscriptions")]
    thread_subscriptions: Limited,
    #[serde(rename = "org.matrix.msc4354.sticky_events")]
    sticky: OfRooms,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
struct Limited {
    enabled: bool,
    limit: Option<usize>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
struct ToDevice {
    enabled: bool,
    since: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
struct Toggle {
    enabled: bool,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
struct OfRooms {
    enabled: bool,
    lists: Option<Vec<String>>,
    rooms: Option<Vec<String>>,
}

impl OfRooms {
    fn translate(self) -> Option<Scope> {
        let all = |names: &Vec<String>| names.iter().any(|name| name == "*");
        let rooms = self.rooms.filter(|rooms| !all(rooms));
        let rooms = rooms.map(|rooms| {
            let ids = rooms.into_iter().take(MAX_NAMED);
            ids.filter_map(|room| OwnedRoomId::try_from(room).ok())
                .collect()
        });
        self.enabled.then_some(Scope {
            lists: self.lists.filter(|lists| !all(lists)),
            rooms,
        })
    }
}

impl Extensions {
    /// In the model's terms.
    pub fn translate(self) -> Result<SlidingExtensions, ApiError> {
        let to_device = self.to_device.enabled.then_some(self.to_device);
        let to_device = to_device.map(|ext| -> Result<_, ApiError> {
            let since = ext.since.filter(|since| !since.is_empty());
            let since = since.map(|since| since.parse().map(Position)).transpose();
            let since = since.map_err(|_| {
                ApiError::invalid_param("`since` of `to_device` is not a token of this server.")
            })?;
            Ok(ToDeviceExtension {
                since,
                limit: ext.limit,
            })
        });
        Ok(SlidingExtensions {
            to_device: to_device.transpose()?,
            e2ee: self.e2ee.enabled,
            account_data: self.account_data.translate(),
            receipts: self.receipts.translate(),
            typing: self.typing.translate(),
            sticky: self.sticky.translate(),
            thread_subscriptions: self
                .thread_subscriptions
                .enabled
                .then(|| self.thread_subscriptions.limit.unwrap_or(usize::MAX)),
        })
    }
}

/// `set_presence`; who says nothing is there.
pub fn presence(name: Option<&str>) -> Result<PresenceState, ApiError> {
    let name = name.unwrap_or("online");
    PresenceState::from_name(name)
        .ok_or_else(|| ApiError::invalid_param("`set_presence` is not a state of presence."))
}

/// Refuses more lists or subscriptions than the proposal allows, and names that are too long.
pub fn check_names<T, U>(
    conn_id: Option<&str>,
    lists: &BTreeMap<String, T>,
    subscriptions: &BTreeMap<OwnedRoomId, U>,
) -> Result<(), ApiError> {
    if lists.len() > MAX_NAMED || subscriptions.len() > MAX_NAMED {
        return Err(ApiError::invalid_param(format!(
            "A request has at most {MAX_NAMED} lists and as many subscriptions."
        )));
    }
    let long = |name: &str| name.len() > MAX_NAME;
    if conn_id.is_some_and(long) || lists.keys().any(|name| long(name)) {
        return Err(ApiError::invalid_param(format!(
            "The name of a list or a connection has at most {MAX_NAME} bytes."
        )));
    }
    Ok(())
}

/// The number of events that the client gets for the number that it wants.
pub fn timeline_limit(wanted: u64) -> usize {
    usize::try_from(wanted)
        .unwrap_or(MAX_TIMELINE)
        .min(MAX_TIMELINE)
}

/// Refuses more than can be looked at.
pub fn check_state(state: RequiredState) -> Result<RequiredState, ApiError> {
    bounded(state.include.len().max(state.exclude.len())).map(|()| state)
}

/// Refuses filters that take too long.
pub fn check_filters(filters: RoomFilters) -> Result<RoomFilters, ApiError> {
    let optional = [
        filters.spaces.as_ref().map(Vec::len),
        filters.room_types.as_ref().map(Vec::len),
        filters.tags.as_ref().map(Vec::len),
        filters.name_like.as_ref().map(String::len),
    ];
    let longest = optional.into_iter().flatten().max().unwrap_or(0);
    bounded(
        longest
            .max(filters.not_room_types.len())
            .max(filters.not_tags.len()),
    )
    .map(|()| filters)
}

/// Refuses lists that are too long.
pub fn bounded(entries: usize) -> Result<(), ApiError> {
    match entries <= MAX_RULES {
        true => Ok(()),
        false => Err(ApiError::invalid_param(format!(
            "`required_state` and each filter have at most {MAX_RULES} entries."
        ))),
    }
}
