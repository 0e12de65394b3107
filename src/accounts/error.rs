//! What can go wrong with accounts, said for people.

use resuni_store::{CommitError, StoreError};

/// Why an operation on an account was refused or failed. `http` turns it into a Matrix error; the
/// variant's doc names the error code of the specification.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// `M_INVALID_USERNAME`
    #[error("This is not a username: {0}.")]
    InvalidUsername(String),
    /// `M_USER_IN_USE`
    #[error("This username is taken.")]
    UserInUse,
    /// `M_EXCLUSIVE`
    #[error("This name is reserved for an application service.")]
    Exclusive,
    /// `M_FORBIDDEN` (403)
    #[error("{0}")]
    Forbidden(String),
    /// `M_USER_DEACTIVATED` (403)
    #[error("This account has been deactivated.")]
    Deactivated,
    /// `M_USER_LOCKED` (401, soft logout)
    #[error("This account has been locked.")]
    Locked,
    /// `M_UNKNOWN_TOKEN` (401)
    #[error("This token is unknown or has expired.")]
    UnknownToken {
        /// Whether the client may keep what it has stored and log in again.
        soft_logout: bool,
    },
    /// `M_NOT_FOUND` (404)
    #[error("{0}")]
    NotFound(&'static str),
    /// `M_INVALID_PARAM` (400)
    #[error("{0}")]
    InvalidParam(String),
    /// `M_MISSING_PARAM` (400)
    #[error("{0}")]
    MissingParam(&'static str),
    /// `M_INVALID_SIGNATURE` (400)
    #[error("The key is not signed by the master key.")]
    InvalidSignature,
    /// `M_UNKNOWN` (400)
    #[error("{0}")]
    Rejected(String),
    /// `M_WEAK_PASSWORD` (400)
    #[error("{0}")]
    WeakPassword(&'static str),
    /// `M_THREEPID_IN_USE` (400)
    #[error("This address belongs to an account already.")]
    ThreepidInUse,
    /// `M_THREEPID_NOT_FOUND` (400)
    #[error("No account has this address.")]
    ThreepidNotFound,
    /// `M_THREEPID_AUTH_FAILED` (400)
    #[error("It has not been shown that this address is yours. Open the link in the mail first.")]
    ThreepidAuthFailed,
    /// `M_UNKNOWN_DEVICE` (400)
    #[error("This user has no such device.")]
    UnknownDevice,
    /// `M_WRONG_ROOM_KEYS_VERSION` (403)
    #[error("This is not the current key backup.")]
    WrongBackup {
        /// The version that is.
        current: u64,
    },
    /// `M_TOO_LARGE` (413)
    #[error("{what} may have at most {limit} bytes.")]
    TooLarge {
        /// What is too large, as the subject of a sentence.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// `M_PROFILE_TOO_LARGE` (400)
    #[error("A profile may have at most 64 KiB.")]
    ProfileTooLarge,
    /// `M_KEY_TOO_LARGE` (400)
    #[error("The name of a profile field may have at most 255 bytes.")]
    KeyTooLarge,
    /// `M_BAD_JSON` with status 405: the type belongs to the server.
    #[error("Account data of this type can't be set through this API.")]
    ServerManaged,
    /// `M_LIMIT_EXCEEDED` (429)
    #[error("Too many attempts. Try again later.")]
    LimitExceeded {
        /// When to try again, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// `M_UNKNOWN` (500): somebody else changed a row of this table meanwhile. The lanes prevent
    /// it, except where a function handles it itself.
    #[error("The request met another one that changed the same thing ({0}). Try again.")]
    Raced(&'static str),
    /// `M_UNKNOWN` (500): a row or a computation that should not fail did.
    #[error("{0}")]
    Internal(String),
    /// `M_UNKNOWN` (500)
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CommitError> for AccountError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Store(error) => Self::Store(error),
            CommitError::Guard { table, .. } => Self::Raced(table),
            other => Self::Internal(format!("The accounts could not be written: {other}")),
        }
    }
}

impl From<postcard::Error> for AccountError {
    fn from(error: postcard::Error) -> Self {
        Self::Internal(format!("A log entry could not be encoded: {error}"))
    }
}

/// Why a request is not authenticated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// `M_MISSING_TOKEN` (401)
    #[error("An access token is needed.")]
    Missing,
    /// `M_UNKNOWN_TOKEN` (401)
    #[error("This access token is unknown or has expired.")]
    Unknown {
        /// Whether the client may keep what it has stored and log in again.
        soft_logout: bool,
    },
    /// `M_USER_LOCKED` (401, soft logout)
    #[error("This account has been locked.")]
    Locked,
    /// `M_USER_DEACTIVATED` (403)
    #[error("This account has been deactivated.")]
    Deactivated,
    /// `M_FORBIDDEN` (403): a user outside the namespaces of the application service
    #[error("The application service may not act as this user.")]
    NotInNamespace,
    /// `M_FORBIDDEN` (403): the user an application service wants to act as is not registered
    #[error("The application service has not registered this user.")]
    NotRegistered,
    /// `M_UNKNOWN_DEVICE` (400)
    #[error("This user has no such device.")]
    UnknownDevice,
    /// `M_UNKNOWN` (500)
    #[error(transparent)]
    Store(#[from] StoreError),
}
