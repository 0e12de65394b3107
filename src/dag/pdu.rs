//! An event as it is kept and handed around.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use ruma::events::TimelineEventType;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt,
    UserId,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::{FormatError, Reference, RoomRules};

/// A persistent event: immutable, read once, cheap to clone.
///
/// It holds the canonical JSON that was hashed and signed, with `hashes` and `signatures` and
/// every key we don't know (they are part of the hash), but without `unsigned`, and without
/// `event_id` where that is a hash of the event.
///
/// Whether this server rejected the event is no part of it, but the auth rules and state
/// resolution ask for it, so a handle carries the mark (see [`Pdu::mark_rejected`]).
#[derive(Clone)]
pub struct Pdu {
    inner: Arc<Inner>,
    rejected: bool,
}

struct Inner {
    event_id: OwnedEventId,
    json: String,
    room_id: OwnedRoomId,
    /// The event doesn't hold its room id: it is a create event whose id makes it.
    makes_room_id: bool,
    sender: OwnedUserId,
    kind: String,
    state_key: Option<String>,
    content: Box<RawValue>,
    origin_server_ts: u64,
    depth: u64,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    top_redacts: Option<OwnedEventId>,
    content_redacts: Option<OwnedEventId>,
    ruma_kind: OnceLock<TimelineEventType>,
}

/// The fields of an event, borrowed where JSON allows it.
#[derive(Deserialize)]
struct Fields<'a> {
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    state_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    content: &'a RawValue,
    origin_server_ts: u64,
    depth: u64,
    prev_events: Vec<Reference>,
    auth_events: Vec<Reference>,
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RedactsField<'a> {
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
}

impl Pdu {
    /// Reads an event from canonical JSON that this server checked before, for instance from its
    /// own store. One pass, nothing is checked again. Foreign JSON goes through [`Pdu::parse`].
    pub fn from_canonical(
        event_id: OwnedEventId,
        json: impl Into<String>,
    ) -> Result<Self, FormatError> {
        let json = json.into();
        let fields: Fields<'_> =
            serde_json::from_str(&json).map_err(|e| FormatError::Json(e.to_string()))?;
        let makes_room_id = fields.room_id.is_none();
        let room_id = match fields.room_id {
            Some(room_id) => room_id,
            None => room_id_of_create(&event_id)?,
        };
        let content_redacts = (fields.kind == "m.room.redaction")
            .then(|| serde_json::from_str::<RedactsField<'_>>(fields.content.get()).ok())
            .flatten()
            .and_then(|content| content.redacts)
            .and_then(event_id_in);
        let inner = Inner {
            event_id,
            room_id,
            makes_room_id,
            sender: fields.sender,
            kind: fields.kind.into_owned(),
            state_key: fields.state_key.map(Cow::into_owned),
            content: fields.content.to_owned(),
            origin_server_ts: fields.origin_server_ts,
            depth: fields.depth,
            prev_events: Reference::ids(fields.prev_events),
            auth_events: Reference::ids(fields.auth_events),
            top_redacts: fields.redacts.and_then(event_id_in),
            content_redacts,
            ruma_kind: OnceLock::new(),
            json,
        };
        Ok(Self {
            inner: Arc::new(inner),
            rejected: false,
        })
    }

    /// The event's id: its reference hash, or what its sender chose (v1, v2).
    pub fn event_id(&self) -> &EventId {
        &self.inner.event_id
    }

    /// The room it belongs to; for a create event of v12 derived from its own id.
    pub fn room_id(&self) -> &RoomId {
        &self.inner.room_id
    }

    /// Who sent it.
    pub fn sender(&self) -> &UserId {
        &self.inner.sender
    }

    /// The event type, e.g. `m.room.message`.
    pub fn kind(&self) -> &str {
        &self.inner.kind
    }

    /// The state key, if it is a state event.
    pub fn state_key(&self) -> Option<&str> {
        self.inner.state_key.as_deref()
    }

    /// Whether it is a state event.
    pub fn is_state(&self) -> bool {
        self.inner.state_key.is_some()
    }

    /// Whether it is a state event of this type and key.
    pub fn is(&self, kind: &str, state_key: &str) -> bool {
        self.inner.kind == kind && self.state_key() == Some(state_key)
    }

    /// `content`, as it stands in the event.
    pub fn content(&self) -> &RawValue {
        &self.inner.content
    }

    /// `content`, read as `T`.
    pub fn content_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.inner.content.get())
    }

    /// When the sender's server says it was made: milliseconds since 1970.
    pub fn origin_server_ts(&self) -> u64 {
        self.inner.origin_server_ts
    }

    /// One more than the greatest depth of its previous events, as its sender saw it.
    pub fn depth(&self) -> u64 {
        self.inner.depth
    }

    /// The events it follows in the room's DAG.
    pub fn prev_events(&self) -> &[OwnedEventId] {
        &self.inner.prev_events
    }

    /// The state events that allow it.
    pub fn auth_events(&self) -> &[OwnedEventId] {
        &self.inner.auth_events
    }

    /// The event that this one redacts, from where the room version has it: at the top level, or
    /// in `content` since v11. `None` if this isn't a redaction.
    pub fn redacts(&self, rules: &RoomRules) -> Option<&EventId> {
        if self.inner.kind != "m.room.redaction" {
            return None;
        }
        if rules.redacts_in_content() {
            self.inner.content_redacts.as_deref()
        } else {
            self.inner.top_redacts.as_deref()
        }
    }

    /// The canonical JSON: with signatures, without `unsigned`, and as the wire has it with
    /// `event_id` up to v2 only.
    pub fn json(&self) -> &str {
        &self.inner.json
    }

    /// This event with the mark that this server rejected it, for the auth rules and state
    /// resolution.
    pub fn mark_rejected(mut self) -> Self {
        self.rejected = true;
        self
    }

    /// Whether this handle says that the event was rejected.
    pub fn is_rejected(&self) -> bool {
        self.rejected
    }
}

/// `!hash` for the create event `$hash` (room version 12, "Room IDs as hashes of create events").
fn room_id_of_create(event_id: &EventId) -> Result<OwnedRoomId, FormatError> {
    let hash = event_id.as_str().trim_start_matches('$');
    RoomId::parse(format!("!{hash}"))
        .map_err(|_| FormatError::field("room_id", "is missing and the event id doesn't make one"))
}

fn event_id_in(raw: &RawValue) -> Option<OwnedEventId> {
    serde_json::from_str(raw.get()).ok()
}

impl fmt::Debug for Pdu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Pdu");
        debug
            .field("event_id", &self.inner.event_id)
            .field("kind", &self.inner.kind);
        if let Some(key) = &self.inner.state_key {
            debug.field("state_key", key);
        }
        debug
            .field("sender", &self.inner.sender)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Pdu {
    /// Two events are equal if their JSON is: a redacted event has the id of the original.
    fn eq(&self, other: &Self) -> bool {
        self.inner.event_id == other.inner.event_id && self.inner.json == other.inner.json
    }
}

impl Eq for Pdu {}

impl ruma::state_res::Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.inner.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        // As in the event: the auth rules of v12 refuse a create event that has one.
        (!self.inner.makes_room_id).then_some(&*self.inner.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.inner.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.inner.origin_server_ts))
    }

    fn event_type(&self) -> &TimelineEventType {
        self.inner
            .ruma_kind
            .get_or_init(|| self.inner.kind.as_str().into())
    }

    fn content(&self) -> &RawValue {
        &self.inner.content
    }

    fn state_key(&self) -> Option<&str> {
        self.inner.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.inner.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.inner.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        // Asked for by the auth rules of room versions 1 and 2 only.
        self.inner.top_redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}
