//! Showing that an e-mail address is one's own: a token is mailed to it, and whoever opens the link in the mail has
//! shown it. (Spec: the `requestToken` endpoints, and `m.login.email.identity`.)
//!
//! A session is bound to what it is for, to its address and to a secret that only its client knows; none of them can be
//! exchanged, and it is used once.

use resuni_store::Batch;
use ruma::ClientSecret;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Accounts,
    contacts::email_address,
    error::AccountError,
    secrets,
    tables::{EXPIRY, ShortTokenKind, TokenHash, VALIDATION_OF, VALIDATIONS, Validation},
};

/// How long a session may take, in milliseconds: mail can be slow, and people too.
const LIFETIME_MS: u64 = 24 * 3_600_000;
/// The longest address to go on to afterwards, in bytes.
const NEXT_LINK_BYTES: usize = 2_048;

/// What an address is validated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Purpose {
    /// A new account.
    Register,
    /// A new password of the account that has the address.
    ResetPassword,
    /// Adding it to an account.
    Add,
}

/// A client wants an address to be validated.
#[derive(Clone, Copy, Debug)]
pub struct ValidationRequest<'a> {
    /// What for.
    pub purpose: Purpose,
    /// The address.
    pub address: &'a str,
    /// Known to the client alone.
    pub client_secret: &'a ClientSecret,
    /// A mail is sent only if this is greater than it was before.
    pub attempt: u64,
    /// Where to go afterwards.
    pub next_link: Option<&'a str>,
}

/// A session that waits for its link to be opened.
#[derive(Clone)]
pub struct Begun {
    /// Its id.
    pub sid: String,
    /// The address in the form it is kept in.
    pub address: String,
    /// What has to be mailed there; none if it was before.
    pub token: Option<String>,
}

/// An address that its owner has shown to be theirs. It can be used once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validated {
    /// What for.
    pub purpose: Purpose,
    /// The address.
    pub address: String,
    /// When, in milliseconds since 1970.
    pub validated_ms: u64,
    sid: TokenHash,
    request: TokenHash,
    expires_ms: u64,
}

impl Validated {
    /// Adds its end to `batch`, which fails if it was used meanwhile.
    pub(crate) fn spend(&self, batch: &mut Batch) {
        batch.guard_exists(&VALIDATIONS, &self.sid);
        batch.delete(&VALIDATIONS, &self.sid);
        batch.delete(&VALIDATION_OF, &self.request);
        batch.delete(&EXPIRY, &(self.expires_ms, self.sid));
    }
}

/// What makes two requests the same.
fn request_hash(request: &ValidationRequest<'_>, address: &str) -> TokenHash {
    let mut hash = Sha256::new();
    let purpose = match request.purpose {
        Purpose::Register => "register",
        Purpose::ResetPassword => "reset",
        Purpose::Add => "add",
    };
    for part in [purpose, address, request.client_secret.as_str()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    TokenHash(hash.finalize().into())
}

fn checked_link(link: Option<&str>) -> Result<Option<String>, AccountError> {
    let Some(link) = link.filter(|link| !link.is_empty()) else {
        return Ok(None);
    };
    let good = url::Url::parse(link).is_ok_and(|url| matches!(url.scheme(), "https" | "http"));
    if good && link.len() <= NEXT_LINK_BYTES {
        return Ok(Some(link.to_owned()));
    }
    Err(AccountError::InvalidParam(
        "`next_link` is not a web address.".into(),
    ))
}

impl Accounts {
    /// Begins a session, or finds the one that the same request has begun.
    ///
    /// # Errors
    /// [`AccountError::ThreepidInUse`] or [`AccountError::ThreepidNotFound`] where the address is somebody's and may
    /// not be, or is nobody's and should be somebody's; [`AccountError::LimitExceeded`] for too much mail.
    pub async fn begin_validation(
        &self,
        request: &ValidationRequest<'_>,
    ) -> Result<Begun, AccountError> {
        let address = email_address(request.address)?;
        let next_link = checked_link(request.next_link)?;
        let owner = self.owner_of(&address).await?;
        match request.purpose {
            Purpose::Register | Purpose::Add if owner.is_some() => {
                return Err(AccountError::ThreepidInUse);
            }
            Purpose::ResetPassword if owner.is_none() => {
                return Err(AccountError::ThreepidNotFound);
            }
            _ => {}
        }
        let hash = request_hash(request, &address);
        let snapshot = self.snapshot();
        let known = match snapshot.get(&VALIDATION_OF, &hash).await? {
            Some(sid) => snapshot.get(&VALIDATIONS, &sid).await?,
            None => None,
        };
        let known = known.filter(|row| self.now_ms() < row.expires_ms);
        if let Some(row) = &known
            && (row.attempt >= request.attempt || row.validated_ms.is_some())
        {
            return Ok(Begun {
                sid: row.sid.clone(),
                address,
                token: None,
            });
        }
        self.mails
            .take(&address, self.now_ms())
            .map_err(|wait| AccountError::LimitExceeded {
                retry_after_ms: wait.ms,
            })?;
        let token = secrets::token("")?;
        let (sid, expires_ms) = match known {
            Some(row) => (row.sid, row.expires_ms),
            None => (
                secrets::token("")?,
                self.now_ms().saturating_add(LIFETIME_MS),
            ),
        };
        let row = Validation {
            sid: sid.clone(),
            purpose: request.purpose,
            address: address.clone(),
            secret: secrets::hash(request.client_secret.as_str()),
            token: secrets::hash(&token),
            attempt: request.attempt,
            next_link,
            validated_ms: None,
            expires_ms,
            request: hash,
        };
        let sid_hash = secrets::hash(&sid);
        let mut batch = Batch::new();
        batch.put(&VALIDATIONS, &sid_hash, &row);
        batch.put(&VALIDATION_OF, &hash, &sid_hash);
        batch.put(
            &EXPIRY,
            &(expires_ms, sid_hash),
            &ShortTokenKind::Validation,
        );
        self.store.commit_durable(batch).await?;
        Ok(Begun {
            sid,
            address,
            token: Some(token),
        })
    }

    /// The link of a mail was opened, and confirmed by who opened it. Answers where to go from there.
    pub async fn confirm_validation(
        &self,
        sid: &str,
        client_secret: &str,
        token: &str,
    ) -> Result<Option<String>, AccountError> {
        let hash = secrets::hash(sid);
        let mut row = self.validation(hash, client_secret).await?;
        if row.token != secrets::hash(token) {
            return Err(AccountError::ThreepidAuthFailed);
        }
        if row.validated_ms.is_none() {
            row.validated_ms = Some(self.now_ms());
            let mut batch = Batch::new();
            batch.guard_exists(&VALIDATIONS, &hash);
            batch.put(&VALIDATIONS, &hash, &row);
            self.store.commit_durable(batch).await?;
        }
        Ok(row.next_link)
    }

    /// The address of a session that was validated for `purpose`.
    ///
    /// # Errors
    /// [`AccountError::ThreepidAuthFailed`], whatever is wrong: who guesses learns nothing.
    pub async fn validated(
        &self,
        purpose: Purpose,
        sid: &str,
        client_secret: &str,
    ) -> Result<Validated, AccountError> {
        let hash = secrets::hash(sid);
        let row = self.validation(hash, client_secret).await?;
        let validated_ms = row.validated_ms.filter(|_| row.purpose == purpose);
        Ok(Validated {
            purpose,
            address: row.address,
            validated_ms: validated_ms.ok_or(AccountError::ThreepidAuthFailed)?,
            sid: hash,
            request: row.request,
            expires_ms: row.expires_ms,
        })
    }

    async fn validation(
        &self,
        sid: TokenHash,
        client_secret: &str,
    ) -> Result<Validation, AccountError> {
        let row = self.snapshot().get(&VALIDATIONS, &sid).await?;
        row.filter(|row| {
            row.secret == secrets::hash(client_secret) && self.now_ms() < row.expires_ms
        })
        .ok_or(AccountError::ThreepidAuthFailed)
    }
}
