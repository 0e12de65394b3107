//! What the server keeps for end-to-end encryption (spec, "End-to-End Encryption" and
//! "Send-to-Device messaging"). It reads no message; it keeps public keys, hands each one-time key
//! out once, checks the signatures by which people vouch for keys, and carries messages from
//! device to device.

mod backup;
mod cross_signing;
mod dehydrated;
mod device_keys;
mod device_lists;
pub(crate) mod doctor;
mod one_time_keys;
mod query;
mod signatures;
pub(crate) mod tables;
mod to_device;

use resuni_store::{Batch, Direction, Key, ScanRange, Snapshot, StoreError, Table, Value as Row};
use ruma::{
    CanonicalJsonValue, UserId,
    canonical_json::to_canonical_value,
    serde::{Base64, base64::Standard},
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};
use serde_json::{Map, Value};

pub use backup::{Backup, BackupKeys, BackupPart};
pub use cross_signing::CrossSigningUpload;
pub use dehydrated::NewDehydrated;
pub use device_keys::KeyUpload;
pub use one_time_keys::OneTimeKeys;
pub use query::UserKeys;
pub use signatures::{SignatureFailure, SignatureFailures};
pub use tables::{DEVICE_LISTS_TOPIC, DeviceKeysChanged, DeviceListChanged, KEYS, TO_DEVICE_TOPIC};
pub(crate) use to_device::SentCounts;
pub use to_device::{MessageId, ToDeviceMessage, ToDevicePage};

use crate::{AccountNum, Accounts, error::AccountError};
use tables::{
    DEHYDRATED, DEVICE_KEYS, FALLBACK, ONE_TIME, ONE_TIME_COUNTS, ONE_TIME_IDS, TO_DEVICE,
};

/// The largest JSON of one key or message, in bytes.
const JSON_BYTES: usize = 65_536;

type Object = Map<String, Value>;

fn parse(json: &str) -> Result<Object, AccountError> {
    serde_json::from_str(json)
        .map_err(|error| AccountError::Internal(format!("A stored key can't be read: {error}")))
}

/// The JSON of a key or message that is not too large.
fn bounded(value: &Value, what: &'static str) -> Result<String, AccountError> {
    let json = value.to_string();
    if json.len() > JSON_BYTES {
        return Err(AccountError::TooLarge {
            what,
            limit: JSON_BYTES,
        });
    }
    Ok(json)
}

/// Whether `key` has signed `object`; both encodings of Base64 padding are accepted.
fn is_signed_by(object: &Object, user: &str, key_id: &str, key: &str) -> bool {
    let signature = object
        .get("signatures")
        .and_then(|all| all.get(user)?.get(key_id)?.as_str());
    signature.is_some_and(|signature| is_signature_of(object, signature, key_id, key))
}

/// Whether `signature` is that of `object` by `key`.
fn is_signature_of(object: &Object, signature: &str, key_id: &str, key: &str) -> bool {
    let check = || -> Option<()> {
        let algorithm = key_id.split_once(':')?.0.into();
        let CanonicalJsonValue::Object(canonical) = to_canonical_value(object).ok()? else {
            return None;
        };
        let text = to_canonical_json_string_for_signing(&canonical).ok()?;
        let key = Base64::<Standard>::parse(key).ok()?;
        let signature = Base64::<Standard>::parse(signature).ok()?;
        verify_canonical_json_bytes(
            &algorithm,
            key.as_bytes(),
            signature.as_bytes(),
            text.as_bytes(),
        )
        .ok()
    };
    check().is_some()
}

/// Whether two keys are the same apart from what others say about them.
fn is_same_key(a: &Object, b: &Object) -> bool {
    let own = |object: &Object| {
        let mut object = object.clone();
        object.remove("signatures");
        object.remove("unsigned");
        object
    };
    own(a) == own(b)
}

/// Adds a signature to a key. Answers whether it was not there.
fn add_signature(key: &mut Object, user: &str, key_id: &str, signature: &str) -> bool {
    let mut place = key;
    for name in ["signatures", user] {
        let entry = place
            .entry(name)
            .or_insert_with(|| Value::Object(Map::new()));
        if !entry.is_object() {
            *entry = Value::Object(Map::new());
        }
        let Some(object) = entry.as_object_mut() else {
            return false;
        };
        place = object;
    }
    let old = place.insert(key_id.to_owned(), signature.into());
    old.as_ref().and_then(Value::as_str) != Some(signature)
}

/// Adds the signatures that `from` has by keys of `user` to those of `to`.
fn copy_signatures(from: &Object, to: &mut Object, user: &UserId) {
    let signatures = from
        .get("signatures")
        .and_then(|all| all.get(user.as_str())?.as_object());
    for (key_id, signature) in signatures.into_iter().flatten() {
        let present = to
            .get("signatures")
            .and_then(|all| all.get(user.as_str())?.get(key_id))
            .is_some();
        if let (false, Some(signature)) = (present, signature.as_str()) {
            add_signature(to, user.as_str(), key_id, signature);
        }
    }
}

/// Deletes all rows of a device from a table.
async fn sweep<K: Key, V: Row>(
    snapshot: &Snapshot,
    batch: &mut Batch,
    table: &Table<K, V>,
    device: &(AccountNum, String),
) -> Result<(), StoreError> {
    let rows = snapshot
        .scan(
            table,
            ScanRange::prefix(device),
            Direction::Forward,
            usize::MAX,
        )
        .await?;
    for (key, _) in rows {
        batch.delete(table, &key);
    }
    Ok(())
}

impl Accounts {
    /// Deletes what a device that goes has here: keys, and messages on their way. Answers whether
    /// it had keys that others may know.
    pub(crate) async fn remove_keys_of(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        device: &(AccountNum, String),
    ) -> Result<bool, StoreError> {
        let known = snapshot.contains(&DEVICE_KEYS, device).await?;
        batch.delete(&DEVICE_KEYS, device);
        sweep(snapshot, batch, &ONE_TIME, device).await?;
        sweep(snapshot, batch, &ONE_TIME_IDS, device).await?;
        sweep(snapshot, batch, &ONE_TIME_COUNTS, device).await?;
        sweep(snapshot, batch, &FALLBACK, device).await?;
        sweep(snapshot, batch, &TO_DEVICE, device).await?;
        if self.is_dehydrated(snapshot, device).await? {
            batch.delete(&DEHYDRATED, &device.0);
        }
        Ok(known)
    }
}

#[cfg(test)]
mod tests;
