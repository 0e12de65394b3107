//! Whose keys a device has to look at again (spec, "Tracking the device list for a user").

use std::collections::BTreeSet;

use resuni_rooms::{
    Membership, RoomNum, UserNum,
    tables::{EventLog, TOPIC_EVENT, TOPIC_WHOLE, WholeLog},
};
use resuni_store::{LogEntry, Position};
use ruma::{OwnedUserId, UserId};

use crate::{Sync, SyncToken, Who, error::SyncError};

/// Entries of the log that are looked through for who came and went. Beyond it, everybody that the
/// user shares a room with is named: the client asks for their keys anew.
const ENTRIES: usize = 10_000;

/// What changed around a user.
#[derive(Debug, Default)]
pub struct DeviceLists {
    /// Who shares a room with the user and has new keys, or came to share one.
    pub changed: Vec<OwnedUserId>,
    /// Who shares no room with the user any more.
    pub left: Vec<OwnedUserId>,
}

impl Sync {
    /// What changed since a token (`/keys/changes`). Where it is to end is no more than a hint, and not heeded: of each
    /// user the newest change is known, and somebody whose keys changed again after it must not be left out.
    pub async fn key_changes(
        &self,
        who: Who<'_>,
        from: SyncToken,
    ) -> Result<DeviceLists, SyncError> {
        self.device_lists(who.user, from.position, self.position())
            .await
    }

    /// What changed after `since`, up to and including `up_to`. Who shares a room with the user is
    /// decided by the rooms as they are now.
    pub(crate) async fn device_lists(
        &self,
        me: &UserId,
        since: Position,
        up_to: Position,
    ) -> Result<DeviceLists, SyncError> {
        let snapshot = self.rooms.store().snapshot();
        let (mut changed, mut left) = (BTreeSet::new(), BTreeSet::new());
        let users = self
            .accounts
            .device_lists_since(&snapshot, since, up_to)
            .await?;
        for user in users {
            if self.sees_keys(me, &user).await? {
                changed.insert(user);
            }
        }
        let entries = self.rooms.store().log().read(since, up_to, ENTRIES).await?;
        if entries.len() < ENTRIES {
            changed.extend(self.arrived(me, &entries, up_to).await?);
            for user in self.met(me, &entries).await? {
                let seen = self.sees_keys(me, &user).await?;
                if seen { &mut changed } else { &mut left }.insert(user);
            }
        } else {
            for room in self.rooms.rooms_of(me, &[Membership::Join]).await? {
                changed.extend(self.people(room.num).await?);
            }
        }
        Ok(DeviceLists {
            changed: changed.into_iter().collect(),
            left: left.into_iter().collect(),
        })
    }

    /// Whose keys matter now that the members of a room have arrived (MSC3902): those whose keys changed before anybody
    /// knew that they are there, and where messages are encrypted everybody.
    async fn arrived(
        &self,
        me: &UserId,
        entries: &[LogEntry],
        up_to: Position,
    ) -> Result<BTreeSet<OwnedUserId>, SyncError> {
        let mut arrived = BTreeSet::new();
        let snapshot = self.rooms.store().snapshot();
        for entry in entries.iter().filter(|entry| entry.topic == TOPIC_WHOLE) {
            let (Some(view), Some(log)) = (
                self.rooms.view_num(RoomNum(entry.scope)).await?,
                WholeLog::from_bytes(&entry.payload),
            ) else {
                continue;
            };
            if !view.joined(me).await? {
                continue;
            }
            if view.state("m.room.encryption", "").await?.is_some() {
                arrived.extend(self.people(view.num()).await?);
                continue;
            }
            let users = self
                .accounts
                .device_lists_since(&snapshot, log.since, up_to)
                .await?;
            for user in users {
                if view.joined(&user).await? {
                    arrived.insert(user);
                }
            }
        }
        arrived.remove(me);
        Ok(arrived)
    }

    /// Whether `me` may know somebody's keys.
    async fn sees_keys(&self, me: &UserId, user: &UserId) -> Result<bool, SyncError> {
        Ok(user == me || self.rooms.share_a_room(me, user).await?)
    }

    /// Everybody else whose membership changed in a room of the user, and all people of the rooms
    /// in which the user's own did: after a join the user too, whose other devices have to know.
    async fn met(
        &self,
        user: &UserId,
        entries: &[LogEntry],
    ) -> Result<BTreeSet<OwnedUserId>, SyncError> {
        let Some(me) = self.rooms.user_num(user).await? else {
            return Ok(BTreeSet::new());
        };
        let (mut moved, mut own) = (BTreeSet::new(), BTreeSet::new());
        for entry in entries.iter().filter(|entry| entry.topic == TOPIC_EVENT) {
            if let Some(event) = EventLog::from_bytes(&entry.payload) {
                let room = RoomNum(entry.scope);
                if event.memberships.contains(&me) {
                    own.insert(room);
                }
                let users = event.target.into_iter().chain(event.memberships);
                moved.extend(users.filter(|user| *user != me).map(|user| (room, user)));
            }
        }
        let mut met = BTreeSet::new();
        for room in &own {
            met.extend(self.people(*room).await?);
        }
        for (room, other) in moved {
            if !own.contains(&room) && self.rooms.is_joined(me, room).await? {
                met.extend(self.user_id(room, other).await?);
            }
        }
        Ok(met)
    }

    async fn people(&self, room: RoomNum) -> Result<Vec<OwnedUserId>, SyncError> {
        let Some(view) = self.rooms.view_num(room).await? else {
            return Ok(Vec::new());
        };
        let people = view.joined_users(None, usize::MAX).await?;
        Ok(people.into_iter().map(|(_, user)| user).collect())
    }

    async fn user_id(
        &self,
        room: RoomNum,
        user: UserNum,
    ) -> Result<Option<OwnedUserId>, SyncError> {
        match self.rooms.view_num(room).await? {
            Some(view) => Ok(Some(view.user_id(user).await?)),
            None => Ok(None),
        }
    }
}
