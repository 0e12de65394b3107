//! How operators find accounts, and what they see of them.

use std::cmp::Reverse;

use resuni_store::StoreError;

use crate::{
    Accounts,
    error::AccountError,
    tables::{AccountKind, AccountNum},
    users::AccountSummary,
};

/// Accounts read at a time.
const PAGE: usize = 1_000;

/// Which accounts an operator looks for.
#[derive(Clone, Debug, Default)]
pub struct AccountQuery {
    /// In the local part or the display name, whatever the case.
    pub name: Option<String>,
    /// In the user id.
    pub user_id: Option<String>,
    /// Only guests, or only others.
    pub guests: Option<bool>,
    /// Only operators, or only others.
    pub admins: Option<bool>,
    /// Only deactivated accounts, or only others.
    pub deactivated: Option<bool>,
    /// Only locked accounts, or only others.
    pub locked: Option<bool>,
    /// Not those with one of these labels; the empty one stands for those without a label.
    pub not_types: Vec<String>,
    /// In which order.
    pub order: AccountOrder,
    /// Whether the order is turned over.
    pub backward: bool,
    /// How many to pass over.
    pub from: usize,
    /// How many to find.
    pub limit: usize,
}

/// In which order accounts are listed. Those that are equal are in the order of their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccountOrder {
    /// By local part.
    #[default]
    Name,
    /// Guests last.
    Guest,
    /// Operators last.
    Admin,
    /// By the operators' label.
    Type,
    /// Deactivated accounts last.
    Deactivated,
    /// Locked accounts last.
    Locked,
    /// By display name.
    DisplayName,
    /// By the address of the picture.
    Avatar,
    /// By when they were registered.
    Created,
    /// By when they were last seen.
    LastSeen,
}

/// An account as operators see it.
#[derive(Clone, Debug)]
pub struct AccountFound {
    /// The account.
    pub account: AccountSummary,
    /// Its display name.
    pub display_name: Option<String>,
    /// The address of its picture.
    pub avatar_url: Option<String>,
    /// When one of its devices was last seen, in milliseconds since 1970.
    pub last_seen_ms: Option<u64>,
}

/// What accounts are ordered by; of each order one field counts.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum SortKey {
    Text(Option<String>),
    Number(Option<u64>),
}

impl Accounts {
    /// The accounts that an operator looks for, and how many there are of them. Reads all accounts: it is for people
    /// who look, not for programs.
    pub async fn search(
        &self,
        query: &AccountQuery,
    ) -> Result<(Vec<AccountFound>, usize), AccountError> {
        let name = query.name.as_ref().map(|name| name.to_lowercase());
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.list(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.account);
            for account in page {
                if self.is_wanted(&account, query, name.as_deref()).await? {
                    found.push((self.sort_key(&account, query.order).await?, account));
                }
            }
        }
        // Names rise whichever way the rest goes: pages stay the same.
        let by_name =
            |a: &AccountSummary, b: &AccountSummary| a.row.localpart.cmp(&b.row.localpart);
        if query.backward {
            found.sort_by(|(a, x), (b, y)| Reverse(a).cmp(&Reverse(b)).then(by_name(x, y)));
        } else {
            found.sort_by(|(a, x), (b, y)| a.cmp(b).then(by_name(x, y)));
        }
        let total = found.len();
        let page = found.into_iter().skip(query.from).take(query.limit);
        let mut accounts = Vec::new();
        for (_, account) in page {
            accounts.push(self.described(account).await?);
        }
        Ok((accounts, total))
    }

    /// An account with what is kept beside its row.
    pub async fn described(&self, account: AccountSummary) -> Result<AccountFound, AccountError> {
        let (display_name, avatar_url) = self.shown(&account).await?;
        let last_seen_ms = self.last_seen_of(account.account).await?;
        Ok(AccountFound {
            account,
            display_name,
            avatar_url,
            last_seen_ms,
        })
    }

    async fn shown(
        &self,
        account: &AccountSummary,
    ) -> Result<(Option<String>, Option<String>), AccountError> {
        let profile = self.profile(&account.row.localpart).await?;
        let profile = profile.unwrap_or_default();
        let text = |key: &str| Some(profile.get(key)?.as_str()?.to_owned());
        Ok((text("displayname"), text("avatar_url")))
    }

    /// When one of the devices of an account was last seen, in milliseconds since 1970.
    pub async fn last_seen_of(&self, account: AccountNum) -> Result<Option<u64>, StoreError> {
        let devices = self.devices(account).await?;
        let newest = devices.into_iter().filter_map(|device| device.last_seen_ms);
        Ok(newest.max())
    }

    async fn sort_key(
        &self,
        account: &AccountSummary,
        order: AccountOrder,
    ) -> Result<SortKey, AccountError> {
        let row = &account.row;
        let flag = |is: bool| SortKey::Number(Some(is.into()));
        Ok(match order {
            AccountOrder::Name => SortKey::Text(Some(row.localpart.clone())),
            AccountOrder::Guest => flag(row.kind == AccountKind::Guest),
            AccountOrder::Admin => flag(row.admin),
            AccountOrder::Type => SortKey::Text(row.user_type.clone()),
            AccountOrder::Deactivated => flag(row.deactivated.is_some()),
            AccountOrder::Locked => flag(row.locked),
            AccountOrder::DisplayName => SortKey::Text(self.shown(account).await?.0),
            AccountOrder::Avatar => SortKey::Text(self.shown(account).await?.1),
            AccountOrder::Created => SortKey::Number(Some(row.created_ms)),
            AccountOrder::LastSeen => SortKey::Number(self.last_seen_of(account.account).await?),
        })
    }

    async fn is_wanted(
        &self,
        account: &AccountSummary,
        query: &AccountQuery,
        name: Option<&str>,
    ) -> Result<bool, AccountError> {
        let row = &account.row;
        let asked = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        let label = row.user_type.as_deref().unwrap_or_default();
        let fits = asked(query.guests, row.kind == AccountKind::Guest)
            && asked(query.admins, row.admin)
            && asked(query.deactivated, row.deactivated.is_some())
            && asked(query.locked, row.locked)
            && !query.not_types.iter().any(|not| not == label);
        if !fits {
            return Ok(false);
        }
        let Some(name) = name else {
            let part = query.user_id.as_ref();
            return Ok(part.is_none_or(|part| account.user_id.as_str().contains(part.as_str())));
        };
        if row.localpart.to_lowercase().contains(name) {
            return Ok(true);
        }
        let (shown, _) = self.shown(account).await?;
        Ok(shown.is_some_and(|shown| shown.to_lowercase().contains(name)))
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
