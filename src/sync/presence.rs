//! Who is there, of those the user shares a room with.

use std::collections::BTreeSet;

use resuni_rooms::{Membership, PresenceNow};
use resuni_store::StoreError;
use ruma::{OwnedUserId, UserId};
use serde_json::json;

use crate::{
    Sync, answer::Answer, audience::Audiences, context::Context, error::SyncError, filter,
};

/// People of one answer at most, those with the newest change: more nobody reads.
const MAX_TOLD: usize = 500;
/// Members of a room the user has just joined who are looked at.
const MAX_MEMBERS: usize = 500;
/// Nobody is woken for presence through a room with more members: they are told when they next sync.
const MAX_WOKEN: u64 = 500;

impl Sync {
    /// Whether somebody the user shares a room with has come, gone or changed since this serial.
    pub(crate) async fn presence_changed(
        &self,
        user: &UserId,
        since: u64,
    ) -> Result<bool, SyncError> {
        for other in self.rooms.presence().changed_since(since, MAX_TOLD) {
            if other != *user && self.rooms.share_a_room(user, &other).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Who has come, gone or changed since this serial, or who is there, of those the user shares a room with: each with
    /// what is told of them.
    pub(crate) async fn presence_since(
        &self,
        user: &UserId,
        since: Option<u64>,
    ) -> Result<Vec<(OwnedUserId, String)>, SyncError> {
        let presence = self.rooms.presence();
        let candidates = match since {
            Some(since) => presence.changed_since(since, MAX_TOLD),
            None => presence.present(MAX_TOLD),
        };
        let mut told = Vec::new();
        for other in candidates {
            let Some(now) = presence.of(&other) else {
                continue;
            };
            if other == *user || self.rooms.share_a_room(user, &other).await? {
                let event = event(&other, &now);
                told.push((other, event));
            }
        }
        Ok(told)
    }

    /// Wakes who shares a room with somebody who changed.
    pub(crate) async fn wake_for_presence(
        &self,
        since: u64,
        audiences: &mut Audiences,
    ) -> Result<(), StoreError> {
        let mut rooms = BTreeSet::new();
        for user in self.rooms.presence().changed_since(since, MAX_TOLD) {
            let of_user = self.rooms.rooms_of(&user, &[Membership::Join]).await;
            // Whoever can't be found now is told by the next sync that comes.
            rooms.extend(of_user.unwrap_or_default().into_iter().map(|room| room.num));
        }
        for room in rooms {
            let view = self.rooms.view_num(room).await;
            let small = |view: &resuni_rooms::RoomView| view.joined_count() <= MAX_WOKEN;
            if view.ok().flatten().is_some_and(|view| small(&view)) {
                self.wake_joined(room, audiences).await?;
            }
        }
        Ok(())
    }
}

impl Context<'_> {
    /// Fills in who is there.
    pub(crate) async fn presence(&self, answer: &mut Answer) -> Result<(), SyncError> {
        let wanted = &self.request.filter.presence;
        if !filter::global(wanted, "m.presence") {
            return Ok(());
        }
        let presence = self.sync.rooms.presence();
        for user in self.presence_candidates().await? {
            let Some(now) = presence.of(&user) else {
                continue;
            };
            if filter::sender(wanted, &user) && !self.ignored.contains(&user) {
                answer.presence.push(event(&user, &now));
            }
        }
        Ok(())
    }

    /// Whose presence is news, and who shares a room with the user.
    async fn presence_candidates(&self) -> Result<BTreeSet<OwnedUserId>, SyncError> {
        let rooms = &self.sync.rooms;
        let (presence, own) = (rooms.presence(), self.who.user);
        let mut users = BTreeSet::new();
        let candidates = match self.request.since {
            Some(since) if since.typing == self.now.typing => Vec::new(),
            Some(since) => presence.changed_since(since.typing, MAX_TOLD),
            None => presence.present(MAX_TOLD),
        };
        for user in candidates {
            if user == *own || rooms.share_a_room(own, &user).await? {
                users.insert(user);
            }
        }
        for user in self.newly_met().await? {
            if user != *own && presence.of(&user).is_some() {
                users.insert(user);
            }
        }
        Ok(users)
    }

    /// Who came into a room of the user since the token, and who is in the rooms the user came into.
    async fn newly_met(&self) -> Result<BTreeSet<OwnedUserId>, SyncError> {
        let mut met = BTreeSet::new();
        let rooms = &self.sync.rooms;
        let Some(since) = self.since() else {
            return Ok(met);
        };
        let Some(entries) = rooms.store().log().recent(since, self.now.position) else {
            return Ok(met);
        };
        for (room, target) in crate::changes::joins(&entries) {
            let target = rooms.user_id(target).await?;
            let Some(view) = rooms.view_num(room).await? else {
                continue;
            };
            if !view.joined(&target).await? || !view.joined(self.who.user).await? {
                continue;
            }
            if target != *self.who.user {
                met.insert(target);
                continue;
            }
            let members = view.joined_users(None, MAX_MEMBERS).await?;
            met.extend(members.into_iter().map(|(_, user)| user));
        }
        Ok(met)
    }
}

fn event(user: &UserId, now: &PresenceNow) -> String {
    json!({ "type": "m.presence", "sender": user, "content": now.content() }).to_string()
}
