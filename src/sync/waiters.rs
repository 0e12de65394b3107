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
use resuni_rooms::UserNum;
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

    /// The users who wait, if they are no more than `limit`.
    pub fn few(&self, limit: usize) -> Option<Vec<UserNum>> {
        let table = self.table.lock();
        (table.by_user.len() <= limit).then(|| table.by_user.keys().copied().collect())
    }

    /// Wakes those of `users` who wait; `users` are in the order of their numbers. Costs as much as the fewer of both.
    pub fn wake_among(&self, users: &[UserNum]) {
        let table = self.table.lock();
        let wake = |waiting: &HashMap<u64, Arc<Notify>>| {
            waiting.values().for_each(|notify| notify.notify_one());
        };
        if users.len() <= table.by_user.len() {
            users
                .iter()
                .filter_map(|user| table.by_user.get(user))
                .for_each(wake);
        } else {
            let waiting = table.by_user.iter();
            waiting
                .filter(|(user, _)| users.binary_search(user).is_ok())
                .for_each(|(_, waiting)| wake(waiting));
        }
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
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_waits_and_is_among_the_users_is_woken() {
        let waiters = Waiters::default();
        let waiting: Vec<Waiter> = [2, 4, 6]
            .map(|n| waiters.register(Some(UserNum(n)), AccountNum(n)))
            .into();
        assert_eq!(waiters.few(2), None);
        assert_eq!(waiters.few(3).map(|users| users.len()), Some(3));
        // Fewer than wait, and more.
        for users in [vec![1, 4], vec![1, 3, 4, 5, 7]] {
            let users: Vec<UserNum> = users.into_iter().map(UserNum).collect();
            waiters.wake_among(&users);
            let woken: Vec<bool> = waiting
                .iter()
                .map(|waiter| waiter.woken().now_or_never().is_some())
                .collect();
            assert_eq!(woken, [false, true, false]);
        }
    }

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
