//! Public keys of servers: ours published, theirs fetched, kept and passed on as a notary
//! (server-server API, "Retrieving server keys").

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use resuni_dag::{SigningKey, VerifyKey, VerifyKeys, sign_json, verify_json};
use resuni_store::{Batch, SharedClock, Store, Table, versioned};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    api::federation::discovery::{
        ServerSigningKeys, get_remote_server_keys_batch::v2 as batch, get_server_keys,
    },
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use crate::{
    client::{Client, Terms},
    error::FederationError,
};

/// What is known of each server's keys.
pub static SERVER_KEYS: Table<String, KnownKeys> = Table::new(0x0501, "server_keys");

/// A key is never taken for valid longer than this after it was fetched ("Servers MUST use the lesser
/// of this field and 7 days into the future").
const VALIDITY_CAP_MS: u64 = 7 * 24 * 3_600_000;
/// For how long our own response may be used.
const OWN_VALIDITY_MS: u64 = 24 * 3_600_000;
/// A server is not asked again within this time, whatever the outcome was, so that requests with
/// invented key ids can't make us flood it.
const ASK_AGAIN_AFTER_MS: u64 = 10_000;
/// Bytes of a key response that are read.
const MAX_RESPONSE: usize = 128 * 1024;
/// Keys of one server that are kept.
const MAX_KEYS: usize = 256;
/// Servers whose keys are held in memory.
const CACHE_CAPACITY: usize = 10_000;
/// Servers asked at once.
const CONCURRENT_FETCHES: usize = 32;
/// Servers in one notary request.
const MAX_NOTARY_SERVERS: usize = 100;
/// Servers asked at once on behalf of strangers.
const CONCURRENT_NOTARY_FETCHES: usize = 8;
const FETCH_TERMS: Terms = Terms {
    timeout: Duration::from_secs(15),
    max_answer: MAX_RESPONSE,
    heed_backoff: true,
};

/// The keys of one server as far as they are known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KnownKeys {
    /// Key id → key, current and old ones. `valid_until_ts` is capped already.
    keys: BTreeMap<String, ([u8; 32], u64)>,
    /// When the response was fetched, in milliseconds since 1970.
    fetched_ms: u64,
    /// Until when the response is valid, capped.
    valid_until_ts: u64,
    /// The latest response as the server signed it, for those who ask us as a notary.
    response: String,
}
versioned!(KnownKeys, 1);

impl KnownKeys {
    fn usable(&self, key_ids: &[String], at_ms: u64) -> bool {
        key_ids
            .iter()
            .any(|id| self.keys.get(id).is_some_and(|(_, until)| *until >= at_ms))
    }

    fn verify_keys(&self) -> BTreeMap<String, VerifyKey> {
        let key = |(key, until): &([u8; 32], u64)| VerifyKey {
            key: *key,
            valid_until_ts: *until,
        };
        self.keys
            .iter()
            .map(|(id, known)| (id.clone(), key(known)))
            .collect()
    }
}

/// Keys that a signature may have been made with, and when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needed {
    /// The server that signed.
    pub server: OwnedServerName,
    /// The ids of the keys it signed with.
    pub key_ids: Vec<String>,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// A key that this server signed with before.
#[derive(Clone, Debug)]
pub struct OldKey {
    /// `ed25519:…`
    pub key_id: String,
    /// The public key in unpadded base64.
    pub public_key: String,
    /// When it was retired, in milliseconds since 1970.
    pub expired_ts: u64,
}

/// The key ring.
pub struct Keys {
    origin: OwnedServerName,
    key: Arc<SigningKey>,
    old: Vec<OldKey>,
    notaries: Vec<OwnedServerName>,
    client: Arc<Client>,
    store: Store,
    clock: SharedClock,
    cache: Cache<OwnedServerName, Arc<KnownKeys>>,
    /// One fetch in flight per server: who comes second waits for the first.
    flights: Mutex<HashMap<OwnedServerName, Arc<AsyncMutex<u64>>>>,
    for_strangers: Semaphore,
}

impl Keys {
    /// `notaries` are asked when a server does not answer itself; what they say is believed.
    #[must_use]
    pub fn new(
        origin: OwnedServerName,
        key: Arc<SigningKey>,
        old: Vec<OldKey>,
        notaries: Vec<OwnedServerName>,
        client: Arc<Client>,
        store: Store,
        clock: SharedClock,
    ) -> Self {
        Self {
            origin,
            key,
            old,
            notaries,
            client,
            store,
            clock,
            cache: Cache::new(CACHE_CAPACITY),
            flights: Mutex::default(),
            for_strangers: Semaphore::new(CONCURRENT_NOTARY_FETCHES),
        }
    }

    /// Our own response to `GET /_matrix/key/v2/server`.
    ///
    /// # Errors
    /// Never in practice: only when signing fails.
    pub fn published(&self) -> Result<Raw<ServerSigningKeys>, FederationError> {
        let text = |s: &str| CanonicalJsonValue::from(s.to_owned());
        let time = |ms: u64| {
            CanonicalJsonValue::Integer(ruma::Int::new_saturating(
                i64::try_from(ms).unwrap_or(i64::MAX),
            ))
        };
        let current = CanonicalJsonObject::from([(
            self.key.key_id(),
            CanonicalJsonObject::from([("key".to_owned(), text(&self.key.public_key_base64()))])
                .into(),
        )]);
        let old: CanonicalJsonObject = self
            .old
            .iter()
            .map(|old| {
                let fields = CanonicalJsonObject::from([
                    ("key".to_owned(), text(&old.public_key)),
                    ("expired_ts".to_owned(), time(old.expired_ts)),
                ]);
                (old.key_id.clone(), fields.into())
            })
            .collect();
        let object = CanonicalJsonObject::from([
            ("server_name".to_owned(), text(self.origin.as_str())),
            (
                "valid_until_ts".to_owned(),
                time(self.clock.now_ms() + OWN_VALIDITY_MS),
            ),
            ("verify_keys".to_owned(), current.into()),
            ("old_verify_keys".to_owned(), old.into()),
        ]);
        self.signed(object)
    }

    /// The keys that the signatures in `needed` may be checked with, as far as they can be had.
    pub async fn find(&self, needed: Vec<Needed>) -> VerifyKeys {
        let mut by_server: BTreeMap<OwnedServerName, Vec<Needed>> = BTreeMap::new();
        for need in needed {
            by_server.entry(need.server.clone()).or_default().push(need);
        }
        stream::iter(by_server)
            .map(|(server, needs)| async move {
                let keys = self.of(&server, &needs, true).await;
                (server, keys)
            })
            .buffer_unordered(CONCURRENT_FETCHES)
            .collect()
            .await
    }

    /// The keys of a server that is talking to us right now, whatever its back-off says.
    pub async fn of_requester(&self, server: &ServerName, key_id: &str) -> VerifyKeys {
        let need = Needed {
            server: server.to_owned(),
            key_ids: vec![key_id.to_owned()],
            at_ms: self.clock.now_ms(),
        };
        let keys = self.of(server, &[need], false).await;
        [(server.to_owned(), keys)].into()
    }

    async fn of(
        &self,
        server: &ServerName,
        needs: &[Needed],
        heed_backoff: bool,
    ) -> BTreeMap<String, VerifyKey> {
        if server == self.origin {
            return self.own_keys();
        }
        let satisfied = |known: &KnownKeys| {
            needs
                .iter()
                .all(|need| known.usable(&need.key_ids, need.at_ms))
        };
        let known = match self.known(server).await {
            Some(known) if satisfied(&known) => Some(known),
            other => self.fetch(server, heed_backoff).await.or(other),
        };
        known.map(|known| known.verify_keys()).unwrap_or_default()
    }

    fn own_keys(&self) -> BTreeMap<String, VerifyKey> {
        let current = VerifyKey {
            key: self.key.public_key(),
            valid_until_ts: u64::MAX,
        };
        let old = self.old.iter().filter_map(|old| {
            Some((
                old.key_id.clone(),
                VerifyKey::from_base64(&old.public_key, old.expired_ts)?,
            ))
        });
        old.chain([(self.key.key_id(), current)]).collect()
    }

    async fn known(&self, server: &ServerName) -> Option<Arc<KnownKeys>> {
        if let Some(known) = self.cache.get(server) {
            return Some(known);
        }
        match self
            .store
            .snapshot()
            .get(&SERVER_KEYS, &server.to_string())
            .await
        {
            Ok(known) => {
                let known = Arc::new(known?);
                self.cache.insert(server.to_owned(), Arc::clone(&known));
                Some(known)
            }
            Err(error) => {
                tracing::error!(%server, %error, "cannot read the keys of a server");
                None
            }
        }
    }

    /// Asks the server, once however many wait for it; `None` when nothing new came of it.
    async fn fetch(&self, server: &ServerName, heed_backoff: bool) -> Option<Arc<KnownKeys>> {
        let flight = {
            let mut flights = self.flights.lock();
            if flights.len() > CACHE_CAPACITY {
                flights.retain(|_, flight| Arc::strong_count(flight) > 1);
            }
            Arc::clone(flights.entry(server.to_owned()).or_default())
        };
        let mut asked_ms = flight.lock().await;
        let now = self.clock.now_ms();
        if *asked_ms != 0 && now < *asked_ms + ASK_AGAIN_AFTER_MS {
            return self.known(server).await;
        }
        *asked_ms = now;
        let terms = Terms {
            heed_backoff,
            ..FETCH_TERMS
        };
        let outcome = match self.ask(server, terms).await {
            Ok(response) => Ok(response),
            Err(error) => self.ask_notaries(server).await.ok_or(error),
        };
        match outcome {
            Ok(fresh) => Some(self.keep(server, fresh).await),
            Err(error) => {
                tracing::debug!(%server, %error, "no keys");
                None
            }
        }
    }

    async fn ask(&self, server: &ServerName, terms: Terms) -> Result<KnownKeys, FederationError> {
        let request = get_server_keys::v2::Request::new();
        let response = self.client.send_unsigned(server, request, terms).await?;
        self.read(server, response.server_key.json().get())
            .map_err(|reason| FederationError::bad_answer(server, reason))
    }

    async fn ask_notaries(&self, server: &ServerName) -> Option<KnownKeys> {
        for notary in &self.notaries {
            let wanted = [(server.to_owned(), BTreeMap::new())].into();
            let request = batch::Request::new(wanted);
            let Ok(response) = self
                .client
                .send_unsigned(notary, request, FETCH_TERMS)
                .await
            else {
                continue;
            };
            let notary_keys = match self.known(notary).await {
                Some(known) => known,
                None => match self.ask(notary, FETCH_TERMS).await {
                    Ok(fresh) => self.keep(notary, fresh).await,
                    Err(_) => continue,
                },
            };
            let keys: VerifyKeys = [(notary.clone(), notary_keys.verify_keys())].into();
            let now = self.clock.now_ms();
            for raw in response.server_keys.iter().take(MAX_NOTARY_SERVERS) {
                let text = raw.json().get();
                let countersigned = serde_json::from_str::<CanonicalJsonObject>(text)
                    .is_ok_and(|object| verify_json(&object, notary, &keys, Some(now)).is_ok());
                if countersigned && let Ok(known) = self.read(server, text) {
                    return Some(known);
                }
            }
        }
        None
    }

    /// Checks a key response: it is the server's, and signed with a key that it lists.
    fn read(&self, server: &ServerName, text: &str) -> Result<KnownKeys, String> {
        let object: CanonicalJsonObject =
            serde_json::from_str(text).map_err(|e| format!("not canonical JSON: {e}"))?;
        let typed: ServerSigningKeys = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if typed.server_name != server {
            return Err(format!("these are keys of {}", typed.server_name));
        }
        if typed.verify_keys.len() + typed.old_verify_keys.len() > MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} keys"));
        }
        let now = self.clock.now_ms();
        let valid_until_ts =
            u64::from(typed.valid_until_ts.get()).min(now.saturating_add(VALIDITY_CAP_MS));
        let current: BTreeMap<String, VerifyKey> = typed
            .verify_keys
            .iter()
            .filter(|(id, _)| id.as_str().starts_with("ed25519:"))
            .filter_map(|(id, key)| {
                Some((
                    id.to_string(),
                    VerifyKey::from_base64(&key.key.encode(), valid_until_ts)?,
                ))
            })
            .collect();
        let keys: VerifyKeys = [(server.to_owned(), current.clone())].into();
        verify_json(&object, server, &keys, None).map_err(|e| e.to_string())?;
        let old = typed.old_verify_keys.iter().filter_map(|(id, old)| {
            // A key that is said to expire in the future is not old.
            let until = u64::from(old.expired_ts.get()).min(now);
            Some((
                id.to_string(),
                VerifyKey::from_base64(&old.key.encode(), until)?,
            ))
        });
        // Current ones last: an id in both lists is current.
        let keys = old
            .chain(current)
            .map(|(id, k)| (id, (k.key, k.valid_until_ts)))
            .collect();
        Ok(KnownKeys {
            keys,
            fetched_ms: now,
            valid_until_ts,
            response: text.to_owned(),
        })
    }

    /// Stores what was fetched, beside keys known before that the server no longer lists: events signed
    /// with them while they were valid stay verifiable.
    async fn keep(&self, server: &ServerName, mut fresh: KnownKeys) -> Arc<KnownKeys> {
        if let Some(before) = self.known(server).await {
            for (id, known) in &before.keys {
                if fresh.keys.len() < MAX_KEYS {
                    fresh.keys.entry(id.clone()).or_insert(*known);
                }
            }
        }
        let mut write = Batch::new();
        write.put(&SERVER_KEYS, &server.to_string(), &fresh);
        // Nothing is promised to anyone here: a lost row is fetched again.
        if let Err(error) = self.store.commit(write).await {
            tracing::error!(%server, %error, "cannot keep the keys of a server");
        }
        let fresh = Arc::new(fresh);
        self.cache.insert(server.to_owned(), Arc::clone(&fresh));
        fresh
    }

    /// Answers `/_matrix/key/v2/query` for strangers, countersigned by us.
    ///
    /// `wanted` has for each server the time until which its keys should be valid and the key ids asked
    /// for (none: all). Nobody has to say who they are to ask this, so few fetches run at once and the
    /// servers' back-off is heeded; a server that can't be reached is answered from what we keep.
    ///
    /// # Errors
    /// When too many servers are asked for.
    pub async fn notarise(
        &self,
        wanted: Vec<Needed>,
    ) -> Result<Vec<Raw<ServerSigningKeys>>, FederationError> {
        if wanted.len() > MAX_NOTARY_SERVERS {
            let message = format!("at most {MAX_NOTARY_SERVERS} servers can be asked for at once");
            return Err(FederationError::invalid(message));
        }
        let answers = stream::iter(wanted)
            .map(|need| self.notarise_one(need))
            .buffered(4);
        let answers: Vec<_> = answers.collect().await;
        answers.into_iter().filter_map(Result::transpose).collect()
    }

    async fn notarise_one(
        &self,
        need: Needed,
    ) -> Result<Option<Raw<ServerSigningKeys>>, FederationError> {
        if need.server == self.origin {
            return self.published().map(Some);
        }
        let now = self.clock.now_ms();
        // "Intermediate notary servers should cache a response for half of its lifetime".
        let fresh = |known: &KnownKeys| {
            let life = known.valid_until_ts.saturating_sub(known.fetched_ms);
            now < known.fetched_ms.saturating_add(life / 2)
                // "If not supplied, the notary server MUST use the current time."
                && known.valid_until_ts >= need.at_ms.max(now)
                && need.key_ids.iter().all(|id| known.keys.contains_key(id))
        };
        let known = match self.known(&need.server).await {
            Some(known) if fresh(&known) => Some(known),
            stale => {
                let _permit = self.for_strangers.acquire().await;
                self.fetch(&need.server, true).await.or(stale)
            }
        };
        let Some(known) = known else { return Ok(None) };
        let object: CanonicalJsonObject = serde_json::from_str(&known.response)
            .map_err(|e| FederationError::Internal(e.to_string()))?;
        self.signed(object).map(Some)
    }

    fn signed(
        &self,
        mut object: CanonicalJsonObject,
    ) -> Result<Raw<ServerSigningKeys>, FederationError> {
        sign_json(&mut object, &self.origin, &self.key)
            .map_err(|e| FederationError::Internal(e.to_string()))?;
        let text =
            serde_json::to_string(&object).map_err(|e| FederationError::Internal(e.to_string()))?;
        Raw::from_json_string(text).map_err(|e| FederationError::Internal(e.to_string()))
    }
}
