//! Who joins a room that replaces another keeps what they have said about the old one.
//!
//! A follower of its own, so that it is done for every way into a room, and after a crash too. Doing it twice is doing it
//! once (`Accounts::carry_over`).

use std::sync::Arc;

use resuni_accounts::Accounts;
use resuni_rooms::{
    Membership, RoomNum, RoomView, Rooms, UserNum,
    tables::{EventLog, TOPIC_EVENT},
};
use resuni_store::{Follower, LogEntry, StoreError};
use ruma::OwnedRoomId;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::error::DeliveryError;

/// Log entries worked on at once.
const READ_LIMIT: usize = 256;
/// Positions that are passed without effect before the cursor is written nevertheless.
const PASSED: u64 = 10_000;

/// Carries settings over. Let [`Upgrades::run`] run.
pub struct Upgrades {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    follower: Mutex<Follower>,
}

impl Upgrades {
    /// Over these rooms and accounts.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(
        rooms: Arc<Rooms>,
        accounts: Arc<Accounts>,
    ) -> Result<Arc<Self>, DeliveryError> {
        let follower = rooms.store().follower("room upgrades").await?;
        Ok(Arc::new(Self {
            rooms,
            accounts,
            follower: Mutex::new(follower),
        }))
    }

    /// Follows the log until the store is closed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run(&self) -> Result<(), DeliveryError> {
        loop {
            match self.step().await {
                Ok(()) => {}
                Err(DeliveryError::Store(StoreError::Closed)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for entries of the log and works them off.
    async fn step(&self) -> Result<(), DeliveryError> {
        let mut follower = self.follower.lock().await;
        let entries = follower.next(READ_LIMIT).await?;
        let mut done = false;
        for entry in &entries {
            match self.entry(entry).await {
                Err(error) if error.is_of_one_event() => {
                    tracing::warn!(position = entry.position.0, %error, "settings stay with the old room");
                }
                outcome => done |= outcome?,
            }
        }
        if let Some(last) = entries.last() {
            let passed = last.position.0.saturating_sub(follower.cursor().0);
            match done || passed >= PASSED {
                true => follower.save(last.position).await?,
                // What is passed without effect is passed again after a restart.
                false => follower.pass(last.position),
            }
        }
        Ok(())
    }

    /// Whether anything was carried over.
    async fn entry(&self, entry: &LogEntry) -> Result<bool, DeliveryError> {
        if entry.topic != TOPIC_EVENT {
            return Ok(false);
        }
        let log = EventLog::from_bytes(&entry.payload);
        let Some(log) = log.filter(|log| !log.memberships.is_empty()) else {
            return Ok(false);
        };
        let Some(view) = self.rooms.view_num(RoomNum(entry.scope)).await? else {
            return Ok(false);
        };
        let Some(old) = predecessor(&view).await? else {
            return Ok(false);
        };
        let Some(old) = self.rooms.view(&old).await? else {
            return Ok(false);
        };
        let mut done = false;
        for user in log.memberships {
            done |= self.carry_over(&view, &old, user).await?;
        }
        Ok(done)
    }

    async fn carry_over(
        &self,
        new: &RoomView,
        old: &RoomView,
        user: UserNum,
    ) -> Result<bool, DeliveryError> {
        let user = self.rooms.user_id(user).await?;
        // Any room may say that it replaces another; who was in that one decided to come along.
        if !new.joined(&user).await? || old.member(&user).await?.is_none_or(never_in) {
            return Ok(false);
        }
        let Some(account) = self.accounts.find_user(&user).await? else {
            return Ok(false);
        };
        self.accounts
            .carry_over(account, old.room_id(), new.room_id())
            .await?;
        Ok(true)
    }
}

fn never_in(membership: Membership) -> bool {
    matches!(membership, Membership::Invite | Membership::Knock)
}

/// The room that this one replaces, as its create event says.
async fn predecessor(view: &RoomView) -> Result<Option<OwnedRoomId>, DeliveryError> {
    #[derive(Deserialize)]
    struct Content {
        predecessor: Option<Predecessor>,
    }
    #[derive(Deserialize)]
    struct Predecessor {
        room_id: OwnedRoomId,
    }
    let create = view.state("m.room.create", "").await?;
    let content = create.and_then(|create| create.content_as::<Content>().ok());
    Ok(content
        .and_then(|content| content.predecessor)
        .map(|predecessor| predecessor.room_id))
}

#[cfg(test)]
mod tests {
    use resuni_rooms::{MemberDetails, MemberProfile, UpgradeRoom};

    use super::*;
    use crate::tests::Home;

    #[tokio::test]
    async fn settings_go_along_with_whoever_joins() {
        let home = Home::new().await;
        let bob = ruma::owned_user_id!("@bob:h");
        let account = home.accounts.find_user(&home.alice).await.unwrap().unwrap();
        let of_bob = home.account("bob").await;
        let details = MemberDetails::default();
        home.rooms.join(&home.room, &bob, &details).await.unwrap();
        let upgrades = Upgrades::open(home.rooms.clone(), home.accounts.clone());
        let upgrades = upgrades.await.unwrap();
        for account in [account, of_bob] {
            let tag = home
                .accounts
                .set_tag(account, home.room.as_str(), "m.x", Default::default());
            tag.await.unwrap();
        }
        let request = UpgradeRoom {
            version: "11".to_owned(),
            additional_creators: Vec::new(),
            profile: MemberProfile::default(),
        };
        let new = home.rooms.upgrade(&home.room, &home.alice, &request);
        let new = new.await.unwrap();
        let has = async |account| {
            let tags = home.accounts.tags(account, new.as_str()).await.unwrap();
            tags.contains_key("m.x")
        };
        while !has(account).await {
            upgrades.step().await.unwrap();
        }
        assert!(!has(of_bob).await, "he has not come along yet");
        home.rooms.join(&new, &bob, &details).await.unwrap();
        while !has(of_bob).await {
            upgrades.step().await.unwrap();
        }
    }
}
