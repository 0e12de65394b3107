//! The life of an account after its registration.

use std::sync::Arc;

use resuni_store::{Batch, CommitError, Direction, ScanRange, StoreError, Topic};
use ruma::{DeviceId, OwnedUserId};
use serde::Serialize;

use crate::{
    Accounts,
    e2e::tables::{BACKUP_KEYS, BACKUPS, CROSS_SIGNING, USER_SIGNATURES},
    error::AccountError,
    tables::{
        ACCOUNT, ACCOUNTS, Account, AccountKind, AccountNum, AccountsChange, CONTACTS, CONTACTS_OF,
        DATA, DATA_CHANGES, DEACTIVATING, DEVICE_PUSHERS, Deactivated, FILTER_HASHES, FILTERS,
        Hidden, PROFILES, PUSHERS, PUSHKEYS,
    },
};

/// Rows removed in one batch when an account is emptied.
pub(crate) const CLEANUP_ROWS: usize = 100;

/// An account as the operator's list shows it.
#[derive(Clone, Debug)]
pub struct AccountSummary {
    /// Its number; the list goes on after it.
    pub account: AccountNum,
    /// Its user id.
    pub user_id: OwnedUserId,
    /// Its row.
    pub row: Account,
}

impl Accounts {
    /// Adds an entry about `account` to the batch and to the log.
    pub(crate) fn announce(
        &self,
        batch: &mut Batch,
        topic: Topic,
        account: AccountNum,
        payload: &impl Serialize,
    ) -> Result<resuni_store::Position, AccountError> {
        let reservation = self.store.reserve(1);
        let position = reservation.first();
        batch.log(position, topic, account.0, postcard::to_stdvec(payload)?);
        batch.attach(reservation);
        Ok(position)
    }

    /// The row as it is on disk now; to be called inside the account's lane before a change.
    pub(crate) async fn row_in_lane(&self, account: AccountNum) -> Result<Account, AccountError> {
        self.snapshot()
            .get(&ACCOUNTS, &account)
            .await?
            .ok_or(AccountError::NotFound("There is no such account."))
    }

    /// Changes the row of an account that has not been deactivated.
    pub(crate) async fn change(
        &self,
        account: AccountNum,
        change: impl FnOnce(&mut Account),
    ) -> Result<(), AccountError> {
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let old = self.row_in_lane(account).await?;
            if old.deactivated.is_some() {
                return Err(AccountError::Deactivated);
            }
            let mut new = old.clone();
            change(&mut new);
            if new == old {
                return Ok(());
            }
            let mut batch = Batch::new();
            batch.guard_exists(&ACCOUNTS, &account);
            batch.put(&ACCOUNTS, &account, &new);
            self.announce(&mut batch, ACCOUNT, account, &AccountsChange::Changed)?;
            let applied = self.store.commit(batch).await?;
            self.rows.forget([account]);
            applied
        };
        Ok(applied.durable().await?)
    }

    /// Makes somebody an operator, or no longer one.
    pub async fn set_admin(&self, account: AccountNum, admin: bool) -> Result<(), AccountError> {
        self.change(account, |row| row.admin = admin).await
    }

    /// Locks or unlocks an account (spec, "Account locking"). Its tokens stay.
    pub async fn set_locked(&self, account: AccountNum, locked: bool) -> Result<(), AccountError> {
        self.change(account, |row| row.locked = locked).await
    }

    /// Suspends or releases an account (spec, "Account suspension").
    pub async fn set_suspended(
        &self,
        account: AccountNum,
        suspended: bool,
    ) -> Result<(), AccountError> {
        self.change(account, |row| row.suspended = suspended).await
    }

    /// Gives an account a new password and, if `logout_others`, ends every session but that of
    /// `keep`.
    pub async fn set_password(
        &self,
        account: AccountNum,
        password: &str,
        logout_others: bool,
        keep: Option<&DeviceId>,
    ) -> Result<(), AccountError> {
        let row = self.active(account).await?;
        if row.kind == AccountKind::Guest {
            return Err(AccountError::Forbidden("Guests have no password.".into()));
        }
        let hash = self.passwords.hash(password).await?;
        self.change(account, |row| row.password = Some(Hidden(hash)))
            .await?;
        if logout_others {
            // The dehydrated device has no session to end, and it is meant for just such a day.
            let dehydrated = self.dehydrated(account).await?.map(|(device, _)| device);
            let keep = keep.map(DeviceId::as_str).into_iter();
            let keep: Vec<_> = keep.chain(dehydrated.as_deref()).collect();
            self.delete_devices_except(account, &keep).await?;
        }
        Ok(())
    }

    /// Whether `password` is that of the account. Wrong ones are counted, and too many of them
    /// shut the door for a while, for right ones too: who guesses must not see which was right.
    pub async fn check_password(
        &self,
        account: Option<AccountNum>,
        password: &str,
    ) -> Result<bool, AccountError> {
        if let Some(account) = account {
            // Taken before the slow hash, and given back if the password is right: many guesses at
            // once are not more than many in a row.
            self.failures
                .take(&account, self.now_ms())
                .map_err(|wait| AccountError::LimitExceeded {
                    retry_after_ms: wait.ms,
                })?;
        }
        let row = match account {
            Some(account) => self.account(account).await?,
            None => None,
        };
        let stored = row.as_ref().and_then(|row| row.password.as_ref());
        let right = self
            .passwords
            .verify(password, stored.map(Hidden::reveal))
            .await?;
        if let (true, Some(account)) = (right, account) {
            self.failures.give_back(&account);
        }
        Ok(right)
    }

    /// The row of an account that exists and has not been deactivated.
    pub async fn active(&self, account: AccountNum) -> Result<Arc<Account>, AccountError> {
        let row = self
            .account(account)
            .await?
            .ok_or(AccountError::NotFound("There is no such account."))?;
        match row.deactivated {
            Some(_) => Err(AccountError::Deactivated),
            None => Ok(row),
        }
    }

    /// Up to `limit` accounts in the order in which they were registered, after `after`.
    pub async fn list(
        &self,
        after: Option<AccountNum>,
        limit: usize,
    ) -> Result<Vec<AccountSummary>, AccountError> {
        let range = after.map_or_else(ScanRange::all, |after| ScanRange::after(&after));
        let rows = self
            .snapshot()
            .scan(&ACCOUNTS, range, Direction::Forward, limit)
            .await?;
        rows.into_iter()
            .map(|(account, row)| {
                Ok(AccountSummary {
                    account,
                    user_id: self.user_id(&row.localpart)?,
                    row,
                })
            })
            .collect()
    }

    /// Ends an account for good: from the first batch on nobody can use it; then its devices,
    /// tokens, profile, account data and filters are removed. Its name stays taken. Doing it again
    /// is harmless.
    pub async fn deactivate(&self, account: AccountNum, erase: bool) -> Result<(), AccountError> {
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let old = self.row_in_lane(account).await?;
            let mut new = old.clone();
            new.password = None;
            new.admin = false;
            new.deactivated = Some(match &old.deactivated {
                Some(before) => Deactivated {
                    at_ms: before.at_ms,
                    erase: before.erase || erase,
                },
                None => Deactivated {
                    at_ms: self.now_ms(),
                    erase,
                },
            });
            let mut batch = Batch::new();
            batch.guard_exists(&ACCOUNTS, &account);
            batch.put(&ACCOUNTS, &account, &new);
            batch.put(&DEACTIVATING, &account, &());
            if new.deactivated != old.deactivated {
                let change = AccountsChange::Deactivated { erase };
                self.announce(&mut batch, ACCOUNT, account, &change)?;
            }
            let applied = self.store.commit(batch).await?;
            self.rows.forget([account]);
            applied
        };
        applied.durable().await?;
        self.empty(account).await
    }

    /// Goes on with the deactivations that were under way when the server stopped.
    pub(crate) async fn finish_deactivations(&self) -> Result<(), AccountError> {
        loop {
            let rows = self
                .snapshot()
                .scan(
                    &DEACTIVATING,
                    ScanRange::all(),
                    Direction::Forward,
                    CLEANUP_ROWS,
                )
                .await?;
            if rows.is_empty() {
                return Ok(());
            }
            for (account, ()) in rows {
                self.empty(account).await?;
            }
        }
    }

    /// Removes everything a deactivated account had, in bounded batches; the mark in
    /// `deactivating` goes last.
    async fn empty(&self, account: AccountNum) -> Result<(), AccountError> {
        self.delete_devices_except(account, &[]).await?;
        self.end_operators_sessions(account).await?;
        let _lane = self.lanes.enter(account).await;
        loop {
            let batch = self.remnants(account).await?;
            if batch.is_empty() {
                break;
            }
            drop(self.store.commit(batch).await?);
        }
        let mut batch = Batch::new();
        batch.delete(&DEACTIVATING, &account);
        Ok(self.store.commit_durable(batch).await?)
    }

    /// The deletion of some rows that the account still has.
    async fn remnants(&self, account: AccountNum) -> Result<Batch, StoreError> {
        let snapshot = self.snapshot();
        let mut batch = Batch::new();
        macro_rules! sweep {
            ($($table:ident),*) => {$(
                let rows = snapshot
                    .scan(&$table, ScanRange::prefix(&account), Direction::Forward, CLEANUP_ROWS)
                    .await?;
                for (key, _) in rows {
                    batch.delete(&$table, &key);
                }
            )*};
        }
        sweep!(PROFILES, DATA, DATA_CHANGES, FILTERS, FILTER_HASHES);
        for id in self.pusher_ids(&snapshot, account).await? {
            batch.delete(&PUSHKEYS, &(id.app_id, id.pushkey, account));
        }
        sweep!(PUSHERS, DEVICE_PUSHERS);
        let contacts = ScanRange::prefix(&account);
        let contacts = snapshot
            .scan(&CONTACTS_OF, contacts, Direction::Forward, CLEANUP_ROWS)
            .await?;
        for (key, ()) in contacts {
            batch.delete(&CONTACTS_OF, &key);
            batch.delete(&CONTACTS, &(key.1, key.2));
        }
        sweep!(CROSS_SIGNING, USER_SIGNATURES, BACKUPS, BACKUP_KEYS);
        Ok(batch)
    }
}

/// Whether a commit failed because a row of this table was not what the guard expected.
pub(crate) fn lost_race(error: &CommitError, name: &str) -> bool {
    matches!(error, CommitError::Guard { table, .. } if *table == name)
}

#[cfg(test)]
#[path = "users_tests.rs"]
mod tests;
