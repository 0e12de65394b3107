//! Signing keys of servers.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ruma::OwnedServerName;
use ruma::signatures::Ed25519KeyPair;

use crate::SignatureError;

/// Unpadded base64 as other servers write it: with padding or without, and with anything in the
/// unused last bits, as in the key of the specification's own test vectors.
pub(crate) const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// PKCS#8 before the 32 bytes of an Ed25519 seed (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// This server's Ed25519 key. The randomness comes from the caller.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    seed: [u8; 32],
}

impl SigningKey {
    /// A key from 32 bytes, which must be random for a new key. `version` is the part of the key
    /// id after `ed25519:`; letters, digits and `_` only.
    pub fn generate(version: &str, seed: [u8; 32]) -> Result<Self, SignatureError> {
        let grammatical = !version.is_empty()
            && version
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !grammatical {
            return Err(SignatureError::Key(format!(
                "`{version}` is no key version"
            )));
        }
        let mut document = PKCS8_PREFIX.to_vec();
        document.extend_from_slice(&seed);
        let pair = Ed25519KeyPair::from_der(&document, version.to_owned())
            .map_err(|e| SignatureError::Key(e.to_string()))?;
        Ok(Self { pair, seed })
    }

    /// Reads `ed25519 <version> <seed in base64>`, the form that other homeservers keep their key
    /// in too.
    pub fn from_text(text: &str) -> Result<Self, SignatureError> {
        let mut words = text.split_whitespace();
        let (Some("ed25519"), Some(version), Some(seed), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(SignatureError::Key(
                "expected `ed25519 <version> <base64>`".to_owned(),
            ));
        };
        let seed = LENIENT
            .decode(seed)
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or_else(|| SignatureError::Key("the seed must be 32 bytes in base64".to_owned()))?;
        Self::generate(version, seed)
    }

    /// The form that [`SigningKey::from_text`] reads. Secret.
    pub fn to_text(&self) -> String {
        format!("ed25519 {} {}", self.version(), LENIENT.encode(self.seed))
    }

    /// The secret seed.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.seed
    }

    /// As [`SigningKey::generate`], for a seed kept before.
    pub fn from_bytes(version: &str, seed: [u8; 32]) -> Result<Self, SignatureError> {
        Self::generate(version, seed)
    }

    /// The part of the key id after the colon.
    pub fn version(&self) -> &str {
        self.pair.version()
    }

    /// The key id, `ed25519:<version>`.
    pub fn key_id(&self) -> String {
        format!("ed25519:{}", self.version())
    }

    /// The public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.pair.public_key()
    }

    /// The public key in unpadded base64, as `/_matrix/key/v2/server` shows it.
    pub fn public_key_base64(&self) -> String {
        LENIENT.encode(self.public_key())
    }

    pub(crate) fn pair(&self) -> &Ed25519KeyPair {
        &self.pair
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.key_id())
    }
}

/// A public key of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyKey {
    /// The Ed25519 public key.
    pub key: [u8; 32],
    /// Until when it may sign, in milliseconds since 1970. For an old key its `expired_ts`; for a
    /// current one `valid_until_ts`, which the caller caps at a week from now (room version 5,
    /// "Signing key validity period").
    pub valid_until_ts: u64,
}

impl VerifyKey {
    /// A key as it stands in a key response.
    pub fn from_base64(key: &str, valid_until_ts: u64) -> Option<Self> {
        let bytes = LENIENT.decode(key).ok()?;
        Some(Self {
            key: bytes.try_into().ok()?,
            valid_until_ts,
        })
    }
}

/// Known keys: server → key id → key.
pub type VerifyKeys = BTreeMap<OwnedServerName, BTreeMap<String, VerifyKey>>;
