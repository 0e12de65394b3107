//! One writer per account at a time.

use tokio::sync::{Mutex, MutexGuard};

use crate::tables::AccountNum;

/// The number of locks that all accounts share. Two accounts on one lock wait for each other
/// needlessly but harmlessly: a lane is held for a few reads and one commit that does not sync.
const LANES: usize = 256;

/// The lanes of all accounts. What is read inside a lane stays true until the lane is left.
///
/// Lock order: a lane is never entered while another is held.
pub(crate) struct Lanes([Mutex<()>; LANES]);

impl Default for Lanes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl Lanes {
    /// Waits until no one else writes this account.
    pub(crate) async fn enter(&self, account: AccountNum) -> MutexGuard<'_, ()> {
        self.0[account.0 as usize % LANES].lock().await
    }
}
