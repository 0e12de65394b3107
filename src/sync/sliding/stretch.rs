//! What happened around a user since a connection was last answered.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use resuni_accounts::AccountDataChange;
use resuni_rooms::{
    RoomNum, UserNum,
    receipts::{ReceiptLog, TOPIC_RECEIPT},
};

use super::connection::Seen;
use crate::{Sync, SyncToken, Who, changes::Changes, error::SyncError};

/// What happened.
#[derive(Default)]
pub(crate) struct Stretch {
    /// By room; none where the log in memory does not reach back: anything may have happened anywhere.
    pub log: Option<Named>,
    /// Global account data that changed, or all of it.
    pub global: Vec<AccountDataChange>,
    /// Account data that changed, by room.
    pub by_room: BTreeMap<RoomNum, Vec<AccountDataChange>>,
}

/// Rooms that the log names.
#[derive(Default)]
pub(crate) struct Named {
    /// With new receipts.
    pub receipts: HashSet<RoomNum>,
    /// In which other people type.
    pub typing: HashSet<RoomNum>,
    /// In which the user read something.
    pub read: HashSet<RoomNum>,
    /// In which anything happened.
    pub touched: BTreeSet<RoomNum>,
    /// In which the user's membership changed.
    pub moved: HashSet<RoomNum>,
}

impl Stretch {
    pub async fn of(
        sync: &Sync,
        who: Who<'_>,
        user: Option<UserNum>,
        seen: &Seen,
        now: SyncToken,
    ) -> Result<Self, SyncError> {
        let Some(since) = seen.token else {
            return Ok(Self::default());
        };
        let mut stretch = Self {
            log: Self::log(sync, user, since, now),
            ..Self::default()
        };
        let snapshot = sync.rooms.store().snapshot();
        let changes = sync
            .accounts
            .account_data_since(&snapshot, who.account, since.position, now.position)
            .await?;
        for change in changes {
            let Some(room) = &change.room else {
                stretch.global.push(change);
                continue;
            };
            if let Ok(room) = <&ruma::RoomId>::try_from(room.as_str())
                && let Some(room) = sync.rooms.room_num(room).await?
            {
                stretch.by_room.entry(room).or_default().push(change);
            }
        }
        Ok(stretch)
    }

    fn log(sync: &Sync, user: Option<UserNum>, since: SyncToken, now: SyncToken) -> Option<Named> {
        let entries = sync
            .rooms
            .store()
            .log()
            .recent(since.position, now.position)?;
        let mut named = Named::default();
        for entry in entries.iter().filter(|entry| entry.topic == TOPIC_RECEIPT) {
            let room = RoomNum(entry.scope);
            named.receipts.insert(room);
            let receipt = ReceiptLog::from_bytes(&entry.payload);
            if receipt.is_some_and(|receipt| Some(receipt.user) == user) {
                named.read.insert(room);
            }
        }
        named.typing.extend(sync.typing.changed_since(since.typing));
        let changes = Changes::of(&entries);
        named.touched = changes.rooms;
        let moved = changes.moved.into_iter();
        named.moved = moved
            .filter(|(_, who)| Some(*who) == user)
            .map(|(room, _)| room)
            .collect();
        Some(named)
    }
}
