//! Backups of room keys (spec, "Server-side key backups"): encrypted by the client, kept by room and
//! session. A key is only replaced by a better one.
//!
//! Each change is one batch with the backup's count and etag, so they are right after a crash too.

use std::collections::BTreeMap;

use resuni_store::{Batch, Direction, ScanRange, Snapshot, StoreError};
use serde::Deserialize;
use serde_json::Value;

use super::{
    bounded,
    tables::{BACKUP_KEYS, BACKUPS, BackupRow, DELETED_BACKUPS},
};
use crate::{AccountNum, Accounts, error::AccountError};

/// Rows read, or removed in one batch, at a time.
const PAGE: usize = 500;
/// Keys of one request: more than clients send, less than a batch may hold.
const KEYS_AT_ONCE: usize = 10_000;
/// The longest room id and session id in bytes.
const NAME_BYTES: usize = 255;

const NO_BACKUP: AccountError = AccountError::NotFound("There is no such key backup.");

/// Keys by room and session, each a JSON object.
pub type BackupKeys = BTreeMap<String, BTreeMap<String, Value>>;

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Its version.
    pub version: u64,
    /// The algorithm, and what the client needs for it: a JSON object.
    pub algorithm: String,
    /// See above.
    pub auth_data: String,
    /// Changes with every change of a key.
    pub etag: u64,
    /// How many keys there are.
    pub count: u64,
}

impl Backup {
    fn new(version: u64, row: BackupRow) -> Self {
        Self {
            version,
            algorithm: row.algorithm,
            auth_data: row.auth_data,
            etag: row.etag,
            count: row.count,
        }
    }
}

/// Which keys of a backup are meant.
#[derive(Clone, Copy, Debug)]
pub enum BackupPart<'a> {
    /// All.
    Everything,
    /// Those of a room.
    Room(&'a str),
    /// One.
    Session(&'a str, &'a str),
}

impl BackupPart<'_> {
    fn range(self, account: AccountNum, version: u64) -> ScanRange {
        match self {
            Self::Everything => ScanRange::prefix(&(account, version)),
            Self::Room(room) => ScanRange::prefix(&(account, version, room.to_owned())),
            Self::Session(room, session) => {
                ScanRange::prefix(&(account, version, room.to_owned(), session.to_owned()))
            }
        }
    }
}

/// What decides which of two keys for the same session is kept.
#[derive(Deserialize)]
struct Quality {
    first_message_index: u64,
    forwarded_count: u64,
    is_verified: bool,
    #[serde(rename = "session_data")]
    _data: serde_json::Map<String, Value>,
}

impl Quality {
    fn of(key: &Value) -> Result<Self, AccountError> {
        Self::deserialize(key).map_err(|error| {
            AccountError::InvalidParam(format!("This is not a backed up key: {error}."))
        })
    }

    /// "When a client uploads a key for a session that the server already has a key for".
    fn is_better_than(&self, other: &Self) -> bool {
        let rank = |key: &Self| {
            (
                !key.is_verified,
                key.first_message_index,
                key.forwarded_count,
            )
        };
        rank(self) < rank(other)
    }
}

impl Accounts {
    /// Begins a backup, which is the current one from then on.
    pub async fn create_backup(
        &self,
        account: AccountNum,
        algorithm: &str,
        auth_data: &Value,
    ) -> Result<u64, AccountError> {
        let row = BackupRow {
            algorithm: algorithm.to_owned(),
            auth_data: bounded(auth_data, "The data of a key backup")?,
            etag: 0,
            count: 0,
            deleted: false,
        };
        let (version, applied) = {
            let _lane = self.lanes.enter(account).await;
            if self.row_in_lane(account).await?.deactivated.is_some() {
                return Err(AccountError::Deactivated);
            }
            let range = ScanRange::prefix(&account);
            let last = self
                .snapshot()
                .scan(&BACKUPS, range, Direction::Backward, 1)
                .await?;
            // A version is never used again, even if its backup was deleted.
            let version = last.first().map_or(1, |((_, version), _)| version + 1);
            let mut batch = Batch::new();
            batch.put(&BACKUPS, &(account, version), &row);
            (version, self.store.commit(batch).await?)
        };
        applied.durable().await?;
        Ok(version)
    }

    /// The backup of this version, or the current one.
    pub async fn backup(
        &self,
        account: AccountNum,
        version: Option<u64>,
    ) -> Result<Backup, AccountError> {
        let snapshot = self.snapshot();
        let found = match version {
            Some(version) => existing(&snapshot, account, version).await?,
            None => current(&snapshot, account).await?,
        };
        found.ok_or(NO_BACKUP)
    }

    /// Changes what the client needs for a backup; its algorithm stays.
    pub async fn update_backup(
        &self,
        account: AccountNum,
        version: u64,
        algorithm: &str,
        auth_data: &Value,
    ) -> Result<(), AccountError> {
        let auth_data = bounded(auth_data, "The data of a key backup")?;
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let old = self.backup(account, Some(version)).await?;
            if old.algorithm != algorithm {
                return Err(AccountError::InvalidParam(
                    "The algorithm of a key backup can't be changed.".into(),
                ));
            }
            let row = BackupRow {
                algorithm: old.algorithm,
                auth_data,
                etag: old.etag,
                count: old.count,
                deleted: false,
            };
            let mut batch = Batch::new();
            batch.put(&BACKUPS, &(account, version), &row);
            self.store.commit(batch).await?
        };
        Ok(applied.durable().await?)
    }

    /// Deletes a backup with all its keys.
    pub async fn delete_backup(
        &self,
        account: AccountNum,
        version: u64,
    ) -> Result<(), AccountError> {
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let old = self.backup(account, Some(version)).await?;
            let row = BackupRow {
                algorithm: old.algorithm,
                auth_data: "{}".to_owned(),
                etag: 0,
                count: 0,
                deleted: true,
            };
            let mut batch = Batch::new();
            batch.put(&BACKUPS, &(account, version), &row);
            batch.put(&DELETED_BACKUPS, &(account, version), &());
            self.store.commit(batch).await?
        };
        applied.durable().await?;
        self.empty_backup(account, version).await
    }

    /// Goes on with the deletions that were under way when the server stopped.
    pub(crate) async fn finish_backup_deletions(&self) -> Result<(), AccountError> {
        loop {
            let rows = self
                .snapshot()
                .scan(&DELETED_BACKUPS, ScanRange::all(), Direction::Forward, PAGE)
                .await?;
            if rows.is_empty() {
                return Ok(());
            }
            for ((account, version), ()) in rows {
                self.empty_backup(account, version).await?;
            }
        }
    }

    async fn empty_backup(&self, account: AccountNum, version: u64) -> Result<(), AccountError> {
        loop {
            let range = BackupPart::Everything.range(account, version);
            let rows = self
                .snapshot()
                .scan(&BACKUP_KEYS, range, Direction::Forward, PAGE)
                .await?;
            let mut batch = Batch::new();
            for (key, _) in &rows {
                batch.delete(&BACKUP_KEYS, key);
            }
            if rows.is_empty() {
                batch.delete(&DELETED_BACKUPS, &(account, version));
                return Ok(self.store.commit_durable(batch).await?);
            }
            drop(self.store.commit(batch).await?);
        }
    }

    /// Adds keys to the current backup, those that are better than what is there.
    pub async fn put_backup_keys(
        &self,
        account: AccountNum,
        version: u64,
        keys: &BackupKeys,
    ) -> Result<Backup, AccountError> {
        if keys.values().map(BTreeMap::len).sum::<usize>() > KEYS_AT_ONCE {
            return Err(AccountError::TooLarge {
                what: "A request with keys to back up",
                limit: KEYS_AT_ONCE,
            });
        }
        let (backup, applied) = {
            let _lane = self.lanes.enter(account).await;
            let snapshot = self.snapshot();
            let mut backup = existing(&snapshot, account, version)
                .await?
                .ok_or(NO_BACKUP)?;
            let newest = current(&snapshot, account).await?.ok_or(NO_BACKUP)?;
            if newest.version != version {
                return Err(AccountError::WrongBackup {
                    current: newest.version,
                });
            }
            let mut batch = Batch::new();
            for (room, sessions) in keys {
                for (session, key) in sessions {
                    let name = (account, version, room.clone(), session.clone());
                    put_key(&snapshot, &mut batch, &mut backup, name, key).await?;
                }
            }
            if batch.is_empty() {
                return Ok(backup);
            }
            backup.etag += 1;
            put_backup(&mut batch, account, &backup);
            (backup, self.store.commit(batch).await?)
        };
        applied.durable().await?;
        Ok(backup)
    }

    /// Keys of a backup.
    pub async fn backup_keys(
        &self,
        account: AccountNum,
        version: u64,
        part: BackupPart<'_>,
    ) -> Result<BackupKeys, AccountError> {
        let snapshot = self.snapshot();
        existing(&snapshot, account, version)
            .await?
            .ok_or(NO_BACKUP)?;
        let mut keys = BackupKeys::new();
        let whole = part.range(account, version);
        let mut range = whole.clone();
        loop {
            let rows = snapshot
                .scan(&BACKUP_KEYS, range, Direction::Forward, PAGE)
                .await?;
            let Some((last, _)) = rows.last() else {
                break;
            };
            range = ScanRange::after(last).and(whole.clone());
            for ((_, _, room, session), json) in rows {
                keys.entry(room).or_default().insert(session, parse(&json)?);
            }
        }
        Ok(keys)
    }

    /// Deletes keys of a backup.
    pub async fn delete_backup_keys(
        &self,
        account: AccountNum,
        version: u64,
        part: BackupPart<'_>,
    ) -> Result<Backup, AccountError> {
        loop {
            let (backup, applied) = {
                let _lane = self.lanes.enter(account).await;
                let snapshot = self.snapshot();
                let mut backup = existing(&snapshot, account, version)
                    .await?
                    .ok_or(NO_BACKUP)?;
                let rows = snapshot
                    .scan(
                        &BACKUP_KEYS,
                        part.range(account, version),
                        Direction::Forward,
                        PAGE,
                    )
                    .await?;
                if rows.is_empty() {
                    return Ok(backup);
                }
                let mut batch = Batch::new();
                for (key, _) in &rows {
                    batch.delete(&BACKUP_KEYS, key);
                }
                backup.count = backup.count.saturating_sub(rows.len() as u64);
                backup.etag += 1;
                put_backup(&mut batch, account, &backup);
                let applied = self.store.commit(batch).await?;
                ((rows.len() < PAGE).then_some(backup), applied)
            };
            applied.durable().await?;
            if let Some(backup) = backup {
                return Ok(backup);
            }
        }
    }
}

fn parse(json: &str) -> Result<Value, AccountError> {
    serde_json::from_str(json)
        .map_err(|error| AccountError::Internal(format!("A backed up key can't be read: {error}")))
}

/// Puts one key if there is none that is as good.
async fn put_key(
    snapshot: &Snapshot,
    batch: &mut Batch,
    backup: &mut Backup,
    name: (AccountNum, u64, String, String),
    key: &Value,
) -> Result<(), AccountError> {
    if name.2.len() > NAME_BYTES || name.3.len() > NAME_BYTES {
        return Err(AccountError::InvalidParam(
            "A room id and a session id have at most 255 bytes.".into(),
        ));
    }
    let quality = Quality::of(key)?;
    let json = bounded(key, "A backed up key")?;
    match snapshot.get(&BACKUP_KEYS, &name).await? {
        Some(old) if !quality.is_better_than(&Quality::of(&parse(&old)?)?) => {}
        Some(_) => batch.put(&BACKUP_KEYS, &name, &json),
        None => {
            batch.put(&BACKUP_KEYS, &name, &json);
            backup.count += 1;
        }
    }
    Ok(())
}

fn put_backup(batch: &mut Batch, account: AccountNum, backup: &Backup) {
    let row = BackupRow {
        algorithm: backup.algorithm.clone(),
        auth_data: backup.auth_data.clone(),
        etag: backup.etag,
        count: backup.count,
        deleted: false,
    };
    batch.put(&BACKUPS, &(account, backup.version), &row);
}

async fn existing(
    snapshot: &Snapshot,
    account: AccountNum,
    version: u64,
) -> Result<Option<Backup>, StoreError> {
    let row = snapshot.get(&BACKUPS, &(account, version)).await?;
    let row = row.filter(|row| !row.deleted);
    Ok(row.map(|row| Backup::new(version, row)))
}

/// The newest backup that was not deleted.
async fn current(snapshot: &Snapshot, account: AccountNum) -> Result<Option<Backup>, StoreError> {
    let mut range = ScanRange::prefix(&account);
    loop {
        let rows = snapshot
            .scan(&BACKUPS, range, Direction::Backward, PAGE)
            .await?;
        let Some((last, _)) = rows.last() else {
            return Ok(None);
        };
        range = ScanRange::before(last).within(&account);
        if let Some(((_, version), row)) = rows.into_iter().find(|(_, row)| !row.deleted) {
            return Ok(Some(Backup::new(version, row)));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{accounts, alice};

    const MEGOLM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

    fn key(verified: bool, index: u64, forwarded: u64) -> Value {
        json!({
            "is_verified": verified, "first_message_index": index, "forwarded_count": forwarded,
            "session_data": { "of": [verified, index, forwarded] },
        })
    }

    fn one(room: &str, session: &str, key: Value) -> BackupKeys {
        BTreeMap::from([(room.to_owned(), BTreeMap::from([(session.to_owned(), key)]))])
    }

    #[tokio::test]
    async fn a_key_is_replaced_by_a_better_one_only() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let version = accounts
            .create_backup(alice, MEGOLM, &json!({}))
            .await
            .unwrap();
        let session = BackupPart::Session("!r", "s");
        // From better to worse; each is tried against the one before, and the other way round.
        let order = [
            key(true, 1, 0),
            key(true, 1, 1),
            key(true, 2, 0),
            key(false, 0, 0),
        ];
        for (better, worse) in order.iter().zip(&order[1..]) {
            for [first, second] in [[better, worse], [worse, better]] {
                accounts
                    .delete_backup_keys(alice, version, session)
                    .await
                    .unwrap();
                for key in [first, second, second] {
                    let keys = one("!r", "s", key.clone());
                    let backup = accounts.put_backup_keys(alice, version, &keys);
                    assert_eq!(backup.await.unwrap().count, 1);
                }
                let keys = accounts.backup_keys(alice, version, session).await.unwrap();
                assert_eq!(&keys["!r"]["s"], better);
            }
        }
    }

    #[tokio::test]
    async fn the_etag_follows_changes_and_nothing_else() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let version = accounts
            .create_backup(alice, MEGOLM, &json!({}))
            .await
            .unwrap();
        let put = async |key: Value| {
            let keys = one("!r", "s", key);
            let backup = accounts.put_backup_keys(alice, version, &keys).await;
            backup.unwrap().etag
        };
        let first = put(key(false, 5, 0)).await;
        assert_eq!(put(key(false, 5, 0)).await, first);
        assert_eq!(put(key(false, 6, 0)).await, first);
        let second = put(key(false, 4, 0)).await;
        assert_ne!(second, first);
        let deleted = accounts
            .delete_backup_keys(alice, version, BackupPart::Everything)
            .await
            .unwrap();
        assert_eq!(deleted.count, 0);
        assert_ne!(deleted.etag, second);
    }

    #[tokio::test]
    async fn keys_go_to_the_current_backup_and_versions_are_not_used_again() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let create = async || {
            accounts
                .create_backup(alice, MEGOLM, &json!({}))
                .await
                .unwrap()
        };
        let (old, new) = (create().await, create().await);
        let keys = one("!r", "s", key(true, 0, 0));
        assert!(matches!(
            accounts.put_backup_keys(alice, old, &keys).await,
            Err(AccountError::WrongBackup { current }) if current == new
        ));
        accounts.put_backup_keys(alice, new, &keys).await.unwrap();
        accounts.delete_backup(alice, new).await.unwrap();
        assert_eq!(accounts.backup(alice, None).await.unwrap().version, old);
        for part in [BackupPart::Everything, BackupPart::Room("!r")] {
            let gone = accounts.backup_keys(alice, new, part).await;
            assert!(matches!(gone, Err(AccountError::NotFound(_))));
        }
        let next = create().await;
        assert!(next > new);
        assert!(
            accounts
                .backup_keys(alice, next, BackupPart::Everything)
                .await
                .unwrap()
                .is_empty()
        );
    }

    #[tokio::test]
    async fn a_deletion_goes_on_after_a_crash() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let version = accounts
            .create_backup(alice, MEGOLM, &json!({}))
            .await
            .unwrap();
        let keys = one("!r", "s", key(true, 0, 0));
        accounts
            .put_backup_keys(alice, version, &keys)
            .await
            .unwrap();
        // As far as a crash leaves it.
        let mut batch = Batch::new();
        batch.put(&DELETED_BACKUPS, &(alice, version), &());
        accounts.store.commit_durable(batch).await.unwrap();
        accounts.finish_backup_deletions().await.unwrap();
        let left = accounts.backup_keys(alice, version, BackupPart::Everything);
        assert!(left.await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_is_no_key_is_refused() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let version = accounts
            .create_backup(alice, MEGOLM, &json!({}))
            .await
            .unwrap();
        for bad in [json!({}), json!(1), json!({ "is_verified": true })] {
            let refused = accounts
                .put_backup_keys(alice, version, &one("!r", "s", bad))
                .await;
            assert!(matches!(refused, Err(AccountError::InvalidParam(_))));
        }
    }
}
