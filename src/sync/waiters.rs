//! Who waits for something new. A waiting client costs an entry here and its connection.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use resuni_accounts::AccountNum;
use resuni_rooms::{RoomNum, Rooms, UserNum};
use resuni_store::StoreError;
use tokio::sync::Notify;

#[derive(Default)]
struct Table {
    by_user: HashMap<UserNum, HashMap<u64, Arc<Notify>>>,
    by_account: HashMap<AccountNum, HashMap<u64, Arc<Notify>>>,
    /// Users who never were in a room have no number yet: they are woken by anybody's membership.
    unnumbered: HashMap<u64, Arc<Notify>>,
}

/// All waiting clients.
#[derive(Default)]
pub(crate) struct Waiters {
    table: Arc<Mutex<Table>>,
    next: AtomicU64,
}

/// One waiting client; it waits no more when this is dropped.
pub(crate) struct Waiter {
    table: Arc<Mutex<Table>>,
    id: u64,
    user: Option<UserNum>,
    account: AccountNum,
    notify: Arc<Notify>,
}

impl Waiters {
    pub fn register(&self, user: Option<UserNum>, account: AccountNum) -> Waiter {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let notify = Arc::new(Notify::new());
        let mut table = self.table.lock();
        match user {
            Some(user) => table
                .by_user
                .entry(user)
                .or_default()
                .insert(id, notify.clone()),
            None => table.unnumbered.insert(id, notify.clone()),
        };
        table
            .by_account
            .entry(account)
            .or_default()
            .insert(id, notify.clone());
        drop(table);
        Waiter {
            table: self.table.clone(),
            id,
            user,
            account,
            notify,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.table.lock().by_account.is_empty()
    }

    pub fn wake_all(&self) {
        let table = self.table.lock();
        table
            .by_account
            .values()
            .flat_map(HashMap::values)
            .for_each(|notify| notify.notify_one());
    }

    pub fn wake_account(&self, account: AccountNum) {
        let table = self.table.lock();
        table
            .by_account
            .get(&account)
            .into_iter()
            .flat_map(HashMap::values)
            .for_each(|notify| notify.notify_one());
    }

    pub fn wake_user(&self, user: UserNum) {
        let table = self.table.lock();
        table
            .by_user
            .get(&user)
            .into_iter()
            .flat_map(HashMap::values)
            .for_each(|notify| notify.notify_one());
        table
            .unnumbered
            .values()
            .for_each(|notify| notify.notify_one());
    }

    /// Wakes those who wait and are joined to the room. Costs as much as the fewer of both.
    pub async fn wake_joined(&self, rooms: &Rooms, room: RoomNum) -> Result<(), StoreError> {
        let waiting: Vec<UserNum> = self.table.lock().by_user.keys().copied().collect();
        for user in rooms.local_members_among(room, &waiting).await? {
            self.wake_user(user);
        }
        Ok(())
    }
}

impl Waiter {
    /// Resolves when something happened since the last time (or since the registration).
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        fn take<K: std::hash::Hash + Eq>(
            map: &mut HashMap<K, HashMap<u64, Arc<Notify>>>,
            key: K,
            id: u64,
        ) {
            if let Some(entries) = map.get_mut(&key) {
                entries.remove(&id);
                if entries.is_empty() {
                    map.remove(&key);
                }
            }
        }
        let mut table = self.table.lock();
        match self.user {
            Some(user) => take(&mut table.by_user, user, self.id),
            None => drop(table.unnumbered.remove(&self.id)),
        }
        take(&mut table.by_account, self.account, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wake_before_the_wait_is_not_lost() {
        let waiters = Waiters::default();
        let waiter = waiters.register(Some(UserNum(1)), AccountNum(1));
        waiters.wake_user(UserNum(1));
        waiter.woken().await;
        drop(waiter);
        assert!(waiters.is_empty());
        assert!(waiters.table.lock().by_user.is_empty());
    }
}
