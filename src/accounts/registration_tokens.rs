//! Tokens that let strangers register (`m.login.registration_token`).

use resuni_store::{Batch, Direction, ScanRange};

use crate::{
    Accounts,
    error::AccountError,
    secrets,
    tables::{REGISTRATION_TOKENS, RegistrationTokenRow},
};

/// The longest token (spec, "Token-authenticated registration").
const TOKEN_BYTES: usize = 64;

/// A token that lets strangers register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationToken {
    /// Its text.
    pub token: String,
    /// How many may register with it; none: any number.
    pub uses_allowed: Option<u64>,
    /// How many have.
    pub used: u64,
    /// When it ends, in milliseconds since 1970; none: never.
    pub expires_ms: Option<u64>,
}

impl RegistrationTokenRow {
    fn is_valid(&self, now_ms: u64) -> bool {
        self.uses_allowed.is_none_or(|allowed| self.used < allowed)
            && self.expires_ms.is_none_or(|at| now_ms < at)
    }
}

impl From<RegistrationTokenRow> for RegistrationToken {
    fn from(row: RegistrationTokenRow) -> Self {
        Self {
            token: row.token,
            uses_allowed: row.uses_allowed,
            used: row.used,
            expires_ms: row.expires_ms,
        }
    }
}

impl Accounts {
    /// Makes a token; its text may be chosen.
    pub async fn create_registration_token(
        &self,
        token: Option<String>,
        uses_allowed: Option<u64>,
        expires_ms: Option<u64>,
    ) -> Result<RegistrationToken, AccountError> {
        let token = match token {
            Some(token) => token,
            None => secrets::word::<16>(secrets::LOWER)?,
        };
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
        if token.is_empty() || token.len() > TOKEN_BYTES || !token.bytes().all(good) {
            return Err(AccountError::InvalidParam(format!(
                "A registration token has 1 to {TOKEN_BYTES} of the characters A-Z a-z 0-9 . _ ~ -."
            )));
        }
        let row = RegistrationTokenRow {
            token,
            uses_allowed,
            used: 0,
            expires_ms,
        };
        let mut batch = Batch::new();
        let key = secrets::hash(&row.token);
        batch.guard_absent(&REGISTRATION_TOKENS, &key);
        batch.put(&REGISTRATION_TOKENS, &key, &row);
        match self.store.commit_durable(batch).await {
            Err(error) if crate::users::lost_race(&error, REGISTRATION_TOKENS.name()) => Err(
                AccountError::InvalidParam("There is such a registration token already.".into()),
            ),
            other => Ok(other.map(|()| row.into())?),
        }
    }

    /// Whether a token could be used now. It is looked up by its hash, so that the time tells
    /// nothing of other tokens.
    pub async fn registration_token_valid(&self, token: &str) -> Result<bool, AccountError> {
        let row = self
            .snapshot()
            .get(&REGISTRATION_TOKENS, &secrets::hash(token))
            .await?;
        Ok(row.is_some_and(|row| row.is_valid(self.now_ms())))
    }

    /// All tokens.
    pub async fn registration_tokens(&self) -> Result<Vec<RegistrationToken>, AccountError> {
        let rows = self
            .snapshot()
            .scan(
                &REGISTRATION_TOKENS,
                ScanRange::all(),
                Direction::Forward,
                usize::MAX,
            )
            .await?;
        Ok(rows.into_iter().map(|(_, row)| row.into()).collect())
    }

    /// Removes a token. Accounts that were registered with it stay.
    pub async fn delete_registration_token(&self, token: &str) -> Result<(), AccountError> {
        let mut batch = Batch::new();
        batch.delete(&REGISTRATION_TOKENS, &secrets::hash(token));
        Ok(self.store.commit_durable(batch).await?)
    }

    /// Counts one use in the batch of the registration. The caller holds `registering` until that
    /// batch is committed, so that no use is lost.
    pub(crate) async fn use_registration_token(
        &self,
        token: &str,
        batch: &mut Batch,
    ) -> Result<(), AccountError> {
        let key = secrets::hash(token);
        let old = self.snapshot().get(&REGISTRATION_TOKENS, &key).await?;
        let Some(old) = old.filter(|row| row.is_valid(self.now_ms())) else {
            return Err(AccountError::Forbidden(
                "This registration token is unknown, used up or has expired.".into(),
            ));
        };
        let new = RegistrationTokenRow {
            used: old.used + 1,
            ..old.clone()
        };
        batch.guard_exists(&REGISTRATION_TOKENS, &key);
        batch.put(&REGISTRATION_TOKENS, &key, &new);
        Ok(())
    }
}
