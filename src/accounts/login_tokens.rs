//! Short-lived tokens: `m.login.token`, and OpenID tokens with which a widget learns who its user
//! is.

use resuni_store::{Batch, Direction, ScanRange, Table};
use ruma::OwnedUserId;

use crate::{
    Accounts, DeviceRequest, Login,
    e2e::tables::TO_DEVICE_SENT,
    error::AccountError,
    secrets,
    tables::{
        AccountNum, EXPIRY, LOGIN_TOKENS, OPENID_TOKENS, ShortToken, ShortTokenKind, TokenHash,
        VALIDATION_OF, VALIDATIONS,
    },
    users::CLEANUP_ROWS,
};

/// How long a login token may be used. The specification wants it short.
const LOGIN_TOKEN_MS: u64 = 120_000;
/// How long an OpenID token may be used.
const OPENID_TOKEN_MS: u64 = 3_600_000;

/// An OpenID token.
#[derive(Clone)]
pub struct OpenIdToken {
    /// The token.
    pub access_token: String,
    /// How long it may be used, in seconds.
    pub expires_in_s: u64,
}

impl Accounts {
    /// A token with which another client of the same person logs in, and for how long, in
    /// milliseconds (`/login/get_token`). The caller has asked for the password again.
    pub async fn create_login_token(
        &self,
        account: AccountNum,
    ) -> Result<(String, u64), AccountError> {
        let token = self
            .create_short_token(
                account,
                ("rsl_", &LOGIN_TOKENS),
                ShortTokenKind::Login,
                LOGIN_TOKEN_MS,
            )
            .await?;
        Ok((token, LOGIN_TOKEN_MS))
    }

    /// Logs in with `m.login.token`. The token is used up in the batch that opens the session.
    pub async fn login_token(
        &self,
        token: &str,
        device: DeviceRequest,
    ) -> Result<Login, AccountError> {
        let hash = secrets::hash(token);
        let refused =
            || AccountError::Forbidden("This login token is unknown or has expired.".into());
        let row = self.snapshot().get(&LOGIN_TOKENS, &hash).await?;
        let row = row
            .filter(|row| self.now_ms() < row.expires_ms)
            .ok_or_else(refused)?;
        let mut batch = Batch::new();
        batch.guard_exists(&LOGIN_TOKENS, &hash);
        batch.delete(&LOGIN_TOKENS, &hash);
        batch.delete(&EXPIRY, &(row.expires_ms, hash));
        match self.login_with(row.account, device, batch).await {
            // Whose account it was is nobody's business.
            Err(AccountError::Deactivated | AccountError::NotFound(_)) => Err(refused()),
            Err(AccountError::Raced(table)) if table == LOGIN_TOKENS.name() => Err(refused()),
            other => other,
        }
    }

    /// A token that proves to a third party who its user is, and nothing else.
    pub async fn create_openid_token(
        &self,
        account: AccountNum,
    ) -> Result<OpenIdToken, AccountError> {
        let access_token = self
            .create_short_token(
                account,
                ("rso_", &OPENID_TOKENS),
                ShortTokenKind::OpenId,
                OPENID_TOKEN_MS,
            )
            .await?;
        Ok(OpenIdToken {
            access_token,
            expires_in_s: OPENID_TOKEN_MS / 1_000,
        })
    }

    /// Whose OpenID token this is; none if it is unknown or has expired.
    pub async fn openid_user(&self, token: &str) -> Result<Option<OwnedUserId>, AccountError> {
        let hash = secrets::hash(token);
        let Some(row) = self.snapshot().get(&OPENID_TOKENS, &hash).await? else {
            return Ok(None);
        };
        if row.expires_ms <= self.now_ms() {
            return Ok(None);
        }
        match self.active(row.account).await {
            Ok(account) if !account.locked => self.user_id(&account.localpart).map(Some),
            Ok(_) | Err(AccountError::Deactivated | AccountError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn create_short_token(
        &self,
        account: AccountNum,
        (prefix, table): (&str, &Table<TokenHash, ShortToken>),
        kind: ShortTokenKind,
        lifetime_ms: u64,
    ) -> Result<String, AccountError> {
        self.active(account).await?;
        let token = secrets::token(prefix)?;
        let hash = secrets::hash(&token);
        let expires_ms = self.now_ms().saturating_add(lifetime_ms);
        let mut batch = Batch::new();
        let row = ShortToken {
            account,
            expires_ms,
        };
        batch.put(table, &hash, &row);
        batch.put(&EXPIRY, &(expires_ms, hash), &kind);
        self.store.commit_durable(batch).await?;
        Ok(token)
    }

    /// Removes the short-lived tokens whose time is over.
    pub(crate) async fn remove_expired_tokens(&self) -> Result<(), AccountError> {
        loop {
            let range = ScanRange::before(&(self.now_ms(), TokenHash([0; 32])));
            let rows = self
                .snapshot()
                .scan(&EXPIRY, range, Direction::Forward, CLEANUP_ROWS)
                .await?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::new();
            for (key, kind) in rows {
                match kind {
                    ShortTokenKind::Login => batch.delete(&LOGIN_TOKENS, &key.1),
                    ShortTokenKind::OpenId => batch.delete(&OPENID_TOKENS, &key.1),
                    ShortTokenKind::Sent => batch.delete(&TO_DEVICE_SENT, &key.1),
                    ShortTokenKind::Validation => {
                        let row = self.snapshot().get(&VALIDATIONS, &key.1).await?;
                        if let Some(row) = row {
                            batch.delete(&VALIDATION_OF, &row.request);
                        }
                        batch.delete(&VALIDATIONS, &key.1)
                    }
                }
                batch.delete(&EXPIRY, &key);
            }
            drop(self.store.commit(batch).await?);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{alice, is_sound, with_clock};

    #[tokio::test]
    async fn a_login_token_is_used_once_and_soon() {
        let (accounts, clock) = with_clock().await;
        let alice = alice(&accounts).await;
        let (token, lifetime_ms) = accounts.create_login_token(alice).await.unwrap();
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let (accounts, token) = (Arc::clone(&accounts), token.clone());
                tokio::spawn(async move {
                    accounts
                        .login_token(&token, DeviceRequest::default())
                        .await
                        .is_ok()
                })
            })
            .collect();
        let mut logins = 0;
        for task in tasks {
            logins += usize::from(task.await.unwrap());
        }
        assert_eq!(logins, 1);
        let (late, _) = accounts.create_login_token(alice).await.unwrap();
        let openid = accounts.create_openid_token(alice).await.unwrap();
        clock.advance(lifetime_ms);
        let refused = accounts.login_token(&late, DeviceRequest::default()).await;
        assert!(matches!(refused, Err(AccountError::Forbidden(_))));
        assert_eq!(
            accounts
                .openid_user(&openid.access_token)
                .await
                .unwrap()
                .unwrap(),
            "@alice:example.org"
        );
        assert!(
            accounts.authenticate(&openid.access_token).await.is_err(),
            "it opens nothing else"
        );
        is_sound(&accounts).await;
        clock.advance(openid.expires_in_s * 1_000);
        assert_eq!(
            accounts.openid_user(&openid.access_token).await.unwrap(),
            None
        );
        accounts.housekeeping().await.unwrap();
        let left = accounts.snapshot();
        let left = left
            .scan(
                &crate::tables::EXPIRY,
                ScanRange::all(),
                Direction::Forward,
                9,
            )
            .await;
        assert!(left.unwrap().is_empty());
        is_sound(&accounts).await;
    }
}
