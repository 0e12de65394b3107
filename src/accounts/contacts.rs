//! Addresses of people elsewhere ("third-party identifiers"; spec, "Adding Account Administrative Contact Information").
//! An address belongs to one account at a time, and to that one only once its owner has shown that they read mail sent
//! there: see [`crate::validation`].

use resuni_store::{Batch, Direction, ScanRange};

use crate::{
    Accounts,
    error::AccountError,
    tables::{AccountNum, CONTACTS, CONTACTS_OF, Contact, VALIDATIONS},
    users::lost_race,
    validation::{Purpose, Validated},
};

/// The most addresses of one account.
pub(crate) const MOST: usize = 20;
/// The longest address, in bytes (RFC 5321, section 4.5.3.1.3, without the angle brackets).
const ADDRESS_BYTES: usize = 254;

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Medium {
    /// An e-mail address.
    Email,
}

impl Medium {
    /// The name in the specification.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
        }
    }

    /// By the name in the specification.
    pub fn from_name(name: &str) -> Option<Self> {
        (name == "email").then_some(Self::Email)
    }
}

/// An address of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactInfo {
    /// Where it is.
    pub medium: String,
    /// The address.
    pub address: String,
    /// When its owner showed that it is theirs, in milliseconds since 1970.
    pub validated_ms: u64,
    /// When it was added to the account.
    pub added_ms: u64,
}

/// An e-mail address in the form in which two of them are compared: in lower case, as the specification wants it
/// ("Third-party identifiers": case folding).
pub fn email_address(text: &str) -> Result<String, AccountError> {
    let bad = || AccountError::InvalidParam("This is not an e-mail address.".into());
    let address = text.trim().to_lowercase();
    let (local, domain) = address.rsplit_once('@').ok_or_else(bad)?;
    let odd = |c: char| c.is_whitespace() || c.is_control() || "<>()[],;:\\\"".contains(c);
    let good = !local.is_empty()
        && !domain.is_empty()
        && !local.contains('@')
        && !domain.starts_with('.')
        && address.len() <= ADDRESS_BYTES
        && !address.contains(odd);
    if good { Ok(address) } else { Err(bad()) }
}

fn key(address: &str) -> (String, String) {
    (Medium::Email.as_str().to_owned(), address.to_owned())
}

impl Accounts {
    /// Whose address it is; none if nobody here has it.
    pub async fn owner_of(&self, address: &str) -> Result<Option<AccountNum>, AccountError> {
        let row = self.snapshot().get(&CONTACTS, &key(address)).await?;
        Ok(row.map(|row| row.account))
    }

    /// The addresses of an account.
    pub async fn contacts(&self, account: AccountNum) -> Result<Vec<ContactInfo>, AccountError> {
        let snapshot = self.snapshot();
        let range = ScanRange::prefix(&account);
        let keys = snapshot
            .scan(&CONTACTS_OF, range, Direction::Forward, MOST)
            .await?;
        let keys: Vec<_> = keys.into_iter().map(|((_, m, a), ())| (m, a)).collect();
        let rows = snapshot.get_many(&CONTACTS, &keys).await?;
        let both = keys.into_iter().zip(rows);
        Ok(both
            .filter_map(|((medium, address), row)| {
                let row = row?;
                Some(ContactInfo {
                    medium,
                    address,
                    validated_ms: row.validated_ms,
                    added_ms: row.added_ms,
                })
            })
            .collect())
    }

    /// Adds an address that was validated for it to an account.
    pub async fn add_contact(
        &self,
        account: AccountNum,
        validated: Validated,
    ) -> Result<(), AccountError> {
        if validated.purpose != Purpose::Add {
            return Err(AccountError::ThreepidAuthFailed);
        }
        let applied = {
            let _lane = self.lanes.enter(account).await;
            if self.row_in_lane(account).await?.deactivated.is_some() {
                return Err(AccountError::Deactivated);
            }
            if self.contacts(account).await?.len() >= MOST {
                return Err(AccountError::Forbidden(format!(
                    "An account has at most {MOST} addresses."
                )));
            }
            let mut batch = Batch::new();
            self.give_contact(&mut batch, account, validated);
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

    /// Adds to `batch` what makes an address that of an account; the batch fails if somebody has it, or if the
    /// validation was used meanwhile.
    pub(crate) fn give_contact(
        &self,
        batch: &mut Batch,
        account: AccountNum,
        validated: Validated,
    ) {
        let key = key(&validated.address);
        let row = Contact {
            account,
            validated_ms: validated.validated_ms,
            added_ms: self.now_ms(),
        };
        batch.guard_absent(&CONTACTS, &key);
        batch.put(&CONTACTS, &key, &row);
        batch.put(&CONTACTS_OF, &(account, key.0, key.1), &());
        validated.spend(batch);
    }

    /// Takes an address away from an account; nothing happens if it does not have it.
    pub async fn remove_contact(
        &self,
        account: AccountNum,
        medium: Medium,
        address: &str,
    ) -> Result<(), AccountError> {
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let key = (medium.as_str().to_owned(), address.to_lowercase());
            let snapshot = self.snapshot();
            let row = snapshot.get(&CONTACTS, &key).await?;
            if row.is_none_or(|row| row.account != account) {
                return Ok(());
            }
            let mut batch = Batch::new();
            if medium == Medium::Email {
                self.remove_pushers_to(&snapshot, &mut batch, (account, &key.1))
                    .await?;
            }
            batch.guard_exists(&CONTACTS, &key);
            batch.delete(&CONTACTS, &key);
            batch.delete(&CONTACTS_OF, &(account, key.0, key.1));
            self.store.commit(batch).await?
        };
        Ok(applied.durable().await?)
    }

    /// Gives the account of a validated address a new password, and ends its sessions if `log_out`.
    pub async fn reset_password(
        &self,
        validated: Validated,
        password: &str,
        log_out: bool,
    ) -> Result<(), AccountError> {
        if validated.purpose != Purpose::ResetPassword {
            return Err(AccountError::ThreepidAuthFailed);
        }
        let owner = self.owner_of(&validated.address).await?;
        let account = owner.ok_or(AccountError::ThreepidNotFound)?;
        // Used up first: whatever happens next, it does not open the account twice.
        let mut batch = Batch::new();
        validated.spend(&mut batch);
        match self.store.commit_durable(batch).await {
            Err(error) if lost_race(&error, VALIDATIONS.name()) => {
                return Err(AccountError::ThreepidAuthFailed);
            }
            other => other?,
        }
        self.set_password(account, password, log_out, None).await
    }
}

#[cfg(test)]
#[path = "contacts_tests.rs"]
mod tests;
