//! From a server name to the addresses to connect to: server-server API, "Resolving server names".
//!
//! The six steps fall into two functions. *Delegation* turns a server name into the name that its
//! `.well-known` file delegates to, or into itself. *Location* turns that name into addresses, by the
//! same rules whether it was delegated (steps 3.1–3.5) or not (1, 2, 4–6). The outcome of the first is
//! the authority of the request: it is the `Host` header, its host part is what the certificate must be
//! for and what is sent as SNI, and it is the key of the connection pool.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, Uri, header};
use parking_lot::Mutex;
use resuni_store::SharedClock;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use crate::net::{DialError, Dns, DnsError, WebClient, web::Locate};

/// The port of a server that names none.
const DEFAULT_PORT: u16 = 8448;
/// How many bytes of a `.well-known` file are read.
const WELL_KNOWN_MAX_BYTES: usize = 50 * 1024;
/// How long a `.well-known` file may take, redirects included.
const WELL_KNOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Life of a `.well-known` answer without cache headers (spec: 24 hours).
const WELL_KNOWN_DEFAULT_MS: u64 = 24 * 3_600_000;
/// Longest life of an answer, whatever its headers say (spec: 48 hours).
const WELL_KNOWN_MAX_MS: u64 = 48 * 3_600_000;
/// Shortest life of an answer, so that `no-cache` does not mean one request per request.
const WELL_KNOWN_MIN_MS: u64 = 5 * 60_000;
/// Life of the first failure; it doubles with each further one (spec: exponential back-off) …
const FAILURE_FIRST_MS: u64 = 60_000;
/// … up to an hour.
const FAILURE_MAX_MS: u64 = 3_600_000;
/// How many names are remembered. When full, the whole is forgotten and found out again.
const CACHE_CAPACITY: usize = 10_000;

/// Finds servers.
pub struct Discovery {
    overrides: BTreeMap<OwnedServerName, SocketAddr>,
    dns: Dns,
    web: WebClient,
    clock: SharedClock,
    cache: Mutex<HashMap<OwnedServerName, Cached>>,
}

#[derive(Clone)]
struct Cached {
    /// What the name delegates to; `None` when it has no (valid) `.well-known` file.
    delegated: Option<OwnedServerName>,
    expires_ms: u64,
    failures: u32,
}

impl Discovery {
    /// `overrides` is `federation.destinations`: names whose address is known without discovery. The
    /// `Host` header, SNI and certificate check stay those of the name.
    #[must_use]
    pub fn new(
        overrides: BTreeMap<OwnedServerName, SocketAddr>,
        dns: Dns,
        web: WebClient,
        clock: SharedClock,
    ) -> Arc<Self> {
        Arc::new(Self {
            overrides,
            dns,
            web,
            clock,
            cache: Mutex::default(),
        })
    }

    /// The name that requests to `server` are made with (steps 1–3 up to the file's content).
    pub async fn delegate(&self, server: &ServerName) -> OwnedServerName {
        if server.is_ip_literal() || server.port().is_some() || self.overrides.contains_key(server)
        {
            return server.to_owned();
        }
        let now = self.clock.now_ms();
        let known = self.cache.lock().get(server).cloned();
        let known = match known {
            Some(cached) if cached.expires_ms > now => cached,
            stale => self.ask(server, stale, now).await,
        };
        known.delegated.unwrap_or_else(|| server.to_owned())
    }

    /// Forgets what is known of `server`: its connections fail, so it may have moved.
    pub fn forget(&self, server: &ServerName) {
        let mut cache = self.cache.lock();
        if cache
            .get(server)
            .is_some_and(|cached| cached.delegated.is_some())
        {
            cache.remove(server);
        }
    }

    async fn ask(&self, server: &ServerName, stale: Option<Cached>, now: u64) -> Cached {
        let cached = match self.well_known(server).await {
            Ok((delegated, life_ms)) => Cached {
                delegated: Some(delegated),
                expires_ms: now.saturating_add(life_ms),
                failures: 0,
            },
            Err(reason) => {
                let failures = stale.as_ref().map_or(0, |s| s.failures).saturating_add(1);
                tracing::debug!(%server, reason, "no delegation by .well-known");
                let life = FAILURE_FIRST_MS << (failures - 1).min(6);
                Cached {
                    // A file that was valid before outlives a passing failure, so that a web server's
                    // bad hour does not look like the name having moved.
                    delegated: stale.filter(|_| failures == 1).and_then(|s| s.delegated),
                    expires_ms: now.saturating_add(life.min(FAILURE_MAX_MS)),
                    failures,
                }
            }
        };
        let mut cache = self.cache.lock();
        if cache.len() >= CACHE_CAPACITY && !cache.contains_key(server) {
            cache.clear();
        }
        cache.insert(server.to_owned(), cached.clone());
        cached
    }

    async fn well_known(&self, server: &ServerName) -> Result<(OwnedServerName, u64), String> {
        #[derive(Deserialize)]
        struct WellKnown {
            #[serde(rename = "m.server")]
            server: OwnedServerName,
        }
        let address = format!("https://{}/.well-known/matrix/server", server.host());
        let answer = self
            .web
            .get(&address, WELL_KNOWN_TIMEOUT, WELL_KNOWN_MAX_BYTES)
            .await
            .map_err(|e| e.to_string())?;
        if answer.status != http::StatusCode::OK {
            return Err(format!("status {}", answer.status));
        }
        let found: WellKnown = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
        Ok((found.server, life_ms(&answer.headers)))
    }

    async fn find(&self, name: &ServerName) -> Result<Vec<SocketAddr>, DialError> {
        if let Some(address) = self.overrides.get(name) {
            return Ok(vec![*address]);
        }
        let host = bare_host(name);
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(
                ip,
                name.port().unwrap_or(DEFAULT_PORT),
            )]);
        }
        if let Some(port) = name.port() {
            return self
                .resolve(host, port)
                .await
                .map_err(|e| dial_error(name, &e));
        }
        for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
            match self.dns.service(&format!("{service}.{host}")).await {
                Ok(targets) => return self.resolve_all(name, targets).await,
                Err(DnsError::NoRecord(_)) => {}
                // Without an answer there is no telling whether the record exists. Going on to port
                // 8448 would reach a server that the operator may have moved away from.
                Err(e @ DnsError::Failed { .. }) => return Err(dial_error(name, &e)),
            }
        }
        self.resolve(host, DEFAULT_PORT)
            .await
            .map_err(|e| dial_error(name, &e))
    }

    async fn resolve_all(
        &self,
        name: &ServerName,
        targets: Vec<(String, u16)>,
    ) -> Result<Vec<SocketAddr>, DialError> {
        let mut found = Vec::new();
        let mut reason = None;
        for (target, port) in targets {
            match self.resolve(&target, port).await {
                Ok(addresses) => found.extend(addresses),
                Err(e) => reason = Some(e),
            }
        }
        match (found.is_empty(), reason) {
            (false, _) => Ok(found),
            (true, Some(e)) => Err(dial_error(name, &e)),
            (true, None) => Err(DialError::NoAddress(name.to_string())),
        }
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, DnsError> {
        let addresses = self.dns.addresses(host).await?;
        Ok(addresses
            .into_iter()
            .map(|ip| SocketAddr::new(ip, port))
            .collect())
    }
}

impl Locate for Discovery {
    async fn locate(&self, uri: &Uri) -> Result<(String, Vec<SocketAddr>), DialError> {
        let authority = uri.authority().map_or("", |a| a.as_str());
        let name = <&ServerName>::try_from(authority)
            .map_err(|_| DialError::NoAddress(authority.to_owned()))?;
        let addresses = self.find(name).await?;
        Ok((bare_host(name).to_owned(), addresses))
    }
}

/// The host without port and without the brackets of an IPv6 literal.
fn bare_host(name: &ServerName) -> &str {
    name.host().trim_matches(['[', ']'])
}

fn dial_error(name: &ServerName, error: &DnsError) -> DialError {
    DialError::Connect {
        name: name.to_string(),
        reason: error.to_string(),
    }
}

/// How long an answer may be kept: `Cache-Control` before `Expires` (RFC 9111), within our bounds.
fn life_ms(headers: &HeaderMap) -> u64 {
    let control = headers
        .get(header::CACHE_CONTROL)
        .and_then(|v| v.to_str().ok());
    let asked = control.and_then(|value| {
        value.split(',').map(str::trim).find_map(|directive| {
            if directive.eq_ignore_ascii_case("no-store")
                || directive.eq_ignore_ascii_case("no-cache")
            {
                return Some(0);
            }
            let (name, seconds) = directive.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("max-age")
                .then(|| seconds.trim().trim_matches('"').parse::<u64>().ok())?
        })
    });
    let ms = asked.map_or(WELL_KNOWN_DEFAULT_MS, |seconds| {
        seconds.saturating_mul(1000)
    });
    ms.clamp(WELL_KNOWN_MIN_MS, WELL_KNOWN_MAX_MS)
}

#[cfg(test)]
mod tests;
