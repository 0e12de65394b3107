//! What can go wrong in a sync.

use resuni_accounts::AccountError;
use resuni_delivery::DeliveryError;
use resuni_rooms::RoomError;
use resuni_store::StoreError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The token names a position that this server has not reached: it is of another database, or
    /// the database was restored from an older copy.
    #[error(
        "this sync token is newer than this server's database: please sync again from the start"
    )]
    TokenFromTheFuture,
    /// The position of a sliding sync is of no connection that is known (MSC4186).
    #[error("this server does not know the connection any more: please begin another")]
    UnknownPos,
    /// Of a room.
    #[error(transparent)]
    Rooms(#[from] RoomError),
    /// Of the account.
    #[error(transparent)]
    Accounts(#[from] AccountError),
    /// Of the unread counts.
    #[error(transparent)]
    Unread(#[from] DeliveryError),
    /// Of the database.
    #[error(transparent)]
    Store(#[from] StoreError),
}
