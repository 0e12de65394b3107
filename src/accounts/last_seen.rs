//! When and whence devices were last seen: remembered in memory, written once a minute.

use std::{collections::HashMap, net::IpAddr, sync::atomic::Ordering::Relaxed};

use parking_lot::Mutex;
use resuni_store::Batch;

use crate::{
    Accounts, Session,
    error::AccountError,
    tables::{AccountNum, DEVICE, SEEN, Seen},
};

/// A device that was seen less than this long ago is not noted again.
const INTERVAL_MS: u64 = 60_000;
/// Devices that can be remembered between two writes. Beyond it the news is dropped: it will come
/// again with the device's next request.
const PENDING: usize = 16_384;

/// Bytes of a program's name that are kept.
const USER_AGENT_BYTES: usize = 200;

/// What has been seen but not written.
#[derive(Default)]
pub(crate) struct LastSeen(Mutex<HashMap<(AccountNum, String), Seen>>);

impl LastSeen {
    pub(crate) fn pending(&self, key: &(AccountNum, String)) -> Option<Seen> {
        self.0.lock().get(key).cloned()
    }

    pub(crate) fn forget(&self, key: &(AccountNum, String)) {
        self.0.lock().remove(key);
    }
}

impl Accounts {
    /// Notes that a request of this session came from `ip`, by this program. Costs one atomic load, except once a
    /// minute.
    pub fn seen(&self, session: &Session, ip: IpAddr, user_agent: Option<&str>) {
        let Some(entry) = &session.entry else { return };
        let now = self.now_ms();
        let told = entry.told_ms.load(Relaxed);
        if now < told.saturating_add(INTERVAL_MS)
            || entry
                .told_ms
                .compare_exchange(told, now, Relaxed, Relaxed)
                .is_err()
        {
            return;
        }
        let key = (entry.account, entry.device_id.to_string());
        let mut pending = self.last_seen.0.lock();
        if pending.len() < PENDING || pending.contains_key(&key) {
            pending.insert(
                key,
                Seen {
                    ms: now,
                    ip: ip.to_string(),
                    user_agent: user_agent.map(shortened),
                },
            );
        }
    }

    /// Writes what has been seen. Nothing waits for the disk: losing a minute of it is no harm.
    pub(crate) async fn flush_last_seen(&self) -> Result<(), AccountError> {
        let pending = std::mem::take(&mut *self.last_seen.0.lock());
        for (key, seen) in pending {
            // In the lane, so that a device that is being removed leaves no row behind.
            let _lane = self.lanes.enter(key.0).await;
            if self.snapshot().get(&DEVICE, &key).await?.is_some() {
                let mut batch = Batch::new();
                batch.put(&SEEN, &key, &seen);
                drop(self.store.commit(batch).await?);
            }
        }
        Ok(())
    }
}

fn shortened(user_agent: &str) -> String {
    let end = user_agent.floor_char_boundary(USER_AGENT_BYTES);
    user_agent.get(..end).unwrap_or_default().to_owned()
}
