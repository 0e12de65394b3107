//! Whether the rows of the accounts agree with each other.

use std::collections::HashSet;

use resuni_store::{Direction, Key, ScanRange, Snapshot, StoreError, Table, Value};

use crate::{
    Accounts,
    administration::NO_DEVICE,
    e2e::tables::TO_DEVICE_SENT,
    secrets,
    tables::{
        ACCESS, ACCOUNTS, AccountNum, CONTACTS, CONTACTS_OF, DATA, DATA_CHANGES, DEVICE,
        DEVICE_TOKENS, EXPIRY, FILTER_HASHES, FILTERS, LOGIN_TOKENS, OPENID_TOKENS, PROFILES,
        REFRESH, REGISTRATION_TOKENS, SEEN, ShortTokenKind, TokenKind, VALIDATIONS,
    },
};

/// Rows read at a time.
const PAGE: usize = 1_000;
/// Sentences after which the doctor stops: more would not be read.
const FINDINGS: usize = 1_000;

/// Walks a table page by page.
macro_rules! each {
    ($snapshot:expr, $table:ident, |$key:pat_param, $value:pat_param| $body:block) => {{
        let mut range = ScanRange::all();
        loop {
            let rows = page($snapshot, &$table, range).await?;
            let Some((last, _)) = rows.last() else { break };
            range = ScanRange::after(last);
            for ($key, $value) in &rows $body
        }
    }};
}

pub(crate) async fn page<K: Key, V: Value>(
    snapshot: &Snapshot,
    table: &Table<K, V>,
    range: ScanRange,
) -> Result<Vec<(K, V)>, StoreError> {
    snapshot.scan(table, range, Direction::Forward, PAGE).await
}

pub(crate) use each;

impl Accounts {
    /// Checks every row of this crate against the rows it depends on. Each sentence is one
    /// contradiction; none: all is well.
    pub async fn doctor(&self, snapshot: &Snapshot) -> Result<Vec<String>, StoreError> {
        let mut findings = Vec::new();
        let accounts = self.check_accounts(snapshot, &mut findings).await?;
        check_devices(snapshot, &accounts, &mut findings).await?;
        check_tokens(snapshot, &mut findings).await?;
        check_device_tokens(snapshot, &mut findings).await?;
        check_short_tokens(snapshot, &accounts, &mut findings).await?;
        check_data(snapshot, &accounts, &mut findings).await?;
        check_filters(snapshot, &accounts, &mut findings).await?;
        crate::e2e::doctor::check(snapshot, &mut findings).await?;
        findings.truncate(FINDINGS);
        Ok(findings)
    }

    async fn check_accounts(
        &self,
        snapshot: &Snapshot,
        findings: &mut Vec<String>,
    ) -> Result<HashSet<AccountNum>, StoreError> {
        let mut known = HashSet::new();
        each!(snapshot, ACCOUNTS, |account, row| {
            known.insert(*account);
            let name = row.localpart.as_bytes();
            let number = self
                .store
                .numbers()
                .find(&crate::tables::ACCOUNT_NAMES, name)
                .await?;
            if number != Some(account.0) {
                findings.push(format!(
                    "Account {} is called {}, but that name has the number {number:?}.",
                    account.0, row.localpart
                ));
            }
            if row.deactivated.is_some() && (row.password.is_some() || row.admin) {
                findings.push(format!(
                    "Account {} is deactivated but has kept its password or its rights.",
                    row.localpart
                ));
            }
        });
        each!(snapshot, PROFILES, |(account, key), json| {
            if !known.contains(account) {
                findings.push(format!("Profile field {key} belongs to no account."));
            }
            if serde_json::from_str::<serde::de::IgnoredAny>(json).is_err() {
                findings.push(format!("Profile field {key} of {} is not JSON.", account.0));
            }
        });
        each!(snapshot, REGISTRATION_TOKENS, |hash, row| {
            if secrets::hash(&row.token) != *hash {
                findings.push(format!("Registration token {} has a wrong key.", row.token));
            }
        });
        Ok(known)
    }
}

async fn check_devices(
    snapshot: &Snapshot,
    accounts: &HashSet<AccountNum>,
    findings: &mut Vec<String>,
) -> Result<(), StoreError> {
    each!(snapshot, DEVICE, |(account, device), _| {
        if !accounts.contains(account) {
            findings.push(format!("Device {device} belongs to no account."));
        }
    });
    each!(snapshot, SEEN, |key, _| {
        if snapshot.get(&DEVICE, key).await?.is_none() {
            findings.push(format!("Device {} was seen but does not exist.", key.1));
        }
    });
    Ok(())
}

/// Each token belongs to a device and is in the index of that device's tokens.
async fn check_tokens(snapshot: &Snapshot, findings: &mut Vec<String>) -> Result<(), StoreError> {
    each!(snapshot, ACCESS, |hash, row| {
        let device = (row.account, row.device.clone());
        let of_operator = row.device == NO_DEVICE;
        if !of_operator && snapshot.get(&DEVICE, &device).await?.is_none() {
            findings.push(format!(
                "An access token belongs to no device ({}).",
                row.device
            ));
        }
        let index = (row.account, row.device.clone(), TokenKind::Access, *hash);
        if snapshot.get(&DEVICE_TOKENS, &index).await?.is_none() {
            findings.push(format!(
                "An access token of {} can't be revoked.",
                row.device
            ));
        }
        if let Some(old) = row.replaces
            && snapshot.get(&REFRESH, &old).await?.is_none()
        {
            findings.push(format!(
                "An access token of {} came from nowhere.",
                row.device
            ));
        }
    });
    each!(snapshot, REFRESH, |hash, row| {
        let index = (row.account, row.device.clone(), TokenKind::Refresh, *hash);
        if snapshot.get(&DEVICE_TOKENS, &index).await?.is_none() {
            findings.push(format!(
                "A refresh token of {} can't be revoked.",
                row.device
            ));
        }
        if snapshot.get(&ACCESS, &row.access).await?.is_none() {
            findings.push(format!(
                "A refresh token of {} has lost its access token.",
                row.device
            ));
        }
        for other in [row.replaces, row.next].into_iter().flatten() {
            if snapshot.get(&REFRESH, &other).await?.is_none() {
                findings.push(format!(
                    "A refresh token of {} points to one that does not exist.",
                    row.device
                ));
            }
        }
    });
    Ok(())
}

async fn check_device_tokens(
    snapshot: &Snapshot,
    findings: &mut Vec<String>,
) -> Result<(), StoreError> {
    each!(snapshot, DEVICE_TOKENS, |(_, device, kind, hash), ()| {
        let exists = match kind {
            TokenKind::Access => snapshot.get(&ACCESS, hash).await?.is_some(),
            TokenKind::Refresh => snapshot.get(&REFRESH, hash).await?.is_some(),
        };
        if !exists {
            findings.push(format!(
                "Device {device} lists a token that does not exist."
            ));
        }
    });
    Ok(())
}

async fn check_short_tokens(
    snapshot: &Snapshot,
    accounts: &HashSet<AccountNum>,
    findings: &mut Vec<String>,
) -> Result<(), StoreError> {
    macro_rules! tokens {
        ($table:ident, $kind:ident, $name:literal) => {
            each!(snapshot, $table, |hash, row| {
                let kind = snapshot.get(&EXPIRY, &(row.expires_ms, *hash)).await?;
                if kind != Some(ShortTokenKind::$kind) {
                    findings.push(concat!($name, " will never be removed.").to_owned());
                }
                if !accounts.contains(&row.account) {
                    findings.push(concat!($name, " belongs to no account.").to_owned());
                }
            });
        };
    }
    tokens!(LOGIN_TOKENS, Login, "A login token");
    tokens!(OPENID_TOKENS, OpenId, "An OpenID token");
    each!(snapshot, CONTACTS, |(medium, address), row| {
        let key = (row.account, medium.clone(), address.clone());
        if !accounts.contains(&row.account) || snapshot.get(&CONTACTS_OF, &key).await?.is_none() {
            findings.push("An address belongs to no account.".to_owned());
        }
    });
    each!(snapshot, EXPIRY, |(_, hash), kind| {
        let exists = match kind {
            ShortTokenKind::Login => snapshot.get(&LOGIN_TOKENS, hash).await?.is_some(),
            ShortTokenKind::OpenId => snapshot.get(&OPENID_TOKENS, hash).await?.is_some(),
            ShortTokenKind::Sent => snapshot.contains(&TO_DEVICE_SENT, hash).await?,
            ShortTokenKind::Validation => snapshot.get(&VALIDATIONS, hash).await?.is_some(),
        };
        if !exists {
            findings.push("A token that does not exist has a time to end.".to_owned());
        }
    });
    Ok(())
}

async fn check_data(
    snapshot: &Snapshot,
    accounts: &HashSet<AccountNum>,
    findings: &mut Vec<String>,
) -> Result<(), StoreError> {
    each!(snapshot, DATA, |(account, room, kind), row| {
        if !accounts.contains(account) {
            findings.push(format!("Account data {kind} belongs to no account."));
        }
        let index = snapshot
            .get(&DATA_CHANGES, &(*account, row.position))
            .await?;
        if !index.is_some_and(|name| name.room == *room && name.kind == *kind) {
            findings.push(format!(
                "Account data {kind} of account {} (room {room:?}) is not in the index of changes.",
                account.0
            ));
        }
    });
    each!(snapshot, DATA_CHANGES, |(account, position), name| {
        let key = (*account, name.room.clone(), name.kind.clone());
        let row = snapshot.get(&DATA, &key).await?;
        if row.is_none_or(|row| row.position != *position) {
            findings.push(format!(
                "The index of changes of account {} has an old row of {} (room {:?}).",
                account.0, name.kind, name.room
            ));
        }
    });
    Ok(())
}

async fn check_filters(
    snapshot: &Snapshot,
    accounts: &HashSet<AccountNum>,
    findings: &mut Vec<String>,
) -> Result<(), StoreError> {
    each!(snapshot, FILTERS, |(account, number), json| {
        if !accounts.contains(account) {
            findings.push(format!("Filter {number} belongs to no account."));
        }
        let index = (*account, secrets::hash(json));
        if snapshot.get(&FILTER_HASHES, &index).await? != Some(*number) {
            findings.push(format!(
                "Filter {number} of account {} is not in its index.",
                account.0
            ));
        }
    });
    each!(snapshot, FILTER_HASHES, |(account, _), number| {
        if snapshot
            .get(&FILTERS, &(*account, *number))
            .await?
            .is_none()
        {
            findings.push(format!(
                "The index of filters of account {} names {number}, which does not exist.",
                account.0
            ));
        }
    });
    Ok(())
}
