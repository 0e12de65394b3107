//! Whom outgoing TLS connections trust.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Why the trusted certificates could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A file of `federation.extra_ca_files` could not be read as PEM certificates.
    #[error("cannot read the CA file {path}: {reason}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The TLS library refused the configuration.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A client configuration that trusts the system's authorities and those in `extra_ca_files`.
///
/// `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the system's, as they do for OpenSSL. HTTP/2 is offered
/// first, then HTTP/1.1.
///
/// # Errors
/// When an extra file is unreadable. A broken certificate among the system's is only logged.
pub fn client_config(extra_ca_files: &[PathBuf]) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "could not load some of the system's certificate authorities");
    }
    let (_added, ignored) = roots.add_parsable_certificates(native.certs);
    if ignored > 0 {
        tracing::warn!(
            ignored,
            "some of the system's certificate authorities are malformed"
        );
    }
    for path in extra_ca_files {
        let failed = |reason: String| TlsSetupError::CaFile {
            path: path.clone(),
            reason,
        };
        let mut found = 0_usize;
        for cert in CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))? {
            roots
                .add(cert.map_err(|e| failed(e.to_string()))?)
                .map_err(|e| failed(e.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(failed("it holds no certificate".to_owned()));
        }
    }
    if roots.is_empty() {
        tracing::warn!("no certificate authority is trusted: no other server can be reached");
    }
    trusting(roots)
}

/// A client configuration that no certificate passes.
///
/// # Errors
/// When the TLS library refuses it.
pub fn trusting_nobody() -> Result<Arc<ClientConfig>, TlsSetupError> {
    trusting(RootCertStore::empty())
}

fn trusting(roots: RootCertStore) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
