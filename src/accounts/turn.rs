//! Credentials for a TURN server (spec, "Voice over IP"): fixed ones, or ones that coturn and its like derive from a
//! secret that they share with us ("use-auth-secret", draft-uberti-behave-turn-rest-00).

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use ruma::UserId;
use sha1::Sha1;

use crate::error::AccountError;

/// The TURN servers of this homeserver.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Their addresses: `turn:` or `turns:`.
    pub uris: Vec<String>,
    /// How they know who may use them.
    pub access: TurnAccess,
    /// How long a client may use what it is given, before it asks again.
    pub lifetime: Duration,
}

/// How a TURN server knows who may use it.
#[derive(Clone)]
pub enum TurnAccess {
    /// By a secret that it shares with this homeserver.
    SharedSecret(String),
    /// By one name and password for everybody.
    Fixed {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
}

impl fmt::Debug for TurnAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What a client shows to a TURN server.
#[derive(Debug, PartialEq, Eq)]
pub struct TurnCredentials {
    /// The name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl Turn {
    /// Credentials for `user`, made at `now_ms` (milliseconds since 1970).
    pub fn credentials(&self, user: &UserId, now_ms: u64) -> Result<TurnCredentials, AccountError> {
        let secret = match &self.access {
            TurnAccess::Fixed { username, password } => {
                return Ok(TurnCredentials {
                    username: username.clone(),
                    password: password.clone(),
                });
            }
            TurnAccess::SharedSecret(secret) => secret,
        };
        let until = (now_ms / 1000).saturating_add(self.lifetime.as_secs());
        let username = format!("{until}:{user}");
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes())
            .map_err(|error| AccountError::Internal(error.to_string()))?;
        mac.update(username.as_bytes());
        Ok(TurnCredentials {
            username,
            password: STANDARD.encode(mac.finalize().into_bytes()),
        })
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn turn(access: TurnAccess) -> Turn {
        Turn {
            uris: vec!["turn:turn.example.org".to_owned()],
            access,
            lifetime: Duration::from_secs(86_400),
        }
    }

    #[test]
    fn a_shared_secret_signs_the_name_and_its_end() {
        let turn = turn(TurnAccess::SharedSecret("secret".to_owned()));
        let user = user_id!("@alice:example.org");
        let given = turn.credentials(user, 1_700_000_000_999).unwrap();
        assert_eq!(given.username, "1700086400:@alice:example.org");
        // printf '%s' 1700086400:@alice:example.org | openssl dgst -sha1 -hmac secret -binary | base64
        assert_eq!(given.password, "RuLuGNKKbiGzqiXEknBM5BiuQKM=");
    }

    #[test]
    fn fixed_credentials_are_given_as_they_are() {
        let (username, password) = ("people".to_owned(), "word".to_owned());
        let access = TurnAccess::Fixed { username, password };
        let user = user_id!("@alice:example.org");
        let given = turn(access).credentials(user, 0).unwrap();
        assert_eq!((&*given.username, &*given.password), ("people", "word"));
    }
}
