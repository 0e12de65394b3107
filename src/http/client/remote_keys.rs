//! Keys of users of other servers: asked of their servers, all at once.
//!
//! A server speaks for its own users and for what it was asked only; the rest of its answer is
//! dropped.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, stream};
use resuni_federation::{Federation, FederationError, PublicKeys, Terms};
use ruma::{
    OwnedServerName, OwnedUserId,
    api::{
        OutgoingRequest,
        federation::{
            authentication::ServerSignatures,
            keys::{claim_keys, get_keys},
        },
        path_builder::SinglePath,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// Servers that are asked at the same time.
const AT_ONCE: usize = 32;
/// How long they have, unless the client says otherwise; the spec's recommendation.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is wanted, by server.
pub type Wanted<T> = BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, T>>;

/// What the servers say to a query.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct RemoteKeys {
    /// Identity keys by user and device.
    #[serde(deserialize_with = "or_none")]
    pub device_keys: BTreeMap<OwnedUserId, Object>,
    /// Master keys by user.
    #[serde(deserialize_with = "or_none")]
    pub master_keys: BTreeMap<OwnedUserId, Object>,
    /// Self-signing keys by user.
    #[serde(deserialize_with = "or_none")]
    pub self_signing_keys: BTreeMap<OwnedUserId, Object>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RemoteClaims {
    #[serde(deserialize_with = "or_none")]
    one_time_keys: BTreeMap<OwnedUserId, Object>,
}

/// Servers that know nothing of a kind say `null` as well as leaving it out.
fn or_none<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Identity keys and cross-signing keys; and, by name, the servers that did not answer. Servers are asked for all keys of
/// a user, so that the answer can be kept; those that are known need no request.
pub async fn query(
    federation: Option<&Federation>,
    wanted: Wanted<Vec<ruma::OwnedDeviceId>>,
    timeout: Option<Duration>,
) -> Result<(RemoteKeys, Object), FederationError> {
    let Some(cache) = federation.map(|federation| &federation.key_cache) else {
        let failures = wanted
            .into_keys()
            .map(|server| (server.to_string(), json!({})));
        return Ok((RemoteKeys::default(), failures.collect()));
    };
    let (mut all, now) = (RemoteKeys::default(), cache.now());
    let (mut unknown, mut asked) = (Wanted::<Vec<_>>::new(), BTreeMap::new());
    for (server, users) in wanted {
        for (user, devices) in users {
            match cache.get(&user).await? {
                Some(keys) => all.put(&user, keys),
                None => drop(
                    unknown
                        .entry(server.clone())
                        .or_default()
                        .insert(user.clone(), vec![]),
                ),
            }
            asked.insert(user, devices);
        }
    }
    let requests = unknown.into_iter().map(|(server, users)| {
        let request = get_keys::v1::Request::new(users.clone());
        (server, users, request)
    });
    let (answers, failures) = ask::<_, _, RemoteKeys>(federation, requests, timeout).await;
    for (users, answer) in answers {
        let mut fresh = RemoteKeys::default();
        fresh.accept(&users, answer);
        for user in users.into_keys() {
            let whole = fresh.device_keys.contains_key(&user);
            let keys = fresh.take(&user);
            if whole {
                cache.keep(&user, now, keys.clone()).await?;
            }
            all.put(&user, keys);
        }
    }
    for (user, devices) in asked.iter().filter(|(_, devices)| !devices.is_empty()) {
        if let Some(keys) = all.device_keys.get_mut(user) {
            keys.retain(|device, _| devices.iter().any(|asked| asked.as_str() == device));
        }
    }
    Ok((all, failures))
}

impl RemoteKeys {
    fn put(&mut self, user: &OwnedUserId, keys: PublicKeys) {
        let devices = keys.devices.map(|devices| (user.clone(), devices));
        self.device_keys.extend(devices);
        let master = keys.master.map(|key| (user.clone(), key));
        self.master_keys.extend(master);
        let self_signing = keys.self_signing.map(|key| (user.clone(), key));
        self.self_signing_keys.extend(self_signing);
    }

    /// What a server said of one user.
    fn take(&mut self, user: &OwnedUserId) -> PublicKeys {
        PublicKeys {
            devices: self.device_keys.remove(user),
            master: self.master_keys.remove(user),
            self_signing: self.self_signing_keys.remove(user),
        }
    }

    /// Adds what a server may say about the users it was asked for.
    fn accept<T>(&mut self, users: &BTreeMap<OwnedUserId, T>, answer: RemoteKeys) {
        for (user, mut devices) in answer.device_keys {
            if users.contains_key(&user) {
                devices.retain(|device, keys| is_of(keys, &user, device));
                self.device_keys.insert(user, devices);
            }
        }
        let own = |(user, key): &(OwnedUserId, Object)| {
            users.contains_key(user) && key.get("user_id") == Some(&json!(user))
        };
        let (masters, self_signing) = (answer.master_keys, answer.self_signing_keys);
        self.master_keys.extend(masters.into_iter().filter(own));
        self.self_signing_keys
            .extend(self_signing.into_iter().filter(own));
    }
}

/// Whether device keys are those of the device they are given out as.
fn is_of(keys: &Value, user: &OwnedUserId, device: &str) -> bool {
    keys.get("user_id") == Some(&json!(user)) && keys.get("device_id") == Some(&json!(device))
}

/// One-time keys by user; and, by name, the servers that did not answer.
pub async fn claim(
    federation: Option<&Federation>,
    wanted: Wanted<BTreeMap<ruma::OwnedDeviceId, ruma::OneTimeKeyAlgorithm>>,
    timeout: Option<Duration>,
) -> (BTreeMap<OwnedUserId, Object>, Object) {
    let requests = wanted.into_iter().map(|(server, users)| {
        let request = claim_keys::v1::Request::new(users.clone());
        (server, users, request)
    });
    let (answers, failures) = ask::<_, _, RemoteClaims>(federation, requests, timeout).await;
    let mut all = BTreeMap::new();
    for (users, answer) in answers {
        for (user, mut devices) in answer.one_time_keys {
            let Some(asked) = users.get(&user) else {
                continue;
            };
            devices.retain(|device, _| asked.contains_key(device.as_str()));
            all.insert(user, devices);
        }
    }
    (all, failures)
}

/// Sends the requests and reads the answers; which server did not give one is in the second part.
async fn ask<T, R, A>(
    federation: Option<&Federation>,
    requests: impl Iterator<Item = (OwnedServerName, T, R)>,
    timeout: Option<Duration>,
) -> (Vec<(T, A)>, Object)
where
    R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
    A: DeserializeOwned,
{
    let terms = Terms {
        timeout: timeout.unwrap_or(TIMEOUT).min(Terms::ASKED.timeout),
        ..Terms::ASKED
    };
    let answers = stream::iter(requests)
        .map(|(server, wanted, request)| async move {
            let client = &federation.ok_or_else(|| server.clone())?.network.client;
            let answer = client.answer(&server, request, terms).await;
            let answer = answer.map_err(|_| server.clone())?;
            serde_json::from_slice(&answer.body)
                .map(|answer| (wanted, answer))
                .map_err(|_| server)
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<Result<_, OwnedServerName>>>()
        .await;
    let (mut read, mut failures) = (Vec::new(), Object::new());
    for answer in answers {
        match answer {
            Ok(answer) => read.push(answer),
            Err(server) => drop(failures.insert(server.to_string(), json!({}))),
        }
    }
    (read, failures)
}

#[cfg(test)]
mod tests {
    use ruma::owned_user_id;

    use super::*;

    #[test]
    fn null_is_nothing() {
        let answer = json!({ "device_keys": { "@a:there": {} }, "master_keys": null });
        let answer: RemoteKeys = serde_json::from_value(answer).unwrap();
        assert_eq!((answer.device_keys.len(), answer.master_keys.len()), (1, 0));
    }

    #[test]
    fn a_server_speaks_for_those_it_was_asked_for() {
        let keys = |user: &str, device: &str| json!({ "user_id": user, "device_id": device });
        let answer = json!({
            "device_keys": {
                "@a:there": {
                    "ONE": keys("@a:there", "ONE"),
                    "TWO": keys("@a:there", "ONE"),
                    "THREE": keys("@victim:here", "THREE"),
                    "FOUR": null,
                },
                "@victim:here": { "X": keys("@victim:here", "X") },
            },
            "master_keys": {
                "@a:there": { "user_id": "@victim:here" },
                "@victim:here": { "user_id": "@victim:here" },
            },
            "self_signing_keys": { "@a:there": { "user_id": "@a:there" } },
        });
        let users = BTreeMap::from([(owned_user_id!("@a:there"), ())]);
        let mut all = RemoteKeys::default();
        all.accept(&users, serde_json::from_value(answer).unwrap());
        assert_eq!(
            json!(all.device_keys),
            json!({ "@a:there": { "ONE": keys("@a:there", "ONE") } })
        );
        assert!(all.master_keys.is_empty());
        assert_eq!(all.self_signing_keys.len(), 1);
    }
}
