//! Tokens that let strangers register (`m.login.registration_token`).

use resuni_store::{Batch, Direction, ScanRange};

use crate::{
    Accounts,
    error::AccountError,
    secrets,
    tables::{REGISTRATION_TOKENS, RegistrationTokenRow},
};

/// The length of a token whose text is made up.
const LENGTH: usize = 16;
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
    /// How many have shown it and are not registered yet.
    pub pending: u64,
    /// When it ends, in milliseconds since 1970; none: never.
    pub expires_ms: Option<u64>,
}

impl RegistrationTokenRow {
    fn is_valid(&self, now_ms: u64) -> bool {
        self.allows(0, now_ms)
    }

    /// Whether one more may use it beside those who are about to.
    fn allows(&self, pending: u64, now_ms: u64) -> bool {
        let taken = self.used.saturating_add(pending);
        self.uses_allowed.is_none_or(|allowed| taken < allowed)
            && self.expires_ms.is_none_or(|at| now_ms < at)
    }
}

/// A token that is to be made.
#[derive(Clone, Debug, Default)]
pub struct NewRegistrationToken {
    /// Its text; none: it is made up.
    pub token: Option<String>,
    /// The length of a text that is made up, in characters.
    pub length: Option<usize>,
    /// How many may register with it; none: any number.
    pub uses_allowed: Option<u64>,
    /// When it ends, in milliseconds since 1970; none: never.
    pub expires_ms: Option<u64>,
}

impl RegistrationToken {
    /// Whether somebody could register with it now.
    pub fn is_valid(&self, now_ms: u64) -> bool {
        let taken = self.used.saturating_add(self.pending);
        self.uses_allowed.is_none_or(|allowed| taken < allowed)
            && self.expires_ms.is_none_or(|at| now_ms < at)
    }
}

impl Accounts {
    fn shown_token(&self, row: RegistrationTokenRow) -> RegistrationToken {
        RegistrationToken {
            pending: self.uia.pending(&row.token, None, self.now_ms()),
            token: row.token,
            uses_allowed: row.uses_allowed,
            used: row.used,
            expires_ms: row.expires_ms,
        }
    }

    /// Makes a token; its text may be chosen.
    pub async fn create_registration_token(
        &self,
        new: NewRegistrationToken,
    ) -> Result<RegistrationToken, AccountError> {
        let (uses_allowed, expires_ms) = (new.uses_allowed, new.expires_ms);
        if expires_ms.is_some_and(|at| at < self.now_ms()) {
            return Err(AccountError::InvalidParam(
                "A registration token does not end in the past.".into(),
            ));
        }
        let length = new.length.unwrap_or(LENGTH);
        if !(1..=TOKEN_BYTES).contains(&length) {
            return Err(AccountError::InvalidParam(format!(
                "The length of a registration token is between 1 and {TOKEN_BYTES}."
            )));
        }
        let token = match new.token {
            Some(token) => token,
            None => secrets::word::<TOKEN_BYTES>(secrets::LOWER)?
                .chars()
                .take(length)
                .collect(),
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
            other => Ok(other.map(|()| self.shown_token(row))?),
        }
    }

    /// Whether one more could use a token beside those who have shown it and are about to register; `session` is the
    /// session of who asks. It is looked up by its hash, so that the time tells nothing of other tokens.
    pub(crate) async fn registration_token_allows(
        &self,
        token: &str,
        session: &str,
    ) -> Result<bool, AccountError> {
        let key = secrets::hash(token);
        let row = self.snapshot().get(&REGISTRATION_TOKENS, &key).await?;
        let now = self.now_ms();
        let pending = self.uia.pending(token, Some(session), now);
        Ok(row.is_some_and(|row| row.allows(pending, now)))
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
        let rows = rows.into_iter().map(|(_, row)| self.shown_token(row));
        Ok(rows.collect())
    }

    /// A token by its text.
    pub async fn registration_token(
        &self,
        token: &str,
    ) -> Result<Option<RegistrationToken>, AccountError> {
        let key = secrets::hash(token);
        let row = self.snapshot().get(&REGISTRATION_TOKENS, &key).await?;
        Ok(row.map(|row| self.shown_token(row)))
    }

    /// Gives a token other limits; those that are not given stay. Answers what it is now, if there is one.
    pub async fn limit_registration_token(
        &self,
        token: &str,
        uses_allowed: Option<Option<u64>>,
        expires_ms: Option<Option<u64>>,
    ) -> Result<Option<RegistrationToken>, AccountError> {
        if expires_ms.flatten().is_some_and(|at| at < self.now_ms()) {
            return Err(AccountError::InvalidParam(
                "A registration token does not end in the past.".into(),
            ));
        }
        // Nobody uses it up meanwhile.
        let _one_at_a_time = self.registering.lock().await;
        let key = secrets::hash(token);
        let Some(old) = self.snapshot().get(&REGISTRATION_TOKENS, &key).await? else {
            return Ok(None);
        };
        let row = RegistrationTokenRow {
            uses_allowed: uses_allowed.unwrap_or(old.uses_allowed),
            expires_ms: expires_ms.unwrap_or(old.expires_ms),
            ..old
        };
        let mut batch = Batch::new();
        batch.guard_exists(&REGISTRATION_TOKENS, &key);
        batch.put(&REGISTRATION_TOKENS, &key, &row);
        self.store.commit_durable(batch).await?;
        Ok(Some(self.shown_token(row)))
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
