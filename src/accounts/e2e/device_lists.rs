//! Whose keys changed when: one row for each user, here or elsewhere, at the place in the log of
//! the last change.

use std::hash::{DefaultHasher, Hash, Hasher};

use resuni_store::{Batch, Direction, Position, ScanRange, Snapshot};
use ruma::{OwnedUserId, UserId};

use super::tables::{DEVICE_LIST_OF, DEVICE_LISTS, DEVICE_LISTS_TOPIC, DeviceListChanged};
use crate::{AccountNum, Accounts, error::AccountError};

/// Rows read at a time.
const PAGE: usize = 1_000;

impl Accounts {
    /// Adds a change of a local user's keys to a batch; once per batch, inside the user's lane.
    pub(crate) async fn keys_changed(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        account: AccountNum,
        user: &UserId,
        devices: Vec<(String, bool)>,
    ) -> Result<Position, AccountError> {
        let user = user.to_string();
        if let Some(old) = snapshot.get(&DEVICE_LIST_OF, &user).await? {
            batch.delete(&DEVICE_LISTS, &old);
        }
        let change = DeviceListChanged {
            user_id: user,
            devices,
        };
        let position = self.announce(batch, DEVICE_LISTS_TOPIC, account, &change)?;
        batch.put(&DEVICE_LISTS, &position, &change.user_id);
        batch.put(&DEVICE_LIST_OF, &change.user_id, &position);
        Ok(position)
    }

    /// Notes that the keys of a user of another server changed.
    pub async fn remote_keys_changed(&self, user: &UserId) -> Result<(), AccountError> {
        // Users of other servers have no account; they share the lanes by a hash of their id.
        let mut hasher = DefaultHasher::new();
        user.hash(&mut hasher);
        let applied = {
            let _lane = self.lanes.enter(AccountNum(hasher.finish())).await;
            let mut batch = Batch::new();
            let snapshot = self.snapshot();
            self.keys_changed(&snapshot, &mut batch, AccountNum(0), user, Vec::new())
                .await?;
            self.store.commit(batch).await?
        };
        Ok(applied.durable().await?)
    }

    /// Users, here or elsewhere, whose keys changed after `since`, up to and including `up_to`. The
    /// caller keeps those that share a room with the reader. Who changed again after `up_to` is
    /// left for the next time.
    pub async fn device_lists_since(
        &self,
        snapshot: &Snapshot,
        since: Position,
        up_to: Position,
    ) -> Result<Vec<OwnedUserId>, AccountError> {
        let mut users = Vec::new();
        let mut from = Position(since.0.saturating_add(1));
        let end = Position(up_to.0.saturating_add(1));
        while from < end {
            let range = ScanRange::between(&from, &end);
            let page = snapshot
                .scan(&DEVICE_LISTS, range, Direction::Forward, PAGE)
                .await?;
            let Some((last, _)) = page.last() else { break };
            from = Position(last.0.saturating_add(1));
            let ids = page.into_iter().map(|(_, user)| UserId::parse(user));
            users.extend(ids.flatten());
        }
        Ok(users)
    }

    /// The place in the log where the keys of a user changed last: the `stream_id` of their device
    /// list towards other servers.
    pub async fn device_list_position(
        &self,
        user: &UserId,
    ) -> Result<Option<Position>, AccountError> {
        let snapshot = self.snapshot();
        Ok(snapshot.get(&DEVICE_LIST_OF, &user.to_string()).await?)
    }
}
