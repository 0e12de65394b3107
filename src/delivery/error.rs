//! What can go wrong.

use resuni_accounts::AccountError;
use resuni_rooms::RoomError;
use resuni_store::{CommitError, StoreError};

/// Why something was not counted or sent on.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A batch was refused.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A room could not be read.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// An account could not be read.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The mail server can't be used, or did not take a mail.
    #[error("a mail could not be sent: {0}")]
    Mail(String),
}

impl DeliveryError {
    /// Whether only the event at hand is the matter, so that the next can be worked on.
    pub(crate) fn is_of_one_event(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::Corrupt { .. }),
            Self::Commit(_) => false,
            Self::Room(RoomError::Store(error)) => matches!(error, StoreError::Corrupt { .. }),
            Self::Account(AccountError::Store(error)) => {
                matches!(error, StoreError::Corrupt { .. })
            }
            Self::Room(_) | Self::Account(_) | Self::Mail(_) => true,
        }
    }
}
