//! Opening guarded TLS connections.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Guard;

/// How long one address may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// When an address has not answered within this time, the next is tried beside it (RFC 8305).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Every address of the name lies in a range that may not be reached.
    #[error("{0} is at an address that outgoing requests may not reach (outbound.deny_ip_ranges)")]
    Denied(String),
    /// The name has no address.
    #[error("{0} has no address")]
    NoAddress(String),
    /// No address accepted a connection.
    #[error("cannot connect to {name}: {reason}")]
    Connect {
        /// The name or address dialled.
        name: String,
        /// What the last attempt said.
        reason: String,
    },
    /// The TLS handshake failed; most often the certificate is not valid for the name.
    #[error("TLS with {name} failed: {reason}")]
    Tls {
        /// The name the certificate was expected for.
        name: String,
        /// What the TLS library said.
        reason: String,
    },
}

/// Opens TLS connections to addresses that the [`Guard`] allows.
#[derive(Clone)]
pub struct Dialer {
    guard: Guard,
    tls: Arc<ClientConfig>,
}

impl Dialer {
    /// A dialer that checks each address with `guard` and each certificate with `tls`.
    #[must_use]
    pub fn new(guard: Guard, tls: Arc<ClientConfig>) -> Self {
        Self { guard, tls }
    }

    /// Connects to the first of `addresses` that answers and makes sure that it is `host`.
    ///
    /// `host` is what the certificate must be for: a DNS name, which is also sent as SNI, or an IP
    /// literal without brackets, for which no SNI is sent (server-server API, "TLS").
    ///
    /// # Errors
    /// [`DialError`]; addresses that may not be reached are skipped before a packet is sent.
    pub async fn dial(
        &self,
        host: &str,
        addresses: &[SocketAddr],
    ) -> Result<TlsStream<TcpStream>, DialError> {
        let tcp = self.tcp(host, addresses).await?;
        let tls_error = |reason: String| DialError::Tls {
            name: host.to_owned(),
            reason,
        };
        let name = match host.parse::<IpAddr>() {
            Ok(ip) => ServerName::from(ip),
            Err(_) => {
                ServerName::try_from(host.to_owned()).map_err(|e| tls_error(e.to_string()))?
            }
        };
        let handshake = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp);
        match time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(e)) => Err(tls_error(e.to_string())),
            Err(_) => Err(tls_error("the handshake took too long".to_owned())),
        }
    }

    /// Connects to the first of `addresses` that answers, without TLS: nobody makes sure who it is.
    ///
    /// # Errors
    /// [`DialError`]; addresses that may not be reached are skipped before a packet is sent.
    pub async fn tcp(&self, host: &str, addresses: &[SocketAddr]) -> Result<TcpStream, DialError> {
        if addresses.is_empty() {
            return Err(DialError::NoAddress(host.to_owned()));
        }
        let mut left = addresses
            .iter()
            .copied()
            .filter(|address| self.guard.allows(address.ip()))
            .peekable();
        if left.peek().is_none() {
            return Err(DialError::Denied(host.to_owned()));
        }
        let mut trying = FuturesUnordered::new();
        let mut reason = String::from("no address answered");
        loop {
            if let Some(address) = left.next() {
                trying.push(connect(address));
            } else if trying.is_empty() {
                return Err(DialError::Connect {
                    name: host.to_owned(),
                    reason,
                });
            }
            let patience = if left.peek().is_some() {
                NEXT_ADDRESS_AFTER
            } else {
                CONNECT_TIMEOUT
            };
            match time::timeout(patience, trying.next()).await {
                Ok(Some(Ok(stream))) => return Ok(stream),
                Ok(Some(Err(e))) => reason = e,
                Ok(None) | Err(_) => {}
            }
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    match time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // Small requests and answers: latency matters more than the number of packets.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(e)) => Err(format!("{address}: {e}")),
        Err(_) => Err(format!(
            "{address}: no answer within {} s",
            CONNECT_TIMEOUT.as_secs()
        )),
    }
}
