//! Full text of messages, and people by name: what of them a reader may find.
//!
//! A follower of the store's log keeps two small inverted indexes in the store: the words of what came to each room, and
//! the names of who is in it. An index row only says where to look: whoever searches asks the rooms again what the reader
//! may see, so a row that is late or stale shows nothing that it should not. History that was fetched later is not in
//! the log and not found.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod error;
mod index;
mod people;
pub mod tables;
#[cfg(test)]
mod tests;
mod text;
mod words;

use std::sync::Arc;

use resuni_accounts::Accounts;
use resuni_rooms::Rooms;
use resuni_store::{Follower, Store};
use tokio::sync::Mutex;

pub use error::SearchError;
pub use people::Found;
pub use tables::TABLES;
pub use text::{Hit, Key, Query, Results};

/// Finds messages and people. Share it in an `Arc`, and let [`Search::run`] run.
pub struct Search {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    store: Store,
    follower: Mutex<Follower>,
}

impl Search {
    /// Over these rooms and people.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn open(
        rooms: Arc<Rooms>,
        accounts: Arc<Accounts>,
    ) -> Result<Arc<Self>, SearchError> {
        let store = rooms.store().clone();
        Ok(Arc::new(Self {
            follower: Mutex::new(store.follower("search").await?),
            rooms,
            accounts,
            store,
        }))
    }
}
