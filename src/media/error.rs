//! What can go wrong with a file.

use resuni_store::{CommitError, StoreError};

/// Why a file could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// It has more bytes than the operator allows (`M_TOO_LARGE`).
    #[error("A file may have at most {limit} bytes.")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The client broke off.
    #[error("The file did not arrive whole: {0}")]
    Broken(String),
    /// Its name or type is longer than anybody needs (`M_INVALID_PARAM`).
    #[error("{0}")]
    Invalid(&'static str),
    /// The disk failed.
    #[error("A file could not be written or read: {0}")]
    Disk(#[from] std::io::Error),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The row could not be written.
    #[error("A file could not be noted: {0}")]
    Commit(#[from] CommitError),
    /// The system has no randomness to give.
    #[error("The system has no randomness to give: {0}")]
    Random(String),
}
