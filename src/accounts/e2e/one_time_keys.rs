//! One-time keys, each given out once in the order of their upload, and fallback keys for when
//! there are none left.

use std::collections::BTreeMap;

use resuni_store::{Applied, Batch, Direction, ScanRange, Snapshot};
use ruma::DeviceId;
use serde_json::Value;

use super::{
    Object, bounded,
    tables::{
        DeviceKeysChanged, FALLBACK, FallbackKey, KEYS, ONE_TIME, ONE_TIME_COUNTS, ONE_TIME_IDS,
        OneTimeCount, OneTimeKey,
    },
};
use crate::{AccountNum, Accounts, error::AccountError};

/// One-time keys that a device may have here, for each algorithm. Clients keep about a hundred.
const KEYS_PER_DEVICE: u64 = 1_000;
/// Algorithms that a device may have keys of.
const ALGORITHMS: usize = 8;
/// The longest name of an algorithm, and the longest id of a key, in bytes.
const NAME_BYTES: usize = 255;
/// The algorithm whose count clients wait for even when it is zero.
const SIGNED_CURVE25519: &str = "signed_curve25519";

/// What `/sync` says about a device's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OneTimeKeys {
    /// How many one-time keys are left, by algorithm. `signed_curve25519` is always there: to some
    /// clients a missing count means that nothing changed.
    pub counts: BTreeMap<String, u64>,
    /// The algorithms whose fallback key nobody got yet.
    pub unused_fallback: Vec<String>,
}

/// Keys of an upload: algorithm, id and JSON.
pub(super) struct Ids(Vec<(String, String, String)>);

impl Ids {
    pub(super) fn of(keys: &Object) -> Result<Self, AccountError> {
        keys.iter()
            .map(|(name, key)| {
                let bad = || {
                    AccountError::InvalidParam(format!(
                        "The name of a one-time key is <algorithm>:<id>, not {name:?}."
                    ))
                };
                let (algorithm, id) = name.split_once(':').ok_or_else(bad)?;
                let fits = |part: &str| !part.is_empty() && part.len() <= NAME_BYTES;
                if !fits(algorithm) || !fits(id) {
                    return Err(bad());
                }
                // What is in it is the algorithm's affair.
                if !key.is_string() && !key.is_object() {
                    return Err(AccountError::InvalidParam(format!(
                        "The one-time key {name} is neither a string nor an object."
                    )));
                }
                let json = bounded(key, "A one-time key")?;
                Ok((algorithm.to_owned(), id.to_owned(), json))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Adds one-time keys after those that are there; answers whether there were new ones.
    pub(super) async fn add(
        self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        device: &(AccountNum, String),
    ) -> Result<bool, AccountError> {
        let mut counts = BTreeMap::new();
        for (algorithm, id, json) in self.0 {
            let (account, device) = device.clone();
            let by_id = (account, device.clone(), algorithm.clone(), id.clone());
            if let Some(place) = snapshot.get(&ONE_TIME_IDS, &by_id).await? {
                let stored = (account, device, algorithm, place);
                let stored = snapshot.get(&ONE_TIME, &stored).await?;
                if stored.is_some_and(|stored| is_same(&stored.json, &json)) {
                    continue;
                }
                return Err(AccountError::InvalidParam(format!(
                    "There is another one-time key with the id {id}."
                )));
            }
            if !counts.contains_key(&algorithm) {
                let key = (account, device.clone(), algorithm.clone());
                let row = snapshot.get(&ONE_TIME_COUNTS, &key).await?;
                counts.insert(algorithm.clone(), row.unwrap_or_default());
            }
            let Some(count) = counts.get_mut(&algorithm) else {
                continue;
            };
            batch.put(&ONE_TIME_IDS, &by_id, &count.next);
            let key = (account, device, algorithm, count.next);
            batch.put(&ONE_TIME, &key, &OneTimeKey { id, json });
            count.next += 1;
            count.left += 1;
        }
        if counts.len() > ALGORITHMS || counts.values().any(|count| count.left > KEYS_PER_DEVICE) {
            return Err(AccountError::InvalidParam(format!(
                "A device may have at most {KEYS_PER_DEVICE} one-time keys."
            )));
        }
        for (algorithm, count) in &counts {
            let key = (device.0, device.1.clone(), algorithm.clone());
            batch.put(&ONE_TIME_COUNTS, &key, count);
        }
        Ok(!counts.is_empty())
    }

    /// Puts fallback keys in the place of the old ones; answers whether there were new ones. The
    /// same key again is not an unused one.
    pub(super) async fn replace(
        self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        device: &(AccountNum, String),
    ) -> Result<bool, AccountError> {
        if self.0.len() > ALGORITHMS {
            return Err(AccountError::InvalidParam(
                "There is one fallback key for each algorithm.".into(),
            ));
        }
        let mut changed = false;
        for (algorithm, id, json) in self.0 {
            let key = (device.0, device.1.clone(), algorithm);
            let old = snapshot.get(&FALLBACK, &key).await?;
            if old.is_some_and(|old| old.id == id && is_same(&old.json, &json)) {
                continue;
            }
            let used = false;
            batch.put(&FALLBACK, &key, &FallbackKey { id, json, used });
            changed = true;
        }
        Ok(changed)
    }
}

/// Whether two keys are equal as JSON, in whatever order their fields are written.
fn is_same(a: &str, b: &str) -> bool {
    let value = |json| serde_json::from_str::<Value>(json).ok();
    value(a) == value(b)
}

/// A key that somebody gets, and the commit after which it may be handed out.
struct Claimed {
    name: String,
    key: Value,
    applied: Applied,
}

impl Accounts {
    /// What `/sync` says about a device's keys.
    pub async fn one_time_keys(
        &self,
        snapshot: &Snapshot,
        account: AccountNum,
        device: &DeviceId,
    ) -> Result<OneTimeKeys, AccountError> {
        let range = || ScanRange::prefix(&(account, device.to_string()));
        let forward = Direction::Forward;
        let counts = snapshot
            .scan(&ONE_TIME_COUNTS, range(), forward, usize::MAX)
            .await?;
        let fallback = snapshot
            .scan(&FALLBACK, range(), forward, usize::MAX)
            .await?;
        let mut keys = OneTimeKeys::default();
        keys.counts.insert(SIGNED_CURVE25519.to_owned(), 0);
        for ((.., algorithm), count) in counts {
            keys.counts.insert(algorithm, count.left);
        }
        for ((.., algorithm), key) in fallback {
            if !key.used {
                keys.unused_fallback.push(algorithm);
            }
        }
        Ok(keys)
    }

    /// Gives out keys of an account's devices: by device and algorithm, each answered with its name
    /// `<algorithm>:<id>` and the key. A device that has none is not in the answer. Nothing is
    /// handed out before it is on disk that it has been.
    pub async fn claim_keys(
        &self,
        account: AccountNum,
        wanted: &[(&DeviceId, &str)],
    ) -> Result<BTreeMap<String, Object>, AccountError> {
        let mut claimed = Vec::with_capacity(wanted.len());
        for (device, algorithm) in wanted {
            if let Some(key) = self.claim(account, device, algorithm).await? {
                claimed.push((device.to_string(), key));
            }
        }
        let mut keys = BTreeMap::<String, Object>::new();
        for (device, key) in claimed {
            key.applied.durable().await?;
            keys.entry(device).or_default().insert(key.name, key.key);
        }
        Ok(keys)
    }

    async fn claim(
        &self,
        account: AccountNum,
        device: &DeviceId,
        algorithm: &str,
    ) -> Result<Option<Claimed>, AccountError> {
        let _lane = self.lanes.enter(account).await;
        let snapshot = self.snapshot();
        let mut batch = Batch::new();
        let found = take_one_time(&snapshot, &mut batch, account, device, algorithm).await?;
        let found = match found {
            Some(found) => found,
            None => {
                let key = (account, device.to_string(), algorithm.to_owned());
                let Some(mut row) = snapshot.get(&FALLBACK, &key).await? else {
                    return Ok(None);
                };
                row.used = true;
                batch.put(&FALLBACK, &key, &row);
                (row.id, row.json)
            }
        };
        let payload = DeviceKeysChanged {
            device_id: device.to_string(),
        };
        self.announce(&mut batch, KEYS, account, &payload)?;
        let applied = self.store.commit(batch).await?;
        let key = serde_json::from_str(&found.1).map_err(|error| {
            AccountError::Internal(format!("A stored one-time key can't be read: {error}"))
        })?;
        Ok(Some(Claimed {
            name: format!("{algorithm}:{}", found.0),
            key,
            applied,
        }))
    }
}

/// Takes the oldest one-time key: its id and JSON.
async fn take_one_time(
    snapshot: &Snapshot,
    batch: &mut Batch,
    account: AccountNum,
    device: &DeviceId,
    algorithm: &str,
) -> Result<Option<(String, String)>, AccountError> {
    let counted = (account, device.to_string(), algorithm.to_owned());
    let range = ScanRange::prefix(&counted);
    let oldest = snapshot
        .scan(&ONE_TIME, range, Direction::Forward, 1)
        .await?;
    let Some((key, row)) = oldest.into_iter().next() else {
        return Ok(None);
    };
    let count: OneTimeCount = snapshot
        .get(&ONE_TIME_COUNTS, &counted)
        .await?
        .unwrap_or_default();
    let count = OneTimeCount {
        left: count.left.saturating_sub(1),
        ..count
    };
    batch.guard_exists(&ONE_TIME, &key);
    batch.delete(&ONE_TIME, &key);
    let (account, device, algorithm, _) = key;
    batch.delete(&ONE_TIME_IDS, &(account, device, algorithm, row.id.clone()));
    batch.put(&ONE_TIME_COUNTS, &counted, &count);
    Ok(Some((row.id, row.json)))
}
