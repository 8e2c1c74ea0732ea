//! TLS by rustls, with a certificate that can be changed while the service runs.

use crate::{Error, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// A certificate with its key, from files.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// From a file of certificates, the service's own first, and a file of its key, both
    /// PEM.
    ///
    /// # Errors
    /// A file cannot be read, holds no such thing, or the two do not belong together.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self> {
        Ok(Self {
            config: RwLock::new(Arc::new(read(certificate, key)?)),
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        })
    }

    /// Reads the files again; connections from now on have what they hold.
    ///
    /// # Errors
    /// Those of [`Tls::open`]; what was in use stays so.
    pub fn reload(&self) -> Result<()> {
        let config = Arc::new(read(&self.certificate, &self.key)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        let config = self.config.read();
        config.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<ServerConfig> {
    const REMEDY: &str = "name a PEM file that this user can read";
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|e| Error::file(certificate, e, REMEDY))?;
    if chain.is_empty() {
        return Err(Error::file(certificate, "holds no certificate", REMEDY));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| Error::file(key, e, REMEDY))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let remedy = "name the key of that certificate";
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|config| config.with_no_client_auth())
        .and_then(|config| config.with_single_cert(chain, secret))
        .map_err(|e| Error::file(key, e, remedy))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
