//! What is on disk, and what is told to the log.

use std::fmt;

use resuni_store::{Corrupt, Key, Namespace, Position, Table, TableInfo, Topic, versioned};
use serde::{Deserialize, Serialize};

use crate::{e2e::tables as e2e, validation::Purpose};

/// The number of an account: the short form of a local part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccountNum(pub u64);

impl Key for AccountNum {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        u64::decode(input).map(Self)
    }
}

/// The SHA-256 of a token. The token itself is never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct TokenHash(pub [u8; 32]);

impl Key for TokenHash {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        <[u8; 32]>::decode(input).map(Self)
    }
}

/// Local parts to account numbers.
pub(crate) static ACCOUNT_NAMES: Namespace = Namespace::new(16, "accounts");

pub(crate) static ACCOUNTS: Table<AccountNum, Account> = Table::new(0x0301, "accounts");
/// Accounts whose deactivation has begun but whose rows are not all gone yet.
pub(crate) static DEACTIVATING: Table<AccountNum, ()> = Table::new(0x0302, "deactivating");
pub(crate) static DEVICE: Table<(AccountNum, String), Device> = Table::new(0x0303, "devices");
/// When a device was last seen; apart from the device, because it is written lazily.
pub(crate) static SEEN: Table<(AccountNum, String), Seen> = Table::new(0x0304, "last_seen");
pub(crate) static ACCESS: Table<TokenHash, AccessToken> = Table::new(0x0305, "access_tokens");
pub(crate) static REFRESH: Table<TokenHash, RefreshToken> = Table::new(0x0306, "refresh_tokens");
/// The tokens of each device.
pub(crate) static DEVICE_TOKENS: Table<(AccountNum, String, TokenKind, TokenHash), ()> =
    Table::new(0x0307, "device_tokens");
/// Registration tokens by the hash of their text.
pub(crate) static REGISTRATION_TOKENS: Table<TokenHash, RegistrationTokenRow> =
    Table::new(0x0308, "registration_tokens");
/// Single-use tokens of `m.login.token`.
pub(crate) static LOGIN_TOKENS: Table<TokenHash, ShortToken> = Table::new(0x0309, "login_tokens");
pub(crate) static OPENID_TOKENS: Table<TokenHash, ShortToken> = Table::new(0x030a, "openid_tokens");
/// Short-lived rows in the order in which they expire.
pub(crate) static EXPIRY: Table<(u64, TokenHash), ShortTokenKind> = Table::new(0x030b, "expiry");
/// Profile fields; the value is JSON.
pub(crate) static PROFILES: Table<(AccountNum, String), String> = Table::new(0x030c, "profiles");
/// Account data by room (empty: global) and type.
pub(crate) static DATA: Table<(AccountNum, String, String), Data> =
    Table::new(0x030d, "account_data");
/// The place of each row of `account_data` in the log: (room, type). One row for each.
pub(crate) static DATA_CHANGES: Table<(AccountNum, Position), DataName> =
    Table::new(0x030e, "account_data_changes");
/// Filters by account and number; the value is JSON.
pub(crate) static FILTERS: Table<(AccountNum, u64), String> = Table::new(0x030f, "filters");
/// Filters by the hash of their JSON, so that equal ones are stored once.
pub(crate) static FILTER_HASHES: Table<(AccountNum, TokenHash), u64> =
    Table::new(0x0310, "filter_hashes");

/// Pushers by account, app id and push key.
pub(crate) static PUSHERS: Table<(AccountNum, String, String), PusherRow> =
    Table::new(0x0311, "pushers");
/// The same by app id and push key, for those that are given to another account.
pub(crate) static PUSHKEYS: Table<(String, String, AccountNum), ()> =
    Table::new(0x0312, "push_keys");
/// The same by device, with which they end.
pub(crate) static DEVICE_PUSHERS: Table<(AccountNum, String, String, String), ()> =
    Table::new(0x0313, "device_pushers");

/// Threads that somebody follows, or followed (MSC4306), by room and root.
pub(crate) static THREADS: Table<(AccountNum, String, String), ThreadRow> =
    Table::new(0x0332, "threads");
/// The same in the order in which they changed: one row for each row above.
pub(crate) static THREAD_CHANGES: Table<(AccountNum, Position), ThreadName> =
    Table::new(0x0333, "changes of threads");
/// Who follows a thread, by room and root.
pub(crate) static FOLLOWERS: Table<(String, String, AccountNum), ()> =
    Table::new(0x0350, "followers of threads");
/// Whether the rows of before that index are in it.
pub(crate) static FOLLOWERS_KNOWN: Table<(), u64> = Table::new(0x0351, "followers known");
/// Addresses elsewhere by medium and address: whose they are.
pub(crate) static CONTACTS: Table<(String, String), Contact> = Table::new(0x0314, "contacts");
/// The same by account.
pub(crate) static CONTACTS_OF: Table<(AccountNum, String, String), ()> =
    Table::new(0x0315, "contacts_of");
/// Addresses that are being validated, by the hash of the session's id.
pub(crate) static VALIDATIONS: Table<TokenHash, Validation> = Table::new(0x0316, "validations");
/// The same by what was asked for, so that who asks again gets the same session.
pub(crate) static VALIDATION_OF: Table<TokenHash, TokenHash> = Table::new(0x0317, "validation_of");

/// How fast users may send of whom an operator has said it.
pub(crate) static RATES: Table<AccountNum, RateRow> = Table::new(0x0338, "rates of users");
/// Until when somebody may replace their cross-signing keys without confirming that it is them, in milliseconds since
/// 1970: an operator has said so.
pub(crate) static KEYS_REPLACEABLE: Table<AccountNum, u64> =
    Table::new(0x0339, "replaceable cross-signing keys");

/// The tables of this crate, for the doctor and the documentation.
pub static TABLES: &[TableInfo] = &[
    THREADS.info(),
    THREAD_CHANGES.info(),
    FOLLOWERS.info(),
    FOLLOWERS_KNOWN.info(),
    ACCOUNTS.info(),
    DEACTIVATING.info(),
    DEVICE.info(),
    SEEN.info(),
    ACCESS.info(),
    REFRESH.info(),
    DEVICE_TOKENS.info(),
    REGISTRATION_TOKENS.info(),
    LOGIN_TOKENS.info(),
    OPENID_TOKENS.info(),
    EXPIRY.info(),
    PROFILES.info(),
    DATA.info(),
    DATA_CHANGES.info(),
    FILTERS.info(),
    FILTER_HASHES.info(),
    PUSHERS.info(),
    PUSHKEYS.info(),
    DEVICE_PUSHERS.info(),
    CONTACTS.info(),
    RATES.info(),
    KEYS_REPLACEABLE.info(),
    CONTACTS_OF.info(),
    VALIDATIONS.info(),
    VALIDATION_OF.info(),
    e2e::DEVICE_KEYS.info(),
    e2e::ONE_TIME.info(),
    e2e::ONE_TIME_IDS.info(),
    e2e::ONE_TIME_COUNTS.info(),
    e2e::FALLBACK.info(),
    e2e::CROSS_SIGNING.info(),
    e2e::USER_SIGNATURES.info(),
    e2e::TO_DEVICE.info(),
    e2e::TO_DEVICE_SENT.info(),
    e2e::DEVICE_LISTS.info(),
    e2e::DEVICE_LIST_OF.info(),
    e2e::DEHYDRATED.info(),
    e2e::BACKUPS.info(),
    e2e::BACKUP_KEYS.info(),
    e2e::DELETED_BACKUPS.info(),
];

/// What an account is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountKind {
    /// A person, or a bot that logs in like one.
    User,
    /// Somebody who only looks around; no password, no way back in.
    Guest,
    /// A user of the application service with this id.
    AppService(String),
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The user id without its sigil and server name.
    pub localpart: String,
    /// What kind of account it is.
    pub kind: AccountKind,
    /// A label given by the operator at registration, as Synapse's `user_type`.
    pub user_type: Option<String>,
    /// When it was registered, in milliseconds since 1970.
    pub created_ms: u64,
    /// The hash of the password in PHC form; none: there is no logging in with a password.
    pub(crate) password: Option<Hidden>,
    /// May use the operator's endpoints.
    pub admin: bool,
    /// Can do nothing but log out.
    pub locked: bool,
    /// Can read but not write.
    pub suspended: bool,
    /// Gone, and its name with it.
    pub deactivated: Option<Deactivated>,
}

/// Something that must not get into a log by way of `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hidden(pub String);

impl Hidden {
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// How an account ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deactivated {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whether the person asked that their messages be hidden from those who join later.
    pub erase: bool,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub display_name: Option<String>,
    pub created_ms: u64,
}

/// When and whence a device was last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub ms: u64,
    pub ip: String,
    /// What the program calls itself.
    pub user_agent: Option<String>,
}

/// An access token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccessToken {
    pub account: AccountNum,
    pub device: String,
    pub expires_ms: Option<u64>,
    /// The refresh token that this one came from, until this one is first used: then the old
    /// refresh token and the access token beside it are revoked.
    pub replaces: Option<TokenHash>,
}

/// A refresh token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefreshToken {
    pub account: AccountNum,
    pub device: String,
    pub expires_ms: Option<u64>,
    /// The access token that was issued together with this one.
    pub access: TokenHash,
    /// The refresh token that this one came from, until this one or its access token is used.
    pub replaces: Option<TokenHash>,
    /// The refresh token that came from this one, not yet used.
    pub next: Option<TokenHash>,
}

/// Which table a row of `device_tokens` points into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Access,
    Refresh,
}

impl Key for TokenKind {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Access => 0,
            Self::Refresh => 1,
        });
    }
    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        match <u8 as Key>::decode(input)? {
            0 => Ok(Self::Access),
            1 => Ok(Self::Refresh),
            other => Err(Corrupt::new(format!("{other} is no kind of token"))),
        }
    }
}

/// A token that lets strangers register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RegistrationTokenRow {
    /// The text, because operators list their tokens.
    pub token: String,
    pub uses_allowed: Option<u64>,
    pub used: u64,
    pub expires_ms: Option<u64>,
}

/// A login token or OpenID token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShortToken {
    pub account: AccountNum,
    pub expires_ms: u64,
}

/// Which table a row of `expiry` points into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ShortTokenKind {
    Login,
    OpenId,
    /// A request to send messages to devices.
    Sent,
    /// An address that is being validated.
    Validation,
}

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contact {
    pub account: AccountNum,
    pub validated_ms: u64,
    pub added_ms: u64,
}

/// A row of [`RATES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RateRow {
    pub messages_per_second: u32,
    pub burst_count: u32,
}

/// An address that is being validated. Client secret and token are kept as hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Validation {
    pub sid: String,
    pub purpose: Purpose,
    pub address: String,
    pub secret: TokenHash,
    pub token: TokenHash,
    /// The last `send_attempt`.
    pub attempt: u64,
    pub next_link: Option<String>,
    pub validated_ms: Option<u64>,
    pub expires_ms: u64,
    /// The key in `validation_of`.
    pub request: TokenHash,
}

/// A piece of account data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Data {
    pub position: Position,
    /// A JSON object.
    pub content: String,
}

/// The name of a piece of account data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DataName {
    pub room: String,
    pub kind: String,
}

/// A pusher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PusherRow {
    /// The device that set it; none for one that an application service set.
    pub device: Option<String>,
    pub set_ms: u64,
    /// As its client set it.
    pub json: String,
}

versioned!(PusherRow, 1);
versioned!(Account, 1);
versioned!(Device, 1);
versioned!(Seen, 2, from 1 => v1::Seen);
/// A row of [`THREADS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ThreadRow {
    /// Whether the thread is followed.
    pub following: Following,
    /// Since when.
    pub position: Position,
}

/// Whether somebody follows a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Following {
    /// Not any more.
    No,
    /// By their own wish.
    ByUser,
    /// Their client made them, because they were mentioned.
    ByClient,
}

/// A thread: a row of [`THREAD_CHANGES`], and the payload of [`THREADS_CHANGED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadName {
    /// The room's id.
    pub room: String,
    /// The id of the event that the thread is about.
    pub root: String,
}
versioned!(ThreadRow, 1);
versioned!(ThreadName, 1);
versioned!(AccessToken, 1);
versioned!(RefreshToken, 1);
versioned!(RegistrationTokenRow, 1);
versioned!(ShortToken, 1);
versioned!(ShortTokenKind, 1);
versioned!(Contact, 1);
versioned!(RateRow, 1);
versioned!(Validation, 1);
versioned!(TokenHash, 1);
versioned!(Data, 1);
versioned!(DataName, 1);

mod v1 {
    use serde::{Deserialize, Serialize};

    /// Before programs were noted.
    #[derive(Serialize, Deserialize)]
    pub struct Seen {
        ms: u64,
        ip: String,
    }

    impl From<Seen> for super::Seen {
        fn from(row: Seen) -> Self {
            Self {
                ms: row.ms,
                ip: row.ip,
                user_agent: None,
            }
        }
    }
}

// ---- the log; the scope of every entry is the account number, the payload is postcard ----------

/// Somebody follows a thread, or does so no more: the [`ThreadName`].
pub const THREADS_CHANGED: Topic = Topic(0x0308);
/// Account data changed: [`AccountDataChanged`].
pub const ACCOUNT_DATA: Topic = Topic(0x0301);
/// A profile field changed: [`ProfileChanged`].
pub const PROFILE: Topic = Topic(0x0302);
/// A device came, changed or went: [`DevicesChanged`].
pub const DEVICES: Topic = Topic(0x0303);
/// An account came, changed or went: [`AccountsChange`].
pub const ACCOUNT: Topic = Topic(0x0304);

/// The pushers of an account changed; no payload.
pub const PUSHERS_CHANGED: Topic = Topic(0x0309);

/// The payload of [`ACCOUNT_DATA`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountDataChanged {
    /// The room it belongs to; none: global.
    pub room: Option<String>,
    /// Its type.
    pub kind: String,
}

impl AccountDataChanged {
    /// From the log; `None` if the entry is of another topic's shape.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// The payload of [`PROFILE`]: the field that was set or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileChanged {
    /// The name of the field.
    pub key: String,
}

/// The payload of [`DEVICES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicesChanged {
    /// The id of the device.
    pub device_id: String,
    /// What happened to it.
    pub change: DeviceChange,
}

/// What happened to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceChange {
    /// It is new.
    Added,
    /// Its display name changed.
    Renamed,
    /// It is gone, and its tokens with it.
    Removed,
}

/// The payload of [`ACCOUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountsChange {
    /// It was registered.
    Registered,
    /// It was locked, unlocked, suspended or released, or became or ceased to be an admin.
    Changed,
    /// It was deactivated: it leaves its rooms; `erase` says whether its messages are hidden from
    /// those who join later.
    Deactivated {
        /// See above.
        erase: bool,
    },
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::e2e::tables::{DEVICE_LISTS_TOPIC, KEYS, TO_DEVICE_TOPIC};

    #[test]
    fn each_topic_of_the_log_has_a_number_of_its_own() {
        let topics = [
            ACCOUNT_DATA,
            PROFILE,
            DEVICES,
            ACCOUNT,
            PUSHERS_CHANGED,
            THREADS_CHANGED,
            KEYS,
            TO_DEVICE_TOPIC,
            DEVICE_LISTS_TOPIC,
        ];
        let numbers: BTreeSet<u16> = topics.iter().map(|topic| topic.0).collect();
        assert_eq!(numbers.len(), topics.len());
    }
}
