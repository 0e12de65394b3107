//! What can go wrong between servers.

use http::StatusCode;
use resuni_rooms::RoomError;
use ruma::{OwnedServerName, RoomVersionId};
use serde_json::{Map, Value};

use crate::net::HttpError;

/// Why a federation request, ours or theirs, failed.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    /// `federation.mode` leaves this server out.
    #[error("{0} is not among the servers that this one federates with")]
    NotAdmitted(OwnedServerName),
    /// The server did not answer lately and is left alone for a while.
    #[error("{server} did not answer lately; it will be tried again in {} s", .wait_ms.div_ceil(1000))]
    BackedOff {
        /// The server.
        server: OwnedServerName,
        /// Milliseconds until then.
        wait_ms: u64,
    },
    /// No answer.
    #[error("{server}: {source}")]
    Unreachable {
        /// The server.
        server: OwnedServerName,
        /// Why.
        source: HttpError,
    },
    /// The server answered with an error.
    #[error("{0}")]
    Remote(Box<RemoteError>),
    /// The server's answer makes no sense or breaks the protocol.
    #[error("{server} sent an answer that cannot be used: {reason}")]
    BadAnswer {
        /// The server.
        server: OwnedServerName,
        /// What is wrong with it.
        reason: String,
    },
    /// The request is not, or not rightly, signed (401 `M_UNAUTHORIZED`).
    #[error("{0}")]
    Unauthorized(String),
    /// The requester may not do that (403 `M_FORBIDDEN`).
    #[error("{0}")]
    Forbidden(String),
    /// Who is invited does not want to be (403 `M_INVITE_BLOCKED`).
    #[error("this user does not want to be invited")]
    InviteBlocked,
    /// There is no such thing, or the requester may not know of it (404 `M_NOT_FOUND`).
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense (400 with this code).
    #[error("{message}")]
    BadRequest {
        /// The Matrix error code.
        errcode: &'static str,
        /// A sentence.
        message: String,
    },
    /// The requester does not support the room's version (400 `M_INCOMPATIBLE_ROOM_VERSION`).
    #[error("the room has version {0}, which the other server does not support")]
    IncompatibleRoomVersion(RoomVersionId),
    /// The requester asks for this too often (429 `M_LIMIT_EXCEEDED`).
    #[error("you ask for this too often")]
    TooOften {
        /// Milliseconds until it may be asked again.
        retry_after_ms: u64,
    },
    /// Something of ours failed: the disk, a bug (500 `M_UNKNOWN`).
    #[error("{0}")]
    Internal(String),
}

impl FederationError {
    pub(crate) fn bad_json(message: impl Into<String>) -> Self {
        Self::BadRequest {
            errcode: "M_BAD_JSON",
            message: message.into(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::BadRequest {
            errcode: "M_INVALID_PARAM",
            message: message.into(),
        }
    }

    pub(crate) fn bad_answer(server: &ruma::ServerName, reason: impl std::fmt::Display) -> Self {
        Self::BadAnswer {
            server: server.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// The error code that the other server gave, if it did.
    #[must_use]
    pub fn remote_code(&self) -> Option<&str> {
        match self {
            Self::Remote(remote) => remote.errcode.as_deref(),
            _ => None,
        }
    }

    /// Whether the server itself is out of reach, so that another may be asked instead.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::BackedOff { .. } | Self::Unreachable { .. } => true,
            Self::Remote(remote) => remote.status.is_server_error(),
            _ => false,
        }
    }
}

impl From<RoomError> for FederationError {
    fn from(error: RoomError) -> Self {
        match error {
            RoomError::Forbidden(message) | RoomError::Policy { message, .. } => {
                Self::Forbidden(message)
            }
            RoomError::NotFound(message) => Self::NotFound(message),
            error @ (RoomError::UnknownRoom(_) | RoomError::NoWay(_)) => {
                Self::NotFound(error.to_string())
            }
            RoomError::BadRequest { errcode, message } => Self::BadRequest { errcode, message },
            error @ (RoomError::Format(_) | RoomError::TooLarge(_)) => {
                Self::bad_json(error.to_string())
            }
            RoomError::UnsupportedVersion(version) => match RoomVersionId::try_from(version) {
                Ok(version) => Self::IncompatibleRoomVersion(version),
                Err(error) => Self::bad_json(error.to_string()),
            },
            error => Self::Internal(error.to_string()),
        }
    }
}

impl From<resuni_accounts::AccountError> for FederationError {
    fn from(error: resuni_accounts::AccountError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<resuni_store::StoreError> for FederationError {
    fn from(error: resuni_store::StoreError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<resuni_store::CommitError> for FederationError {
    fn from(error: resuni_store::CommitError) -> Self {
        Self::Internal(error.to_string())
    }
}

/// An error answer of another server, kept whole so that it can be passed on.
#[derive(Clone, Debug)]
pub struct RemoteError {
    /// Who answered.
    pub server: OwnedServerName,
    /// The HTTP status.
    pub status: StatusCode,
    /// The Matrix error code, when the body has one.
    pub errcode: Option<String>,
    /// The sentence in the body, or one about the status.
    pub error: String,
    /// Everything else in the body, such as `room_version`.
    pub fields: Map<String, Value>,
}

impl RemoteError {
    pub(crate) fn read(server: OwnedServerName, status: StatusCode, body: &[u8]) -> Box<Self> {
        let mut fields: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let mut text = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let errcode = text("errcode");
        let error = text("error").unwrap_or_else(|| format!("it answered {status}"));
        Box::new(Self {
            server,
            status,
            errcode,
            error,
            fields,
        })
    }

    /// The server does not know the endpoint (404 or 405 with `M_UNRECOGNIZED`, or with no code at all
    /// from servers older than that code).
    #[must_use]
    pub fn is_unrecognized(&self) -> bool {
        matches!(self.status.as_u16(), 400 | 404 | 405)
            && matches!(self.errcode.as_deref(), None | Some("M_UNRECOGNIZED"))
    }
}

impl std::fmt::Display for RemoteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.server, self.error)?;
        if let Some(code) = &self.errcode {
            write!(f, " ({code})")?;
        }
        Ok(())
    }
}
