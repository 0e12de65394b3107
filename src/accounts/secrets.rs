//! Secrets made here, and how they are compared.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRng, rngs::SysRng};
use sha2::{Digest, Sha256};

use crate::{error::AccountError, tables::TokenHash};

/// Bytes from the operating system. It is asked directly: a generator in the process would have
/// to be kept safe from forks and memory dumps.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], AccountError> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| {
        AccountError::Internal(format!("The system has no randomness to give: {error}"))
    })?;
    Ok(bytes)
}

/// A new opaque token of 256 bits. The prefix says what leaked when one is found in a log.
pub(crate) fn token(prefix: &str) -> Result<String, AccountError> {
    Ok(format!(
        "{prefix}{}",
        URL_SAFE_NO_PAD.encode(random::<32>()?)
    ))
}

/// `N` characters out of `alphabet`, each as likely as any other.
pub(crate) fn word<const N: usize>(alphabet: &[u8; 32]) -> Result<String, AccountError> {
    let bytes = random::<N>()?;
    Ok(bytes
        .iter()
        .map(|byte| char::from(alphabet[usize::from(byte % 32)]))
        .collect())
}

/// Lower-case letters and digits that are hard to mistake for each other.
pub(crate) const LOWER: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Upper-case letters and a few digits: base 32, which people can read out.
pub(crate) const UPPER: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// What is stored in place of a token, and what it is looked up by. A look-up by hash takes a time
/// that tells nothing about any other token: who could choose the hash could choose the token.
pub(crate) fn hash(token: &str) -> TokenHash {
    TokenHash(Sha256::digest(token.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_carry_256_bits() {
        let (a, b) = (token("x_").unwrap(), token("x_").unwrap());
        assert_ne!(a, b);
        let body = a.strip_prefix("x_").unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(body).unwrap().len(), 32);
        assert_ne!(hash(&a), hash(&b));
    }
}
