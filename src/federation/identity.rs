//! What we ask of identity servers: whose an address is, to keep an invite for whoever it will be, and whether a key is
//! still good (identity service API; client-server API, "Third-party invites").
//!
//! Which server is asked is said by our user, who signed in there; whether it may be connected to is said by the operator
//! (`outbound.deny_ip_ranges`).

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use ruma::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    error::{FederationError, RemoteError},
    net::WebClient,
};

/// How long an identity server may take: the user waits for it.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;
/// Keys that are taken from one server.
const MAX_KEYS: usize = 10;
/// "Its length must not exceed 255 characters" (`POST /store-invite`).
const MAX_TOKEN: usize = 255;
/// A display name that would not be one.
const MAX_NAME: usize = 1_000;

/// An identity server that one of our users is signed in to.
#[derive(Clone)]
pub struct IdentityServer {
    /// `id_server`.
    pub name: OwnedServerName,
    /// `id_access_token`.
    pub token: String,
}

/// An address of somebody.
#[derive(Clone, Debug)]
pub struct Address {
    /// `email` or `msisdn`.
    pub medium: String,
    /// Which.
    pub address: String,
}

/// A key with which the identity server will sign, as the room is told of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PromisedKey {
    /// Unpadded base64.
    pub public_key: String,
    /// Where to ask whether it still is good; nowhere means for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_validity_url: Option<String>,
}

/// An invite that an identity server keeps.
#[derive(Clone, Debug, Deserialize)]
pub struct StoredInvite {
    /// The state key of the `m.room.third_party_invite`.
    pub token: String,
    /// What the server will sign with.
    pub public_keys: Vec<PromisedKey>,
    /// A name that does not tell the address.
    pub display_name: String,
}

#[derive(Deserialize)]
struct HashDetails {
    lookup_pepper: String,
    algorithms: Vec<String>,
}

#[derive(Deserialize)]
struct Mappings {
    mappings: Map<String, Value>,
}

#[derive(Deserialize)]
struct Validity {
    valid: bool,
}

/// Asks identity servers.
pub struct IdentityServers {
    web: Arc<WebClient>,
}

impl IdentityServers {
    /// Asks with this client.
    #[must_use]
    pub fn new(web: Arc<WebClient>) -> Self {
        Self { web }
    }

    /// Whose an address is, if the server knows.
    ///
    /// # Errors
    /// When it refuses, or can't be asked.
    pub async fn look_up(
        &self,
        server: &IdentityServer,
        address: &Address,
    ) -> Result<Option<OwnedUserId>, FederationError> {
        match self.try_look_up(server, address).await {
            // The pepper was changed between the two requests.
            Err(FederationError::Remote(remote))
                if remote.errcode.as_deref() == Some("M_INVALID_PEPPER") =>
            {
                self.try_look_up(server, address).await
            }
            outcome => outcome,
        }
    }

    async fn try_look_up(
        &self,
        server: &IdentityServer,
        address: &Address,
    ) -> Result<Option<OwnedUserId>, FederationError> {
        let details: HashDetails = self.ask(server, "hash_details", None).await?;
        // "Clients MUST support at least the `sha256` algorithm"; the other gives the address away.
        if !details.algorithms.iter().any(|name| name == "sha256") {
            let reason = "it looks up addresses by no algorithm that is known here";
            return Err(FederationError::bad_answer(&server.name, reason));
        }
        let hash = hash(address, &details.lookup_pepper);
        let query = json!({
            "algorithm": "sha256", "pepper": details.lookup_pepper, "addresses": [hash],
        });
        let found: Mappings = self.ask(server, "lookup", Some(query)).await?;
        match found.mappings.get(&hash).and_then(Value::as_str) {
            Some(user) => match OwnedUserId::try_from(user) {
                Ok(user) => Ok(Some(user)),
                Err(error) => Err(FederationError::bad_answer(&server.name, error)),
            },
            None => Ok(None),
        }
    }

    /// Leaves an invite with the server, which tells whoever has the address. `invite` is the request's body.
    ///
    /// # Errors
    /// When it refuses, or can't be asked.
    pub async fn store(
        &self,
        server: &IdentityServer,
        invite: Value,
    ) -> Result<StoredInvite, FederationError> {
        let stored: StoredInvite = self.ask(server, "store-invite", Some(invite)).await?;
        let in_token = |c: u8| c.is_ascii_alphanumeric() || b".=_-".contains(&c);
        let is_token = (1..=MAX_TOKEN).contains(&stored.token.len())
            && stored.token.bytes().all(in_token)
            && stored.display_name.len() <= MAX_NAME;
        if !is_token || !(1..=MAX_KEYS).contains(&stored.public_keys.len()) {
            let reason = "the invite that it keeps has no usable token, name or key";
            return Err(FederationError::bad_answer(&server.name, reason));
        }
        Ok(stored)
    }

    /// Whether a key is still good, by what its server says. One that nobody vouches for is not.
    pub async fn is_valid(&self, key: &PromisedKey) -> bool {
        let Some(at) = &key.key_validity_url else {
            return true;
        };
        let Ok(mut url) = url::Url::parse(at) else {
            return false;
        };
        url.query_pairs_mut()
            .append_pair("public_key", &key.public_key);
        match self.web.get(url.as_str(), TIMEOUT, MAX_ANSWER).await {
            Ok(answer) => {
                answer.status.is_success()
                    && serde_json::from_slice::<Validity>(&answer.body)
                        .is_ok_and(|answer| answer.valid)
            }
            Err(error) => {
                tracing::info!(%url, %error, "whether a key is still good can't be asked");
                false
            }
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        server: &IdentityServer,
        endpoint: &str,
        body: Option<Value>,
    ) -> Result<T, FederationError> {
        let address = format!("https://{}/_matrix/identity/v2/{endpoint}", server.name);
        let method = match body {
            Some(_) => Method::POST,
            None => Method::GET,
        };
        let body = body.map(|body| body.to_string().into()).unwrap_or_default();
        let answer = self
            .web
            .call((method, &address), &server.token, body, TIMEOUT, MAX_ANSWER);
        let answer = answer
            .await
            .map_err(|source| FederationError::Unreachable {
                server: server.name.clone(),
                source,
            })?;
        if !answer.status.is_success() {
            let refusal = RemoteError::read(server.name.clone(), answer.status, &answer.body);
            return Err(FederationError::Remote(refusal));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| FederationError::bad_answer(&server.name, error))
    }
}

/// An address as it is looked up: "`<address> <medium> <pepper>`", hashed.
fn hash(Address { medium, address }: &Address, pepper: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{address} {medium} {pepper}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hashed_as_the_specification_shows() {
        for (address, medium, wanted) in [
            (
                "alice@example.com",
                "email",
                "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc",
            ),
            (
                "18005552067",
                "msisdn",
                "nlo35_T5fzSGZzJApqu8lgIudJvmOQtDaHtr-I4rU7I",
            ),
        ] {
            let address = Address {
                medium: medium.to_owned(),
                address: address.to_owned(),
            };
            assert_eq!(hash(&address, "matrixrocks"), wanted);
        }
    }
}
