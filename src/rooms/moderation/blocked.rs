//! Rooms that our users are kept out of.

use resuni_store::{Batch, Table, TableInfo, versioned};
use ruma::{OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use crate::error::RoomError;
use crate::rooms::Rooms;

/// Rooms that none of our users may enter, by their ids: they need not be known here.
pub static BLOCKED: Table<String, Blocked> = Table::new(0x0260, "blocked rooms");

/// The tables of this file.
pub const TABLES: &[TableInfo] = &[BLOCKED.info()];

/// A row of [`BLOCKED`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// The operator who did it.
    pub by: OwnedUserId,
    /// When, in milliseconds since 1970.
    pub since_ms: u64,
}
versioned!(Blocked, 1);

impl Rooms {
    /// Keeps our users out of a room from now on, or no longer. Who is in stays.
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn block(&self, room: &RoomId, by: &UserId, block: bool) -> Result<(), RoomError> {
        let mut batch = Batch::new();
        let key = room.to_string();
        if block {
            if self.blocked(room).await?.is_some() {
                return Ok(());
            }
            let row = Blocked {
                by: by.to_owned(),
                since_ms: self.now_ms(),
            };
            batch.put(&BLOCKED, &key, &row);
        } else {
            batch.delete(&BLOCKED, &key);
        }
        Ok(self.store().commit_durable(batch).await?)
    }

    /// Whether our users are kept out of a room, and by whom.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn blocked(&self, room: &RoomId) -> Result<Option<Blocked>, RoomError> {
        let key = room.to_string();
        Ok(self.store().snapshot().get(&BLOCKED, &key).await?)
    }

    /// Nothing, of a room that our users may enter.
    pub(crate) async fn check_not_blocked(&self, room: &RoomId) -> Result<(), RoomError> {
        match self.blocked(room).await? {
            None => Ok(()),
            Some(_) => Err(RoomError::Forbidden(
                "this room has been blocked on this server".into(),
            )),
        }
    }
}
