//! What can be wrong with an event.

use ruma::{OwnedEventId, OwnedServerName};

/// The event isn't one: it is dropped, not rejected (check 1 of "Checks performed on receipt of a
/// PDU").
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Not JSON, or JSON that canonical JSON can't express (floats, large integers).
    #[error("the event is not canonical JSON: {0}")]
    Json(String),
    /// A field is missing or has the wrong type, grammar or range.
    #[error("the event's `{field}` {problem}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with it, as the end of a sentence.
        problem: String,
    },
    /// The event is larger than [`limits::PDU_BYTES`](crate::limits::PDU_BYTES).
    #[error("the event has {bytes} bytes in canonical form; at most {max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Objects and arrays are nested deeper than [`limits::JSON_DEPTH`](crate::limits::JSON_DEPTH).
    #[error("the event is nested deeper than {max} levels")]
    TooDeep {
        /// The limit.
        max: usize,
    },
}

impl FormatError {
    pub(crate) fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field {
            field,
            problem: problem.into(),
        }
    }
}

/// The signatures don't prove that the event comes from whom it says.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The object can't be read well enough to check it.
    #[error("the signed object is malformed: {0}")]
    Malformed(String),
    /// A required server didn't sign.
    #[error("a signature of {0} is required and missing")]
    Unsigned(OwnedServerName),
    /// The server signed with keys that weren't given or weren't valid at that time.
    #[error("no key of {0} that was valid at that time is known for its signature")]
    NoUsableKey(OwnedServerName),
    /// A signature doesn't match.
    #[error("the signature of {server} with key {key_id} does not verify")]
    Invalid {
        /// Whose signature.
        server: OwnedServerName,
        /// Which key.
        key_id: String,
    },
    /// A signing key can't be read.
    #[error("the signing key can't be read: {0}")]
    Key(String),
}

/// The authorisation rules refuse the event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthError(pub String);

/// State resolution could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// An event that the algorithm needs was not given.
    #[error("state resolution needs the event {0}, which was not given")]
    Missing(OwnedEventId),
    /// An event contradicts what its room version promises.
    #[error("state resolution failed: {0}")]
    Malformed(String),
}
