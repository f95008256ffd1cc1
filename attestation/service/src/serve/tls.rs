//! The service's own identity: TLS 1.3 with a certificate that is replaced while it runs, by somebody's new files or by the
//! verifier's own authority after two thirds of its time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use coffer_attestation::time::UnixTime;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, version};

use crate::authority::{Authority, AuthorityError, Subject};

/// The certificate that connections see.
#[derive(Debug)]
pub struct Certificates {
    source: Source,
    current: RwLock<Arc<CertifiedKey>>,
}

#[derive(Debug)]
enum Source {
    /// Certificate and key in PEM.
    Files([PathBuf; 2]),
    Own(Own),
}

#[derive(Debug)]
struct Own {
    authority: Arc<Authority>,
    names: Vec<String>,
    /// Seconds.
    lifetime: u64,
    /// When the current one is to be replaced.
    due: Mutex<UnixTime>,
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
    #[error("nobody is named who could sign an operator's certificate")]
    Operators(#[source] VerifierBuilderError),
    /// The verifier's own authority.
    #[error("the verifier's own authority cannot be used")]
    Authority(#[from] AuthorityError),
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
        Ok(Self { source: Source::Files(files), current })
    }

    /// Has `authority` sign for `names`, for so many seconds each time.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn own(
        authority: Arc<Authority>,
        names: Vec<String>,
        lifetime: u64,
        now: UnixTime,
    ) -> Result<Self, TlsError> {
        let own = Own { authority, names, lifetime, due: Mutex::new(now) };
        let current = RwLock::new(Arc::new(own.sign(now)?));
        Ok(Self { source: Source::Own(own), current })
    }

    /// Reads both files again; connections that begin afterwards see the new ones. On an error nothing changes.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn reload(&self) -> Result<(), TlsError> {
        if let Source::Files(files) = &self.source {
            self.show(read(files)?);
        }
        Ok(())
    }

    /// Replaces a certificate of the verifier's own authority if two thirds of its time have passed. Answers whether it did.
    /// Connections that are open stay so.
    ///
    /// # Errors
    /// [`TlsError`]; then nothing changes.
    pub fn renew(&self, now: UnixTime) -> Result<bool, TlsError> {
        match &self.source {
            Source::Own(own) if now >= *own.due() => {
                self.show(own.sign(now)?);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The certificate of the verifier's own authority, in PEM.
    pub fn authority(&self) -> Option<String> {
        match &self.source {
            Source::Own(own) => Some(own.authority.pem().to_owned()),
            Source::Files(_) => None,
        }
    }

    fn show(&self, anew: CertifiedKey) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(anew);
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
        let mut believed = operators.map(chain).transpose()?.unwrap_or_default();
        believed.extend(self.authority().iter().flat_map(|pem| {
            // Written by this program: one certificate.
            CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().collect::<Vec<_>>()
        }));
        let clients = if believed.is_empty() {
            versions.with_no_client_auth()
        } else {
            versions.with_client_cert_verifier(verifier(believed)?)
        };
        let mut config = clients.with_cert_resolver(resolver);
        // Nothing is kept for clients that may come back: each connection is checked anew.
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl Own {
    fn sign(&self, now: UnixTime) -> Result<CertifiedKey, TlsError> {
        let issued = self.authority.issue(Subject::Server(&self.names), now, self.lifetime)?;
        let pair = pair(issued.certificate.as_bytes(), issued.key.as_bytes(), Path::new("authority.key"))?;
        *self.due() = issued.due();
        Ok(pair)
    }

    fn due(&self) -> MutexGuard<'_, UnixTime> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Checks certificates that are shown, and asks for none.
fn verifier(believed: Vec<CertificateDer<'static>>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in believed {
        roots.add(certificate).map_err(TlsError::Pair)?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    verifier.allow_unauthenticated().build().map_err(TlsError::Operators)
}

fn bytes(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes(path)?).collect();
    chain.map_err(|source| TlsError::Pem { path: path.to_owned(), source })
}

fn read([certificate, key]: &[PathBuf; 2]) -> Result<CertifiedKey, TlsError> {
    pair(&bytes(certificate)?, &bytes(key)?, key)
}

fn pair(certificate: &[u8], key: &[u8], path: &Path) -> Result<CertifiedKey, TlsError> {
    let pem = |source| TlsError::Pem { path: path.to_owned(), source };
    let private = PrivateKeyDer::from_pem_slice(key).map_err(pem)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    CertifiedKey::from_der(chain.map_err(pem)?, private, &aws_lc_rs::default_provider())
        .map_err(TlsError::Pair)
}
