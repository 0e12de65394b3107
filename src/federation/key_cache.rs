//! Keys of users of other servers, for as long as their servers tell us of changes (client-server API, "Tracking the device
//! list for a user"; server-server API, "Device Management").
//!
//! A server sends `m.device_list_update` to all servers that share a room with its user. So keys that were fetched stay
//! good while we share a room without interruption and hear of no change. Of a room whose members are still arriving
//! (MSC3902) that holds only for those whose joining we saw: others may have left before, and then nobody tells us.

use std::sync::Arc;

use quick_cache::sync::Cache;
use resuni_accounts::Accounts;
use resuni_rooms::{Membership, RoomOf, Rooms, tables::Place};
use resuni_store::Position;
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value};

use crate::error::FederationError;

/// Users whose keys are kept.
const USERS: usize = 10_000;
/// The most bytes of one user's keys that are kept.
const MAX_BYTES: usize = 64 << 10;
/// Rooms that are looked at for one that is shared.
const ROOMS: usize = 50;
/// Local members of a room that are looked at for one who was there all the time.
const WITNESSES: usize = 50;

type Object = Map<String, Value>;

/// All public keys of a user.
#[derive(Clone, Debug, Default)]
pub struct PublicKeys {
    /// Identity keys by device; none if the server said nothing of them.
    pub devices: Option<Object>,
    /// The master key.
    pub master: Option<Object>,
    /// The self-signing key.
    pub self_signing: Option<Object>,
}

struct Kept {
    /// All that was told up to here is in it.
    at: Position,
    keys: PublicKeys,
}

/// Keeps keys.
pub struct KeyCache {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    kept: Cache<OwnedUserId, Arc<Kept>>,
}

impl KeyCache {
    /// An empty one.
    #[must_use]
    pub fn new(rooms: Arc<Rooms>, accounts: Arc<Accounts>) -> Self {
        Self {
            rooms,
            accounts,
            kept: Cache::new(USERS),
        }
    }

    /// The place in the log to keep an answer with: to be asked before the request is sent.
    #[must_use]
    pub fn now(&self) -> Position {
        self.rooms.store().log().watermark()
    }

    /// The keys of a user, if they were fetched and nothing was missed since.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn get(&self, user: &UserId) -> Result<Option<PublicKeys>, FederationError> {
        let Some(kept) = self.kept.get(user) else {
            return Ok(None);
        };
        let changed = self.accounts.device_list_position(user).await?;
        if changed.is_none_or(|changed| changed <= kept.at) && self.told(user, kept.at).await? {
            return Ok(Some(kept.keys.clone()));
        }
        self.kept.remove(user);
        Ok(None)
    }

    /// Keeps all keys of a user, fetched after `at`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn keep(
        &self,
        user: &UserId,
        at: Position,
        keys: PublicKeys,
    ) -> Result<(), FederationError> {
        let size = serde_json::to_string(&keys.devices).map_or(usize::MAX, |json| json.len());
        if size <= MAX_BYTES && self.told(user, at).await? {
            self.kept
                .insert(user.to_owned(), Arc::new(Kept { at, keys }));
        }
        Ok(())
    }

    /// Whether the user's server has told us of every change since `since`: whether we have shared a room all the time.
    async fn told(&self, user: &UserId, since: Position) -> Result<bool, FederationError> {
        let rooms = self.rooms.rooms_of(user, &[Membership::Join]).await?;
        for room in rooms.iter().take(ROOMS) {
            if room.row.position <= since && self.shared(room, since).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn shared(&self, room: &RoomOf, since: Position) -> Result<bool, FederationError> {
        let Some(view) = self.rooms.view_num(room.num).await? else {
            return Ok(false);
        };
        if view.is_partial() {
            let place = view.place_of(room.row.event).await?;
            if !matches!(place, Some(Place::Timeline { .. })) {
                return Ok(false);
            }
        }
        for member in view.local_members(WITNESSES).await? {
            let row = view.user_room(&member).await?;
            if row.is_some_and(|row| row.position <= since) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
