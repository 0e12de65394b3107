//! The part of federation that needs no rooms: finding servers, talking to them, knowing who talks.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use ipnet::IpNet;
use resuni_dag::SigningKey;
use resuni_store::{SharedClock, Store};
use ruma::OwnedServerName;

use crate::{
    admission::{Admission, Mode},
    backoff::Backoff,
    client::Client,
    discovery::Discovery,
    incoming::Authenticator,
    keys::{Keys, OldKey},
    net::{Dialer, Dns, DnsError, Guard, Transport, WebClient, tls, web::HttpClient},
};

/// What the network half needs to know.
pub struct NetworkConfig {
    /// Our name.
    pub server_name: OwnedServerName,
    /// The key that requests and events are signed with.
    pub key: Arc<SigningKey>,
    /// Keys used before.
    pub old_keys: Vec<OldKey>,
    /// Servers that are asked for the keys of servers that don't answer (none by default).
    pub notaries: Vec<OwnedServerName>,
    /// Who may federate.
    pub mode: Mode,
    /// Where a name is, without discovery (`federation.destinations`).
    pub destinations: BTreeMap<OwnedServerName, SocketAddr>,
    /// Authorities trusted besides the system's (`federation.extra_ca_files`).
    pub extra_ca_files: Vec<PathBuf>,
    /// Addresses that no outgoing request reaches (`outbound.deny_ip_ranges`).
    pub deny_ip_ranges: Vec<IpNet>,
}

/// Why the network half could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The name servers are not known.
    #[error("cannot set up DNS: {0}")]
    Dns(#[from] DnsError),
    /// The trusted certificates are not known.
    #[error(transparent)]
    Tls(#[from] tls::TlsSetupError),
}

/// The parts, each usable alone.
pub struct Network {
    /// Who may federate.
    pub admission: Arc<Admission>,
    /// Who is left alone for a while.
    pub backoff: Arc<Backoff>,
    /// Where servers are.
    pub discovery: Arc<Discovery>,
    /// Signed requests.
    pub client: Arc<Client>,
    /// The key ring.
    pub keys: Arc<Keys>,
    /// Who sent an incoming request.
    pub authenticator: Authenticator,
    /// Guarded GET requests to any `https` address, for media behind a redirect and previews.
    pub web: Arc<WebClient>,
}

impl Network {
    /// Sets the parts up with the system's name servers.
    ///
    /// # Errors
    /// When the name servers or the certificates cannot be read.
    pub fn open(
        config: NetworkConfig,
        store: Store,
        clock: SharedClock,
    ) -> Result<Self, NetworkError> {
        Self::with_dns(config, Dns::system()?, store, clock)
    }

    /// As [`Network::open`], with given name servers.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub fn with_dns(
        config: NetworkConfig,
        dns: Dns,
        store: Store,
        clock: SharedClock,
    ) -> Result<Self, NetworkError> {
        let tls = tls::client_config(&config.extra_ca_files)?;
        Ok(Self::over(config, dns, tls, None, store, clock))
    }

    /// As [`Network::open`], with another way to other servers than HTTP over TLS. Pages of the web are
    /// out of reach.
    ///
    /// # Errors
    /// When the TLS library refuses even an empty configuration.
    pub fn with_transport(
        config: NetworkConfig,
        transport: Arc<dyn Transport>,
        store: Store,
        clock: SharedClock,
    ) -> Result<Self, NetworkError> {
        let (dns, tls) = (Dns::nobody()?, tls::trusting_nobody()?);
        Ok(Self::over(config, dns, tls, Some(transport), store, clock))
    }

    fn over(
        config: NetworkConfig,
        dns: Dns,
        tls: Arc<rustls::ClientConfig>,
        transport: Option<Arc<dyn Transport>>,
        store: Store,
        clock: SharedClock,
    ) -> Self {
        let NetworkConfig {
            server_name,
            key,
            old_keys,
            notaries,
            ..
        } = config;
        let dialer = Dialer::new(Guard::new(config.deny_ip_ranges), tls);
        let web = || WebClient::new(dialer.clone(), dns.clone());
        let discovery = Discovery::new(config.destinations, dns.clone(), web(), Arc::clone(&clock));
        let backoff = Arc::new(Backoff::new(Arc::clone(&clock)));
        let admission = Arc::new(Admission::new(server_name.clone(), config.mode));
        let transport = transport
            .unwrap_or_else(|| Arc::new(HttpClient::new(dialer.clone(), Arc::clone(&discovery))));
        let client = Arc::new(Client::new(
            server_name.clone(),
            Arc::clone(&key),
            transport,
            Arc::clone(&discovery),
            Arc::clone(&backoff),
            Arc::clone(&admission),
        ));
        let keys = Arc::new(Keys::new(
            server_name.clone(),
            key,
            old_keys,
            notaries,
            Arc::clone(&client),
            store,
            Arc::clone(&clock),
        ));
        let authenticator = Authenticator::new(
            server_name,
            Arc::clone(&keys),
            Arc::clone(&admission),
            Arc::clone(&backoff),
            clock,
        );
        Self {
            admission,
            backoff,
            discovery,
            client,
            keys,
            authenticator,
            web: Arc::new(web()),
        }
    }
}

/// A guarded client for `https` addresses that people name, where federation itself may be off.
///
/// # Errors
/// When the name servers or the certificates cannot be read.
pub fn web_client(
    deny_ip_ranges: Vec<IpNet>,
    extra_ca_files: &[PathBuf],
) -> Result<WebClient, NetworkError> {
    let tls = tls::client_config(extra_ca_files)?;
    let dialer = Dialer::new(Guard::new(deny_ip_ranges), tls);
    Ok(WebClient::new(dialer, Dns::system()?))
}
