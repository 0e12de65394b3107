//! Registration with a secret shared with the operator's tools, as Synapse's
//! `/_synapse/admin/v1/register`: a nonce, and an HMAC over what is registered.

use std::collections::HashMap;

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use sha1::Sha1;

use crate::{
    Accounts, NewAccount,
    error::AccountError,
    secrets::{self, hash},
    tables::TokenHash,
};

/// How long a nonce may be used.
const LIFETIME_MS: u64 = 60_000;
/// Nonces that may be out at a time. Beyond it one has to wait until some expire.
const OUTSTANDING: usize = 4_096;

/// The nonces that were given out and not used: when each expires.
#[derive(Default)]
pub(crate) struct Nonces(Mutex<HashMap<TokenHash, u64>>);

/// What is signed with the shared secret.
#[derive(Clone, Copy)]
pub struct SharedSecretRequest<'a> {
    /// A nonce from [`Accounts::shared_secret_nonce`].
    pub nonce: &'a str,
    /// The name as the tool gave it.
    pub username: &'a str,
    /// The password.
    pub password: &'a str,
    /// Whether the account may use the operator's endpoints.
    pub admin: bool,
    /// A label.
    pub user_type: Option<&'a str>,
    /// The HMAC-SHA1 in hexadecimal.
    pub mac: &'a str,
}

impl Accounts {
    /// Whether this way of registering is open.
    pub fn shared_secret_enabled(&self) -> bool {
        self.config.shared_secret.is_some()
    }

    /// A nonce for one registration.
    pub fn shared_secret_nonce(&self) -> Result<String, AccountError> {
        self.shared_secret()?;
        let now = self.now_ms();
        let nonce = secrets::token("")?;
        let mut nonces = self.nonces.0.lock();
        if nonces.len() >= OUTSTANDING {
            nonces.retain(|_, expires| *expires > now);
        }
        if nonces.len() >= OUTSTANDING {
            return Err(AccountError::LimitExceeded {
                retry_after_ms: LIFETIME_MS,
            });
        }
        nonces.insert(hash(&nonce), now.saturating_add(LIFETIME_MS));
        Ok(nonce)
    }

    /// Checks a request that was signed with the shared secret. The nonce is used up whether or
    /// not the signature is right.
    pub fn verify_shared_secret(
        &self,
        request: &SharedSecretRequest<'_>,
    ) -> Result<NewAccount, AccountError> {
        let secret = self.shared_secret()?;
        let expires = self.nonces.0.lock().remove(&hash(request.nonce));
        if expires.is_none_or(|at| at <= self.now_ms()) {
            return Err(AccountError::Rejected(
                "The nonce is unknown or has expired.".into(),
            ));
        }
        // Zero bytes separate the fields, so they can't be part of one.
        let fields = [request.username, request.password];
        if fields.iter().any(|field| field.contains('\0')) {
            return Err(AccountError::Rejected(
                "The username and the password may not contain a zero byte.".into(),
            ));
        }
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes())
            .map_err(|error| AccountError::Internal(error.to_string()))?;
        let role = if request.admin { "admin" } else { "notadmin" };
        let parts = [request.nonce, request.username, request.password, role];
        for (i, part) in parts.into_iter().chain(request.user_type).enumerate() {
            if i > 0 {
                mac.update(b"\0");
            }
            mac.update(part.as_bytes());
        }
        // `verify_slice` compares in constant time.
        let given = from_hex(request.mac).unwrap_or_default();
        mac.verify_slice(&given)
            .map_err(|_| AccountError::Forbidden("The HMAC is wrong.".into()))?;
        Ok(NewAccount {
            admin: request.admin,
            user_type: request.user_type.map(str::to_owned),
            ..NewAccount::user(request.username, request.password)
        })
    }

    fn shared_secret(&self) -> Result<&str, AccountError> {
        self.config
            .shared_secret
            .as_deref()
            .filter(|secret| !secret.is_empty())
            .ok_or_else(|| {
                AccountError::Forbidden("Registration by shared secret is not enabled.".into())
            })
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
        })
        .collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    pairs
        .remainder()
        .is_empty()
        .then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}
