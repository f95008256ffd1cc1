//! The service's own identity: TLS 1.3 with a certificate that can be replaced while it runs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, version};

/// Certificate and key from two files in PEM.
#[derive(Debug)]
pub struct Certificates {
    files: [PathBuf; 2],
    current: RwLock<Arc<CertifiedKey>>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("{path:?} cannot be read")]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not PEM of the right kind.
    #[error("{path:?} is no certificate chain or key in PEM")]
    Pem {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// No certificate that could sign an operator's.
    #[error("{path:?} names nobody who could sign an operator's certificate")]
    Operators {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        source: VerifierBuilderError,
    },
    /// Certificate and key do not belong together, or cannot be used.
    #[error("certificate and key cannot be used together")]
    Pair(#[source] rustls::Error),
}

impl Certificates {
    /// Reads both files.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let files = [certificate.to_owned(), key.to_owned()];
        let current = RwLock::new(Arc::new(read(&files)?));
        Ok(Self { files, current })
    }

    /// Reads both files again; connections that begin afterwards see the new ones. On an error nothing changes.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn reload(&self) -> Result<(), TlsError> {
        let anew = Arc::new(read(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = anew;
        Ok(())
    }

    /// TLS 1.3 and HTTP/1.1 with these. `operators` is a file of the certificates that may sign those of operators; a
    /// client need not show one, and one that shows another is turned away.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn config(self: &Arc<Self>, operators: Option<&Path>) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions =
            ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS13]);
        let resolver: Arc<dyn ResolvesServerCert> = self.clone();
        let versions = versions.map_err(TlsError::Pair)?;
        let clients = match operators {
            Some(path) => versions.with_client_cert_verifier(verifier(path)?),
            None => versions.with_no_client_auth(),
        };
        let mut config = clients.with_cert_resolver(resolver);
        // Nothing is kept for clients that may come back: each connection is checked anew.
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Checks certificates that are shown, and asks for none.
fn verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        roots.add(certificate).map_err(TlsError::Pair)?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    verifier
        .allow_unauthenticated()
        .build()
        .map_err(|source| TlsError::Operators { path: path.to_owned(), source })
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes(path)?).collect();
    chain.map_err(|source| TlsError::Pem { path: path.to_owned(), source })
}

fn read([certificate, key]: &[PathBuf; 2]) -> Result<CertifiedKey, TlsError> {
    let private = PrivateKeyDer::from_pem_slice(&bytes(key)?);
    let private = private.map_err(|source| TlsError::Pem { path: key.clone(), source })?;
    CertifiedKey::from_der(chain(certificate)?, private, &aws_lc_rs::default_provider())
        .map_err(TlsError::Pair)
}
