//! What operators change of accounts, beside locking and suspending ([`crate::moderation`]).

use std::collections::BTreeSet;

use resuni_store::{Batch, Direction, ScanRange, StoreError};

use crate::{
    Accounts, Session,
    contacts::{MOST, email_address},
    error::AccountError,
    limits::Rate,
    secrets,
    tables::{
        ACCESS, ACCOUNT, ACCOUNTS, AccessToken, AccountKind, AccountNum, AccountsChange, CONTACTS,
        CONTACTS_OF, Contact, DEACTIVATING, DEVICE_TOKENS, Hidden, RATES, RateRow, TokenKind,
    },
    users::lost_race,
};

/// The device of a session that an operator opened in somebody's name: no device is called so.
pub(crate) const NO_DEVICE: &str = "";
/// Sessions of operators in one account's name.
const OPERATORS_SESSIONS: usize = 20;
/// Accounts whose limits differ from everybody's.
const RATES_MAX: usize = 10_000;

/// How fast one user may send events, by the word of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnRate {
    /// How many in the long run. Zero: nothing that the user does is limited.
    pub messages_per_second: u32,
    /// How many at once.
    pub burst_count: u32,
}

impl OwnRate {
    /// Whether the limits don't concern this user at all.
    pub fn is_unlimited(self) -> bool {
        self.messages_per_second == 0
    }

    /// The same for a bucket.
    pub fn rate(self) -> Rate {
        Rate::per_second(self.messages_per_second.into(), self.burst_count.max(1))
    }
}

impl Accounts {
    /// Gives an account another label, or none.
    pub async fn set_user_type(
        &self,
        account: AccountNum,
        user_type: Option<String>,
    ) -> Result<(), AccountError> {
        self.change(account, |row| row.user_type = user_type).await
    }

    /// Opens an account again that was deactivated. What it had is gone; who is to log in needs the password.
    pub async fn reactivate(
        &self,
        account: AccountNum,
        password: Option<&str>,
    ) -> Result<(), AccountError> {
        let password = match password {
            Some(password) => Some(Hidden(self.passwords.hash(password).await?)),
            None => None,
        };
        let applied = {
            let _lane = self.lanes.enter(account).await;
            if self.snapshot().contains(&DEACTIVATING, &account).await? {
                return Err(AccountError::Rejected(
                    "This account is still being deactivated. Try again in a moment.".into(),
                ));
            }
            let mut row = self.row_in_lane(account).await?;
            if row.deactivated.take().is_none() {
                return Ok(());
            }
            row.password = password;
            let mut batch = Batch::new();
            batch.guard_exists(&ACCOUNTS, &account);
            batch.put(&ACCOUNTS, &account, &row);
            self.announce(&mut batch, ACCOUNT, account, &AccountsChange::Changed)?;
            let applied = self.store.commit(batch).await?;
            self.rows.forget([account]);
            applied
        };
        Ok(applied.durable().await?)
    }

    /// Makes these the e-mail addresses of an account, whether or not anybody has shown that they are theirs: the
    /// operator answers for it.
    ///
    /// # Errors
    /// [`AccountError::ThreepidInUse`] when somebody else has one of them.
    pub async fn set_addresses(
        &self,
        account: AccountNum,
        addresses: &[String],
    ) -> Result<(), AccountError> {
        let wanted: BTreeSet<String> = addresses
            .iter()
            .map(|address| email_address(address))
            .collect::<Result<_, _>>()?;
        if wanted.len() > MOST {
            return Err(AccountError::InvalidParam(format!(
                "An account has at most {MOST} addresses."
            )));
        }
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let now = self.now_ms();
            let mut batch = Batch::new();
            let mut had = BTreeSet::new();
            for contact in self.contacts(account).await? {
                if wanted.contains(&contact.address) {
                    had.insert(contact.address);
                    continue;
                }
                let key = (contact.medium, contact.address);
                batch.guard_exists(&CONTACTS, &key);
                batch.delete(&CONTACTS, &key);
                batch.delete(&CONTACTS_OF, &(account, key.0, key.1));
            }
            for address in wanted.difference(&had) {
                let key = ("email".to_owned(), address.clone());
                let row = Contact {
                    account,
                    validated_ms: now,
                    added_ms: now,
                };
                batch.guard_absent(&CONTACTS, &key);
                batch.put(&CONTACTS, &key, &row);
                batch.put(&CONTACTS_OF, &(account, key.0, key.1), &());
            }
            if batch.is_empty() {
                return Ok(());
            }
            if self.row_in_lane(account).await?.deactivated.is_some() {
                return Err(AccountError::Deactivated);
            }
            self.store.commit(batch).await.map_err(|error| {
                if lost_race(&error, CONTACTS.name()) {
                    AccountError::ThreepidInUse
                } else {
                    error.into()
                }
            })?
        };
        Ok(applied.durable().await?)
    }

    /// An access token with which an operator acts in somebody's name. It belongs to no device, so the person's list of
    /// devices does not show it and their `/logout/all` does not end it.
    pub async fn login_as(
        &self,
        account: AccountNum,
        until_ms: Option<u64>,
    ) -> Result<String, AccountError> {
        let token = secrets::token("rsa_")?;
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let row = self.row_in_lane(account).await?;
            if row.deactivated.is_some() {
                return Err(AccountError::Deactivated);
            }
            if row.kind == AccountKind::Guest {
                return Err(AccountError::Forbidden("Nobody acts as a guest.".into()));
            }
            let mut batch = Batch::new();
            self.end_oldest_sessions(account, &mut batch).await?;
            let hash = secrets::hash(&token);
            let row = AccessToken {
                account,
                device: NO_DEVICE.to_owned(),
                expires_ms: until_ms,
                replaces: None,
            };
            batch.put(&ACCESS, &hash, &row);
            let index = (account, NO_DEVICE.to_owned(), TokenKind::Access, hash);
            batch.put(&DEVICE_TOKENS, &index, &());
            self.store.commit(batch).await?
        };
        applied.durable().await?;
        Ok(token)
    }

    /// Makes room for one more session of an operator: those that have expired go, and if need be any.
    async fn end_oldest_sessions(
        &self,
        account: AccountNum,
        batch: &mut Batch,
    ) -> Result<(), AccountError> {
        let snapshot = self.snapshot();
        let range = ScanRange::prefix(&(account, NO_DEVICE.to_owned()));
        let rows = snapshot
            .scan(
                &DEVICE_TOKENS,
                range,
                Direction::Forward,
                2 * OPERATORS_SESSIONS,
            )
            .await?;
        let mut left = rows.len();
        let mut revoked = Vec::new();
        for (key, ()) in rows {
            let row = snapshot.get(&ACCESS, &key.3).await?;
            let expires = row.as_ref().and_then(|row| row.expires_ms);
            let ended = row.is_none() || expires.is_some_and(|at| at <= self.now_ms());
            if ended || left >= OPERATORS_SESSIONS {
                batch.delete(&ACCESS, &key.3);
                batch.delete(&DEVICE_TOKENS, &key);
                revoked.push(key.3);
                left -= 1;
            }
        }
        self.tokens.forget(revoked);
        Ok(())
    }

    /// Ends a session that an operator opened in somebody's name.
    pub(crate) async fn end_operators_session(
        &self,
        session: &Session,
    ) -> Result<(), AccountError> {
        let Some(hash) = session.entry.as_ref().map(|entry| entry.hash) else {
            return Ok(());
        };
        let _lane = self.lanes.enter(session.account).await;
        let mut batch = Batch::new();
        let device = NO_DEVICE.to_owned();
        batch.delete(&ACCESS, &hash);
        batch.delete(
            &DEVICE_TOKENS,
            &(session.account, device, TokenKind::Access, hash),
        );
        self.store.commit_durable(batch).await?;
        self.tokens.forget([hash]);
        Ok(())
    }

    /// Ends the sessions that operators opened in this account's name.
    pub(crate) async fn end_operators_sessions(
        &self,
        account: AccountNum,
    ) -> Result<(), AccountError> {
        let _lane = self.lanes.enter(account).await;
        let snapshot = self.snapshot();
        let (mut batch, mut revoked) = (Batch::new(), Vec::new());
        crate::sessions::revoke_tokens(&snapshot, &mut batch, account, NO_DEVICE, &mut revoked)
            .await?;
        if !batch.is_empty() {
            self.store.commit_durable(batch).await?;
            self.tokens.forget(revoked);
        }
        Ok(())
    }

    /// Reads whose limits differ from everybody's, when the accounts are opened.
    pub(crate) async fn read_rates(&self) -> Result<(), StoreError> {
        let rows = self
            .snapshot()
            .scan(&RATES, ScanRange::all(), Direction::Forward, RATES_MAX)
            .await?;
        let mut rates = self.rates.write();
        for (account, row) in rows {
            rates.insert(account, row.into());
        }
        Ok(())
    }

    /// How fast this user may send, if an operator has said so.
    pub fn own_rate(&self, account: AccountNum) -> Option<OwnRate> {
        self.rates.read().get(&account).copied()
    }

    /// Says how fast a user may send; none: as everybody.
    pub async fn set_own_rate(
        &self,
        account: AccountNum,
        rate: Option<OwnRate>,
    ) -> Result<(), AccountError> {
        let _lane = self.lanes.enter(account).await;
        let mut batch = Batch::new();
        match rate {
            Some(_) if self.rates.read().len() >= RATES_MAX && self.own_rate(account).is_none() => {
                return Err(AccountError::Rejected(format!(
                    "At most {RATES_MAX} users have limits of their own."
                )));
            }
            Some(rate) => {
                batch.guard_exists(&ACCOUNTS, &account);
                batch.put(&RATES, &account, &rate.into());
            }
            None => batch.delete(&RATES, &account),
        }
        self.store.commit_durable(batch).await?;
        let mut rates = self.rates.write();
        match rate {
            Some(rate) => drop(rates.insert(account, rate)),
            None => drop(rates.remove(&account)),
        }
        Ok(())
    }
}

impl From<RateRow> for OwnRate {
    fn from(row: RateRow) -> Self {
        Self {
            messages_per_second: row.messages_per_second,
            burst_count: row.burst_count,
        }
    }
}

impl From<OwnRate> for RateRow {
    fn from(rate: OwnRate) -> Self {
        Self {
            messages_per_second: rate.messages_per_second,
            burst_count: rate.burst_count,
        }
    }
}

#[cfg(test)]
#[path = "administration_tests.rs"]
mod tests;
