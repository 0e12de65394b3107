//! What is on disk of end-to-end encryption, and what is told to the log.

use resuni_store::{Corrupt, Key, Position, Table, Topic, versioned};
use serde::{Deserialize, Serialize};

use crate::tables::{AccountNum, TokenHash};

/// The identity keys of a device as JSON, with the signatures it was given.
pub(crate) static DEVICE_KEYS: Table<(AccountNum, String), String> =
    Table::new(0x0320, "device_keys");
/// One-time keys by device, algorithm and the order in which they were uploaded.
pub(crate) static ONE_TIME: Table<(AccountNum, String, String, u64), OneTimeKey> =
    Table::new(0x0321, "one_time_keys");
/// The place of a one-time key by its id.
pub(crate) static ONE_TIME_IDS: Table<(AccountNum, String, String, String), u64> =
    Table::new(0x0322, "one_time_key_ids");
/// How many one-time keys a device has left, by algorithm.
pub(crate) static ONE_TIME_COUNTS: Table<(AccountNum, String, String), OneTimeCount> =
    Table::new(0x0323, "one_time_key_counts");
/// The fallback key of a device, by algorithm.
pub(crate) static FALLBACK: Table<(AccountNum, String, String), FallbackKey> =
    Table::new(0x0324, "fallback_keys");
/// Cross-signing keys as JSON.
pub(crate) static CROSS_SIGNING: Table<(AccountNum, Usage), String> =
    Table::new(0x0325, "cross_signing_keys");
/// What somebody's user-signing key says about another person's master key: by the signer, the
/// other user id, the public master key, and the id of the signing key. Only the signer sees it.
pub(crate) static USER_SIGNATURES: Table<(AccountNum, String, String, String), String> =
    Table::new(0x0326, "user_signatures");
/// Messages that wait for a device, as JSON.
pub(crate) static TO_DEVICE: Table<(AccountNum, String, Position), String> =
    Table::new(0x0327, "to_device");
/// Messages that were accepted: when each may be forgotten, in milliseconds since 1970.
pub(crate) static TO_DEVICE_SENT: Table<TokenHash, u64> = Table::new(0x0328, "to_device_sent");
/// Users, here or elsewhere, by the place in the log where their keys changed last.
pub(crate) static DEVICE_LISTS: Table<Position, String> = Table::new(0x0329, "device_lists");
/// The same by user.
pub(crate) static DEVICE_LIST_OF: Table<String, Position> = Table::new(0x032a, "device_list_of");

/// Backups of room keys by version.
pub(crate) static BACKUPS: Table<(AccountNum, u64), BackupRow> = Table::new(0x032b, "backups");
/// Their keys by room and session, as JSON.
pub(crate) static BACKUP_KEYS: Table<(AccountNum, u64, String, String), String> =
    Table::new(0x032c, "backup_keys");
/// Backups whose deletion has begun but whose keys are not all gone yet.
pub(crate) static DELETED_BACKUPS: Table<(AccountNum, u64), ()> =
    Table::new(0x032d, "deleted_backups");

/// The dehydrated device of an account.
pub(crate) static DEHYDRATED: Table<AccountNum, Dehydrated> = Table::new(0x032e, "dehydrated");

/// A dehydrated device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dehydrated {
    /// Its id.
    pub device: String,
    /// Its private keys, encrypted by its owner: a JSON object.
    pub data: String,
}
versioned!(Dehydrated, 1);

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackupRow {
    pub algorithm: String,
    /// A JSON object.
    pub auth_data: String,
    pub etag: u64,
    pub count: u64,
    /// Its version is not used again.
    pub deleted: bool,
}
versioned!(BackupRow, 1);

/// What a cross-signing key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Usage {
    Master,
    SelfSigning,
    UserSigning,
}

impl Usage {
    pub(crate) const ALL: [Self; 3] = [Self::Master, Self::SelfSigning, Self::UserSigning];

    /// As in the `usage` of a key.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::SelfSigning => "self_signing",
            Self::UserSigning => "user_signing",
        }
    }
}

impl Key for Usage {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Master => 0,
            Self::SelfSigning => 1,
            Self::UserSigning => 2,
        });
    }
    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        match <u8 as Key>::decode(input)? {
            0 => Ok(Self::Master),
            1 => Ok(Self::SelfSigning),
            2 => Ok(Self::UserSigning),
            other => Err(Corrupt::new(format!("{other} is no kind of key"))),
        }
    }
}

/// A one-time key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OneTimeKey {
    /// Its id without the algorithm.
    pub id: String,
    pub json: String,
}

/// The one-time keys of a device and an algorithm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OneTimeCount {
    pub left: u64,
    /// The place of the next one to be uploaded.
    pub next: u64,
}

/// A fallback key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FallbackKey {
    /// Its id without the algorithm.
    pub id: String,
    pub json: String,
    /// Whether somebody got it.
    pub used: bool,
}

versioned!(OneTimeKey, 1);
versioned!(OneTimeCount, 1);
versioned!(FallbackKey, 1);

/// The one-time or fallback keys of a device changed: [`DeviceKeysChanged`].
pub const KEYS: Topic = Topic(0x0305);
/// A message waits for a device: [`DeviceKeysChanged`] names the device.
pub const TO_DEVICE_TOPIC: Topic = Topic(0x0306);
/// The keys of a user changed: [`DeviceListChanged`]. The scope is zero for users of other servers.
pub const DEVICE_LISTS_TOPIC: Topic = Topic(0x0307);

/// The payload of [`KEYS`] and [`TO_DEVICE_TOPIC`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceKeysChanged {
    /// The device.
    pub device_id: String,
}

impl DeviceKeysChanged {
    /// From the log; none if it is no such payload.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// The payload of [`DEVICE_LISTS_TOPIC`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceListChanged {
    /// Whose keys changed.
    pub user_id: String,
    /// The devices whose keys changed, and whether each is gone. Empty: the cross-signing keys
    /// changed, or (for users of other servers) it is not known which.
    pub devices: Vec<(String, bool)>,
}

impl DeviceListChanged {
    /// From the log; none if it is no such payload.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}
