//! Passwords: argon2id, off the async threads.

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use tokio::{sync::Semaphore, task};

use crate::{error::AccountError, secrets};

/// The longest password in bytes. Hashing is made to be slow; it need not be slow and unbounded.
const PASSWORD_BYTES: usize = 512;
/// How many may wait for a place to hash. Who comes when the queue is full is told to come later.
const QUEUE: usize = 256;
/// When a client is told to come again when the queue is full.
const RETRY_AFTER_MS: u64 = 2_000;

/// What it costs to hash a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordCost {
    /// 19 MiB and two passes: the first recommendation of OWASP for argon2id.
    Normal,
    /// As little as argon2 allows. For tests only.
    Minimum,
}

impl PasswordCost {
    fn params(self) -> Params {
        match self {
            Self::Normal => Params::DEFAULT,
            Self::Minimum => Params::new(Params::MIN_M_COST, 1, 1, None).unwrap_or(Params::DEFAULT),
        }
    }
}

/// Hashes and checks passwords, a few at a time.
pub(crate) struct Passwords {
    hasher: Argon2<'static>,
    /// The hash of a password that nobody has. It is checked when there is no other, so that an
    /// unknown name takes as long as a wrong password.
    decoy: Arc<str>,
    /// Those who hash: half of the processors, so that logins don't stop everything else.
    working: Arc<Semaphore>,
    /// Those who hash or wait.
    waiting: Semaphore,
}

impl Passwords {
    pub(crate) fn new(cost: PasswordCost) -> Result<Self, AccountError> {
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost.params());
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            decoy: hash(&hasher, &secrets::token("")?)?.into(),
            hasher,
            working: Arc::new(Semaphore::new((processors / 2).max(1))),
            waiting: Semaphore::new(QUEUE),
        })
    }

    /// The PHC string of a new password.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, AccountError> {
        if password.is_empty() {
            return Err(AccountError::WeakPassword("The password may not be empty."));
        }
        if password.len() > PASSWORD_BYTES {
            return Err(AccountError::InvalidParam(format!(
                "The password may have at most {PASSWORD_BYTES} bytes."
            )));
        }
        let (hasher, password) = (self.hasher.clone(), password.to_owned());
        self.run(move || hash(&hasher, &password)).await?
    }

    /// Whether `password` is the one that `stored` was made from. Takes as long when there is
    /// nothing stored.
    pub(crate) async fn verify(
        &self,
        password: &str,
        stored: Option<&str>,
    ) -> Result<bool, AccountError> {
        // An empty or endless password can't have been set. That it is refused at once says
        // nothing about the account.
        if password.is_empty() || password.len() > PASSWORD_BYTES {
            return Ok(false);
        }
        let known = stored.is_some();
        let stored: Arc<str> = stored.map_or_else(|| Arc::clone(&self.decoy), Arc::from);
        let (hasher, password) = (self.hasher.clone(), password.to_owned());
        self.run(move || {
            let stored = PasswordHash::new(&stored).map_err(unreadable)?;
            // The parameters are those in the hash; the comparison takes constant time.
            let right = hasher.verify_password(password.as_bytes(), &stored).is_ok();
            Ok(right && known)
        })
        .await?
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AccountError> {
        let full = || AccountError::LimitExceeded {
            retry_after_ms: RETRY_AFTER_MS,
        };
        let _waiting = self.waiting.try_acquire().map_err(|_| full())?;
        let permit = Arc::clone(&self.working)
            .acquire_owned()
            .await
            .map_err(|_| full())?;
        // The permit moves into the work: a client that hangs up frees no place while its
        // password is still being hashed.
        task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        })
        .await
        .map_err(|error| AccountError::Internal(format!("Hashing a password failed: {error}")))
    }
}

fn hash(hasher: &Argon2<'static>, password: &str) -> Result<String, AccountError> {
    let salt = secrets::random::<16>()?;
    hasher
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(unreadable)
}

fn unreadable(error: impl std::fmt::Display) -> AccountError {
    AccountError::Internal(format!(
        "A password hash could not be made or read: {error}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_right_or_wrong() {
        let passwords = Passwords::new(PasswordCost::Minimum).unwrap();
        let stored = passwords.hash("correct horse").await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$"));
        assert!(
            passwords
                .verify("correct horse", Some(&stored))
                .await
                .unwrap()
        );
        for wrong in ["correct hors", "", "*", &stored, &"x".repeat(10_000)] {
            assert!(!passwords.verify(wrong, Some(&stored)).await.unwrap());
            assert!(!passwords.verify(wrong, None).await.unwrap());
        }
    }

    #[tokio::test]
    async fn the_same_password_has_two_hashes() {
        let passwords = Passwords::new(PasswordCost::Minimum).unwrap();
        let a = passwords.hash("correct horse").await.unwrap();
        let b = passwords.hash("correct horse").await.unwrap();
        assert_ne!(a, b);
    }

    #[tokio::test]
    async fn no_password_can_be_empty_or_endless() {
        let passwords = Passwords::new(PasswordCost::Minimum).unwrap();
        assert!(passwords.hash("").await.is_err());
        assert!(passwords.hash(&"x".repeat(513)).await.is_err());
        assert!(passwords.hash(&"x".repeat(512)).await.is_ok());
    }

    #[test]
    fn the_decoy_costs_what_a_new_hash_costs() {
        for cost in [PasswordCost::Normal, PasswordCost::Minimum] {
            let passwords = Passwords::new(cost).unwrap();
            let params = |hash: &str| hash.split('$').nth(3).map(str::to_owned);
            let new = hash(&passwords.hasher, "x").unwrap();
            assert_eq!(params(&passwords.decoy), params(&new));
        }
    }
}
