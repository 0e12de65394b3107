//! A private certificate authority for the servers of one run.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// An authority and the one certificate it has given out: for 127.0.0.1 and localhost.
#[derive(Clone, Debug)]
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// Makes both and writes them, PEM, into `folder`.
    pub fn create(folder: &Path) -> anyhow::Result<Self> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name
            .push(DnType::CommonName, "Resuni test authority");
        let ca_cert = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut leaf = CertificateParams::new(names)?;
        // A subject equal to the issuer's would look self-signed to OpenSSL.
        leaf.distinguished_name
            .push(DnType::CommonName, "127.0.0.1");
        leaf.use_authority_key_identifier_extension = true;
        let cert = leaf.signed_by(&key, &issuer)?;
        let authority = Self {
            folder: std::path::absolute(folder)?,
        };
        let write = |path: PathBuf, text: String| {
            std::fs::write(&path, text)
                .with_context(|| format!("{} can't be written", path.display()))
        };
        write(authority.root(), ca_cert.pem())?;
        write(authority.certificate(), cert.pem())?;
        write(authority.private_key(), key.serialize_pem())?;
        Ok(authority)
    }

    /// The authority's own certificate: what others must trust.
    pub fn root(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// The servers' certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("tls.crt")
    }

    /// The key of the servers' certificate.
    pub fn private_key(&self) -> PathBuf {
        self.folder.join("tls.key")
    }
}
