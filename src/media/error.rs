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
    /// The user has uploaded as much as the operator allows (`M_FORBIDDEN`).
    #[error("You may keep {limit} bytes of files on this server, and this is more.")]
    Quota {
        /// The limit.
        limit: u64,
    },
    /// The client broke off.
    #[error("The file did not arrive whole: {0}")]
    Broken(String),
    /// Its name or type is longer than anybody needs (`M_INVALID_PARAM`).
    #[error("{0}")]
    Invalid(&'static str),
    /// There is no such address, or it has expired (`M_NOT_FOUND`).
    #[error("There is no such file.")]
    Unknown,
    /// The address was given to somebody else (`M_FORBIDDEN`).
    #[error("This address was given to somebody else.")]
    NotYours,
    /// The address has its file (`M_CANNOT_OVERWRITE_MEDIA`).
    #[error("There is a file at this address already.")]
    Taken,
    /// The file that was promised has not come (`M_NOT_YET_UPLOADED`).
    #[error("The file has not been uploaded yet.")]
    NotYetUploaded,
    /// Too many addresses without a file (`M_LIMIT_EXCEEDED`).
    #[error("Upload to the addresses you have before you ask for more.")]
    TooManyPromises,
    /// What is no picture has no thumbnail (`M_UNKNOWN`).
    #[error("Thumbnails are made of PNG, JPEG, GIF and WebP pictures only.")]
    NoPicture,
    /// The picture is too large to be looked at (`M_TOO_LARGE`).
    #[error("The picture is too large for a thumbnail.")]
    TooManyPixels,
    /// The disk failed.
    #[error("A file could not be written or read: {0}")]
    Disk(#[from] std::io::Error),
    /// The object store failed.
    #[error("The object store did not take or give a file: {0}")]
    Bucket(String),
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
