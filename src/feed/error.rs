//! What can go wrong: the floors below.

use resuni_accounts::AccountError;
use resuni_rooms::RoomError;
use resuni_store::{CommitError, StoreError};

/// Why the feed can't be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
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

impl FeedError {
    /// Whether only one event or room is amiss, so that the follower may go on with the next.
    pub(crate) fn is_of_one_event(&self) -> bool {
        matches!(self, Self::Room(error) if !matches!(error, RoomError::Store(_) | RoomError::Commit(_)))
    }
}
