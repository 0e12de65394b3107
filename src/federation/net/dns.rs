//! Names to addresses and service records.

use std::{net::IpAddr, time::Duration};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData},
};

/// How long one question may take. The resolver asks twice, so a name server that does not answer
/// costs at most twice this.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// A name without an answer is not asked for again within this time.
const NEGATIVE_MIN_TTL: Duration = Duration::from_secs(30);
/// How many addresses or service targets of one answer are looked at.
const MAX_RECORDS: usize = 16;

/// Why a name could not be resolved.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DnsError {
    /// The name exists in no zone, or has no record of the kind asked for.
    #[error("{0} has no such DNS record")]
    NoRecord(String),
    /// The name server did not answer or answered with an error.
    #[error("DNS look-up of {name} failed: {reason}")]
    Failed {
        /// The name asked for.
        name: String,
        /// What the resolver said.
        reason: String,
    },
}

/// A stub resolver over the system's name servers and hosts file.
#[derive(Clone)]
pub struct Dns {
    resolver: TokioResolver,
}

impl Dns {
    /// A resolver that asks the name servers of `/etc/resolv.conf`.
    ///
    /// # Errors
    /// When the system's resolver configuration cannot be read.
    pub fn system() -> Result<Self, DnsError> {
        let (config, _options) =
            hickory_resolver::system_conf::read_system_conf().map_err(|e| failed("system", &e))?;
        // Search domains are not for server names: each is a full name.
        let (_domain, _search, name_servers) = config.into_parts();
        Self::with_config(ResolverConfig::from_name_servers(name_servers))
    }

    /// A resolver that asks nobody: it knows this machine only.
    ///
    /// # Errors
    /// When the resolver cannot be built.
    pub fn nobody() -> Result<Self, DnsError> {
        Self::with_config(ResolverConfig::from_name_servers(Vec::new()))
    }

    /// A resolver that asks the given name servers.
    ///
    /// # Errors
    /// When the resolver cannot be built from the configuration.
    pub fn with_config(config: ResolverConfig) -> Result<Self, DnsError> {
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.timeout = QUERY_TIMEOUT;
        options.attempts = 1;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.negative_min_ttl = Some(NEGATIVE_MIN_TTL);
        let resolver = builder.build().map_err(|e| failed("system", &e))?;
        Ok(Self { resolver })
    }

    /// The addresses of `host` (CNAME, A and AAAA records).
    ///
    /// # Errors
    /// [`DnsError::NoRecord`] when there is none, [`DnsError::Failed`] when it could not be found out.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        // RFC 6761: these names mean this machine and are never asked for over the network.
        if is_localhost(host) {
            return Ok(vec![
                IpAddr::from([127, 0, 0, 1]),
                std::net::Ipv6Addr::LOCALHOST.into(),
            ]);
        }
        let answer = self
            .resolver
            .lookup_ip(fqdn(host)?)
            .await
            .map_err(|e| from_net(host, &e))?;
        let found: Vec<_> = answer.iter().take(MAX_RECORDS).collect();
        if found.is_empty() {
            Err(DnsError::NoRecord(host.to_owned()))
        } else {
            Ok(found)
        }
    }

    /// The targets of a service record, in the order in which they are to be tried (RFC 2782).
    ///
    /// # Errors
    /// [`DnsError::NoRecord`] when there is none, [`DnsError::Failed`] when it could not be found out.
    pub async fn service(&self, name: &str) -> Result<Vec<(String, u16)>, DnsError> {
        let answer = self
            .resolver
            .srv_lookup(fqdn(name)?)
            .await
            .map_err(|e| from_net(name, &e))?;
        let mut records: Vec<_> = answer
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(srv),
                _ => None,
            })
            .take(MAX_RECORDS)
            .collect();
        if records.is_empty() {
            return Err(DnsError::NoRecord(name.to_owned()));
        }
        // Lowest priority first; within one, at random in proportion to the weight (a weight of 0 has
        // a small chance, as the RFC asks).
        records.sort_by_cached_key(|srv| {
            let share: f64 = rand::random::<f64>().max(f64::MIN_POSITIVE);
            let key = -share.ln() / (f64::from(srv.weight) + 0.01);
            (srv.priority, key.to_bits())
        });
        Ok(records
            .into_iter()
            // A target of "." says that the service is not offered here.
            .filter(|srv| !srv.target.is_root())
            .map(|srv| {
                (
                    srv.target.to_utf8().trim_end_matches('.').to_owned(),
                    srv.port,
                )
            })
            .collect())
    }
}

fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

fn fqdn(host: &str) -> Result<Name, DnsError> {
    let mut name = Name::from_ascii(host).map_err(|e| failed(host, &e))?;
    name.set_fqdn(true);
    Ok(name)
}

fn from_net(name: &str, error: &NetError) -> DnsError {
    if error.is_no_records_found() || error.is_nx_domain() {
        DnsError::NoRecord(name.to_owned())
    } else {
        failed(name, error)
    }
}

fn failed(name: &str, error: &dyn std::fmt::Display) -> DnsError {
    DnsError::Failed {
        name: name.to_owned(),
        reason: error.to_string(),
    }
}
