//! Posts, profile and group rooms, public timelines: what of MSC4501 (Social Media on Matrix) can be read by anybody.
//!
//! A profile or a group is an ordinary room, and a post an ordinary event in it; nothing here writes
//! either. A follower of the store's log keeps an index of the posts that anybody may read: those of
//! rooms that are `world_readable` now and were when the post was sent. Whatever reads the index asks
//! the rooms again, so that a page never shows more than they allow, however far the follower is.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod content;
mod error;
mod index;
mod names;
mod posts;
mod profiles;
mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use quick_cache::sync::Cache;
use resuni_accounts::Accounts;
use resuni_rooms::{RoomNum, RoomView, Rooms};
use resuni_store::{Follower, Store};
use ruma::ServerName;
use tokio::sync::Mutex;

pub use content::{Attachment, PostContent, Reference, ReferenceKind};
pub use error::FeedError;
pub use names::RoomKind;
pub use posts::{MAX_PAGE, Post, PostPage, PostToken, Quoted};
pub use profiles::Profile;
pub use tables::TABLES;

/// Rooms of which it is remembered what they are; the least used are looked up again.
const KINDS: usize = 16_384;

/// What people have to say in public. Share it in an `Arc`, and let [`Feed::run`] run.
pub struct Feed {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    store: Store,
    /// The type of a room never changes: it is in its create event.
    kinds: Cache<RoomNum, Option<RoomKind>>,
    follower: Mutex<Follower>,
}

impl Feed {
    /// The feed of these rooms and people.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(rooms: Arc<Rooms>, accounts: Arc<Accounts>) -> Result<Arc<Self>, FeedError> {
        let store = rooms.store().clone();
        Ok(Arc::new(Self {
            follower: Mutex::new(store.follower("feed").await?),
            kinds: Cache::new(KINDS),
            rooms,
            accounts,
            store,
        }))
    }

    /// This server's name.
    pub fn server_name(&self) -> &ServerName {
        self.rooms.server_name()
    }

    /// Whether a room is a profile or a group.
    async fn kind_of(&self, room: RoomNum) -> Result<Option<RoomKind>, FeedError> {
        if let Some(kind) = self.kinds.get(&room) {
            return Ok(kind);
        }
        let Some(view) = self.rooms.view_num(room).await? else {
            return Ok(None);
        };
        let kind = kind_in(&view).await?;
        self.kinds.insert(room, kind);
        Ok(kind)
    }
}

/// Whether the room is a profile or a group, by its create event.
async fn kind_in(view: &RoomView) -> Result<Option<RoomKind>, FeedError> {
    let Some(create) = view.state("m.room.create", "").await? else {
        return Ok(None);
    };
    let room_type = resuni_rooms::fields::string_member(create.content().get(), "type");
    Ok(room_type.and_then(|name| RoomKind::from_room_type(&name)))
}
