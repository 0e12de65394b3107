//! What can go wrong in a room, said so that the person who reads it knows what to do.

use resuni_dag::FormatError;
use resuni_store::{CommitError, StoreError};
use ruma::{OwnedRoomId, OwnedServerName};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// The auth rules, or the room's settings, refuse it (`M_FORBIDDEN`).
    #[error("{0}")]
    Forbidden(String),
    /// There is no such event, state, alias … (`M_NOT_FOUND`).
    #[error("{0}")]
    NotFound(String),
    /// We have never been in this room, or it does not exist (`M_NOT_FOUND`).
    #[error("this server does not know the room {0}")]
    UnknownRoom(OwnedRoomId),
    /// The request can't be carried out as it is.
    #[error("{message}")]
    BadRequest {
        /// The Matrix error code, e.g. `M_BAD_JSON`.
        errcode: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// It is in use by another (`M_ROOM_IN_USE`, an alias for example).
    #[error("{0}")]
    InUse(String),
    /// Another server has to help: one of these.
    #[error("another server of the room {room} has to be asked")]
    Remote {
        /// The room.
        room: OwnedRoomId,
        /// Servers that are, or were, in it.
        via: Vec<OwnedServerName>,
    },
    /// No server can be found that is in the room.
    #[error("this server is not in the room {0}, and knows no other server that is")]
    NoWay(OwnedRoomId),
    /// The room's version is not one of `resuni_dag::SUPPORTED` (`M_UNSUPPORTED_ROOM_VERSION`).
    #[error("room version {0} is not supported by this server")]
    UnsupportedVersion(String),
    /// The room's policy server has not signed it: what it answered, or that it can't be asked.
    #[error("{message}")]
    Policy {
        /// The HTTP status.
        status: u16,
        /// The Matrix error code.
        errcode: String,
        /// A sentence.
        message: String,
    },
    /// The event is larger than the spec allows (`M_TOO_LARGE`).
    #[error("{0}")]
    TooLarge(String),
    /// The event is malformed (`M_BAD_JSON`).
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The room is being written by too many at once; try again (`M_UNKNOWN`, 503).
    #[error("the room was changed by others at the same time, again and again; try again")]
    Contended,
    /// The database failed, or contradicts itself.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row that others point at is missing: `resuni doctor --database` tells more.
    #[error("the database contradicts itself: {0}")]
    Inconsistent(String),
    /// A batch was refused by the store for a reason other than its guards.
    #[error("the change could not be written: {0}")]
    Commit(String),
}

impl RoomError {
    /// A request that can't be carried out.
    pub fn bad(errcode: &'static str, message: impl Into<String>) -> Self {
        Self::BadRequest {
            errcode,
            message: message.into(),
        }
    }
}

impl From<CommitError> for RoomError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Guard { .. } => Self::Contended,
            CommitError::Store(error) => Self::Store(error),
            other => Self::Commit(other.to_string()),
        }
    }
}
