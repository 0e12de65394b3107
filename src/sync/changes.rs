//! What a stretch of the log is about.

use std::collections::BTreeSet;

use resuni_accounts::{
    AccountNum,
    e2e::{DEVICE_LISTS_TOPIC, DeviceListChanged},
};
use resuni_rooms::{
    RoomNum, UserNum,
    receipts::TOPIC_RECEIPT,
    tables::{EventLog, TOPIC_EVENT, TOPIC_STICKY, TOPIC_WHOLE, WholeLog},
};
use resuni_store::LogEntry;
use ruma::{OwnedUserId, UserId};

/// The high byte of the topics of `accounts`, whose scope is the account.
pub(crate) const ACCOUNTS: u16 = 0x03;

/// Whom the entries concern.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Rooms with new events, receipts or another state.
    pub rooms: BTreeSet<RoomNum>,
    /// Our users whose membership changed, in whatever room.
    pub members: BTreeSet<UserNum>,
    /// The same, with the room.
    pub moved: BTreeSet<(RoomNum, UserNum)>,
    /// Users, here or elsewhere, whose keys changed.
    pub keys: BTreeSet<OwnedUserId>,
    /// Accounts with new account data or the like.
    pub accounts: BTreeSet<AccountNum>,
}

fn changed_user(payload: &[u8]) -> Option<OwnedUserId> {
    let change = DeviceListChanged::from_bytes(payload)?;
    UserId::parse(change.user_id).ok()
}

impl Changes {
    pub fn of(entries: &[LogEntry]) -> Self {
        let mut changes = Self::default();
        for entry in entries {
            if entry.topic == TOPIC_EVENT {
                changes.rooms.insert(RoomNum(entry.scope));
                if let Some(event) = EventLog::from_bytes(&entry.payload) {
                    let moved = event.memberships.iter();
                    changes
                        .moved
                        .extend(moved.map(|user| (RoomNum(entry.scope), *user)));
                    changes.members.extend(event.memberships);
                    changes.members.extend(event.target);
                }
            } else if entry.topic == TOPIC_WHOLE {
                changes.rooms.insert(RoomNum(entry.scope));
                let whole = WholeLog::from_bytes(&entry.payload);
                changes
                    .members
                    .extend(whole.into_iter().flat_map(|whole| whole.memberships));
            } else if entry.topic == TOPIC_RECEIPT || entry.topic == TOPIC_STICKY {
                changes.rooms.insert(RoomNum(entry.scope));
            } else if entry.topic.0 >> 8 == ACCOUNTS {
                changes.accounts.insert(AccountNum(entry.scope));
                if entry.topic == DEVICE_LISTS_TOPIC {
                    changes.keys.extend(changed_user(&entry.payload));
                }
            }
        }
        changes
    }
}

/// Member events among the entries: the room and the user.
pub(crate) fn joins(entries: &[LogEntry]) -> BTreeSet<(RoomNum, UserNum)> {
    let events = entries.iter().filter(|entry| entry.topic == TOPIC_EVENT);
    events
        .filter_map(|entry| {
            let event = EventLog::from_bytes(&entry.payload)?;
            let users = event.memberships.into_iter().chain(event.target);
            Some(users.map(|user| (RoomNum(entry.scope), user)))
        })
        .flatten()
        .collect()
}
