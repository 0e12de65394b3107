//! What a sync tells a device for end-to-end encryption (spec, "Extensions to /sync" of the modules
//! "Send-to-Device messaging" and "End-to-End Encryption").

use std::collections::BTreeSet;

use resuni_accounts::e2e::ToDevicePage;
use resuni_rooms::{
    Membership, RoomNum, UserNum,
    tables::{EventLog, TOPIC_EVENT},
};
use resuni_store::{LogEntry, Position};
use ruma::{DeviceId, OwnedUserId, UserId};
use serde_json::json;

use crate::{answer::Answer, context::Context, error::SyncError};

/// Messages in one answer, as the spec recommends.
const MESSAGES: usize = 100;
/// Entries of the log that are looked through for who came and went. Beyond it, everybody that the
/// user shares a room with is named: the client asks for their keys anew.
const ENTRIES: usize = 10_000;

impl Context<'_> {
    /// Adds the device's messages, the counts of its keys, and whose keys it has to look at again.
    pub async fn device(&self, answer: &mut Answer) -> Result<(), SyncError> {
        let Some(device) = self.who.device else {
            return Ok(());
        };
        self.messages(device, answer).await?;
        let snapshot = self.sync.rooms.store().snapshot();
        let keys = self
            .sync
            .accounts
            .one_time_keys(&snapshot, self.who.account, device)
            .await?;
        answer.key_counts =
            Some([json!(keys.counts), json!(keys.unused_fallback)].map(|part| part.to_string()));
        if let Some(since) = self.since() {
            self.device_lists(since, answer).await?;
        }
        Ok(())
    }

    /// The messages that the device has not acknowledged.
    async fn messages(&self, device: &DeviceId, answer: &mut Answer) -> Result<(), SyncError> {
        let (accounts, account) = (&self.sync.accounts, self.who.account);
        let since = self
            .request
            .since
            .map_or(Position(0), |token| token.to_device);
        let snapshot = self.sync.rooms.store().snapshot();
        let up_to = self.now.position;
        let ToDevicePage { messages, more } = accounts
            .to_device(&snapshot, account, device, since, up_to, MESSAGES)
            .await?;
        if more {
            answer.to_device_up_to = messages.last().map(|message| message.position);
        }
        let events = messages.into_iter();
        answer.to_device = events
            .map(|message| message.event.get().to_owned())
            .collect();
        Ok(())
    }

    /// Whose keys changed, with whom the user came to share a room, and with whom no longer.
    async fn device_lists(&self, since: Position, answer: &mut Answer) -> Result<(), SyncError> {
        let (rooms, me) = (&self.sync.rooms, self.who.user);
        let snapshot = rooms.store().snapshot();
        let mut changed = BTreeSet::new();
        let mut left = BTreeSet::new();
        let users = self
            .sync
            .accounts
            .device_lists_since(&snapshot, since, self.now.position)
            .await?;
        for user in users {
            if self.sees_keys_of(&user).await? {
                changed.insert(user);
            }
        }
        let entries = rooms
            .store()
            .log()
            .read(since, self.now.position, ENTRIES)
            .await?;
        if entries.len() < ENTRIES {
            for user in self.met(&entries).await? {
                if user == me {
                    continue;
                }
                let seen = self.sees_keys_of(&user).await?;
                if seen { &mut changed } else { &mut left }.insert(user);
            }
        } else {
            for room in rooms.rooms_of(me, &[Membership::Join]).await? {
                changed.extend(self.people(room.num).await?);
            }
        }
        answer.changed = changed.into_iter().collect();
        answer.left = left.into_iter().collect();
        Ok(())
    }

    /// Whether the user may know somebody's keys.
    async fn sees_keys_of(&self, user: &UserId) -> Result<bool, SyncError> {
        Ok(user == self.who.user || self.sync.rooms.share_a_room(self.who.user, user).await?)
    }

    /// Everybody whose membership changed in a room of the user, and all people of the rooms in
    /// which the user's own did.
    async fn met(&self, entries: &[LogEntry]) -> Result<BTreeSet<OwnedUserId>, SyncError> {
        let rooms = &self.sync.rooms;
        let Some(me) = rooms.user_num(self.who.user).await? else {
            return Ok(BTreeSet::new());
        };
        let mut moved = BTreeSet::new();
        for entry in entries.iter().filter(|entry| entry.topic == TOPIC_EVENT) {
            if let Some(event) = EventLog::from_bytes(&entry.payload) {
                let users = event.target.into_iter().chain(event.memberships);
                moved.extend(users.map(|user| (RoomNum(entry.scope), user)));
            }
        }
        let own: BTreeSet<RoomNum> = moved
            .iter()
            .filter(|(_, user)| *user == me)
            .map(|(room, _)| *room)
            .collect();
        let mut met = BTreeSet::new();
        for room in &own {
            met.extend(self.people(*room).await?);
        }
        for (room, user) in moved {
            if !own.contains(&room) && rooms.is_joined(me, room).await? {
                met.extend(self.user_id(room, user).await?);
            }
        }
        Ok(met)
    }

    async fn people(&self, room: RoomNum) -> Result<Vec<OwnedUserId>, SyncError> {
        let Some(view) = self.sync.rooms.view_num(room).await? else {
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
        match self.sync.rooms.view_num(room).await? {
            Some(view) => Ok(Some(view.user_id(user).await?)),
            None => Ok(None),
        }
    }
}
