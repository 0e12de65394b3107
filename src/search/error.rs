//! What can go wrong: the floors below, and a token that is none.

use resuni_accounts::AccountError;
use resuni_rooms::RoomError;
use resuni_store::{CommitError, StoreError};

/// Why nothing can be searched, or the index not be kept.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The token of a page is none of ours (`M_INVALID_PARAM`).
    #[error("`next_batch` is not a token of this search.")]
    BadToken,
    /// A room can't be read.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// An account can't be read.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index can't be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl SearchError {
    /// Whether only one event is amiss, so that the follower may go on with the next.
    pub(crate) fn is_of_one_event(&self) -> bool {
        matches!(self, Self::Room(error) if !matches!(error, RoomError::Store(_) | RoomError::Commit(_)))
    }
}
