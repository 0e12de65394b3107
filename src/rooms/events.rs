//! What callers hand in, and what they are told.

use resuni_store::Position;
use ruma::OwnedEventId;
use serde_json::value::RawValue;

/// The type of events that only tie the ends of the graph together: named as Synapse names it, and shown to no client.
pub(crate) const SAYS_NOTHING: &str = "org.matrix.dummy_event";

/// An event that one of our users wants to send. Where it stands in the graph is decided in the lane.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The event type.
    pub kind: String,
    /// The state key, of a state event.
    pub state_key: Option<String>,
    /// The content: any JSON object; it is refused if canonical JSON can't hold it.
    pub content: Box<RawValue>,
    /// The event to redact, of an `m.room.redaction`. Where it stands in the event depends on the room version.
    pub redacts: Option<OwnedEventId>,
    /// `origin_server_ts` in milliseconds, where the sender may choose it (application services); else now.
    pub timestamp: Option<u64>,
    /// For how many milliseconds it is sticky (MSC4354).
    pub sticky_ms: Option<u64>,
}

impl NewEvent {
    /// A message-like event.
    pub fn message(kind: impl Into<String>, content: Box<RawValue>) -> Self {
        Self {
            kind: kind.into(),
            state_key: None,
            content,
            redacts: None,
            timestamp: None,
            sticky_ms: None,
        }
    }

    /// A state event.
    pub fn state(
        kind: impl Into<String>,
        state_key: impl Into<String>,
        content: Box<RawValue>,
    ) -> Self {
        Self {
            state_key: Some(state_key.into()),
            ..Self::message(kind, content)
        }
    }
}

/// A client's transaction: the same one is carried out once and answered the same. Scoped to the sender, the device,
/// the room, the event type and what a redaction redacts: what is in the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnKey {
    /// The device id.
    pub device: String,
    /// The transaction id.
    pub txn: String,
}

/// What became of an event of another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// It is in the timeline.
    Accepted {
        /// Where.
        position: Position,
    },
    /// The current state forbids it: it is kept, but shown to nobody.
    SoftFailed,
    /// Its auth events or the state before it forbid it.
    Rejected {
        /// Which rule.
        reason: String,
    },
    /// We had it already, or the room is none of ours.
    Known,
    /// Nothing was written: bring these first.
    Missing {
        /// Unknown `prev_events`.
        prev: Vec<OwnedEventId>,
        /// Unknown `auth_events`.
        auth: Vec<OwnedEventId>,
    },
}
