//! One question over HTTPS: bounded in time and in bytes, and redirected by nobody.

use std::fmt::{self, Display};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use axum::http::{HeaderMap, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Header lines of an answer, in bytes: Intel's hold two certificates.
const HEADER_BYTES: usize = 64 << 10;

/// A service: `https://HOST` or `https://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    host: String,
    port: u16,
}

/// Not where a service could be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no service: write https://HOST or https://HOST:PORT")]
pub struct OriginError {
    /// What was found.
    pub found: String,
}

/// Asks.
#[derive(Clone)]
pub struct Https {
    connector: TlsConnector,
    timeout: Duration,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) body: Vec<u8>,
    pub(crate) headers: HeaderMap,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// Nobody is there, or not one whose certificate is good.
    #[error("{origin} cannot be reached")]
    Connect {
        /// Whom.
        origin: Origin,
        /// What the system or TLS said.
        source: std::io::Error,
    },
    /// It speaks something else.
    #[error("{origin} does not speak HTTP")]
    Http {
        /// Who.
        origin: Origin,
        /// What is wrong.
        source: hyper::Error,
    },
    /// Another status than 200; a redirection is one too.
    #[error("{origin} answered with status {status}")]
    Status {
        /// Who.
        origin: Origin,
        /// The status.
        status: u16,
        /// How long it wants to be left alone, in seconds.
        wait: Option<u64>,
    },
    /// More than such an answer has.
    #[error("{origin} answered with more than {limit} bytes")]
    TooLong {
        /// Who.
        origin: Origin,
        /// How many may be read.
        limit: usize,
    },
    /// It took too long.
    #[error("{origin} did not answer in {} seconds", timeout.as_secs())]
    Timeout {
        /// Who.
        origin: Origin,
        /// How long was waited.
        timeout: Duration,
    },
    /// Certificates of authorities.
    #[error("the certificates of authorities cannot be used")]
    Authorities(#[source] pem::Error),
    /// One of them.
    #[error("TLS cannot be used")]
    Tls(#[source] rustls::Error),
}

impl GetError {
    /// Whether the same question may be answered later: the service is away, busy or broken.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            GetError::Connect { .. } | GetError::Http { .. } | GetError::Timeout { .. } => true,
            GetError::Status { status, .. } => *status == 429 || *status >= 500,
            GetError::TooLong { .. } | GetError::Authorities(_) | GetError::Tls(_) => false,
        }
    }

    /// How long the service wants to be left alone, in seconds.
    pub(super) fn wait(&self) -> Option<u64> {
        match self {
            GetError::Status { wait, .. } => *wait,
            _ => None,
        }
    }
}

impl Https {
    /// Believes servers below the certificates in `authorities`, a file in PEM.
    ///
    /// # Errors
    /// [`GetError::Authorities`], [`GetError::Tls`]
    pub fn new(authorities: &Path, timeout: Duration) -> Result<Self, GetError> {
        let mut roots = RootCertStore::empty();
        let all: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(authorities).and_then(|certificates| certificates.collect());
        // A system's file may hold certificates that this TLS does not take.
        roots.add_parsable_certificates(all.map_err(GetError::Authorities)?);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = versions.map_err(GetError::Tls)?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), timeout })
    }

    /// Asks `origin` for `path`, and reads at most `limit` bytes of an answer of status 200.
    pub(crate) async fn get(&self, origin: &Origin, path: &str, limit: usize) -> Result<Got, GetError> {
        self.bounded(origin, Request::get(path).body(Full::default()), limit).await
    }

    /// Sends JSON to `path` of `origin`, and reads at most `limit` bytes of an answer of status 200.
    pub(crate) async fn post(
        &self,
        origin: &Origin,
        path: &str,
        json: Vec<u8>,
        limit: usize,
    ) -> Result<Got, GetError> {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        self.bounded(origin, request.body(Full::from(json)), limit).await
    }

    async fn bounded(
        &self,
        origin: &Origin,
        request: Result<Request<Full<Bytes>>, axum::http::Error>,
        limit: usize,
    ) -> Result<Got, GetError> {
        let asked = tokio::time::timeout(self.timeout, self.ask(origin, request, limit));
        asked
            .await
            .unwrap_or_else(|_| Err(GetError::Timeout { origin: origin.clone(), timeout: self.timeout }))
    }

    async fn ask(
        &self,
        origin: &Origin,
        request: Result<Request<Full<Bytes>>, axum::http::Error>,
        limit: usize,
    ) -> Result<Got, GetError> {
        let connect = |source| GetError::Connect { origin: origin.clone(), source };
        let http = |source| GetError::Http { origin: origin.clone(), source };
        let name = ServerName::try_from(origin.host.clone())
            .map_err(|error| connect(std::io::Error::other(error)))?;
        let stream = TcpStream::connect((origin.host.as_str(), origin.port)).await.map_err(connect)?;
        let stream = self.connector.connect(name, stream).await.map_err(connect)?;
        let mut client = http1::Builder::new();
        client.max_buf_size(HEADER_BYTES);
        let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(http)?;
        let mut request = request.map_err(|error| connect(std::io::Error::other(error)))?;
        let host = HeaderValue::from_str(origin.to_string().trim_start_matches("https://"));
        let host = host.map_err(|error| connect(std::io::Error::other(error)))?;
        let headers = request.headers_mut();
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, HeaderValue::from_static("coffer-verifier"));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        let connection = async {
            // Its end is the answer's end, or an error that reading the answer meets too.
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        let answer = async { read(origin, sender.send_request(request).await.map_err(http)?, limit).await };
        tokio::select! {
            answer = answer => answer,
            () = connection => Err(GetError::Timeout { origin: origin.clone(), timeout: self.timeout }),
        }
    }
}

async fn read(origin: &Origin, answer: Response<Incoming>, limit: usize) -> Result<Got, GetError> {
    let status = answer.status().as_u16();
    let headers = answer.headers().clone();
    if status != 200 {
        let wait = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        return Err(GetError::Status { origin: origin.clone(), status, wait });
    }
    let (mut incoming, mut body) = (answer.into_body(), Vec::new());
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|source| GetError::Http { origin: origin.clone(), source })?;
        let Ok(data) = frame.into_data() else { continue };
        if body.len() + data.len() > limit {
            return Err(GetError::TooLong { origin: origin.clone(), limit });
        }
        body.extend_from_slice(&data);
    }
    Ok(Got { body, headers })
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let wrong = || OriginError { found: text.chars().take(200).collect() };
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let whole = uri.scheme_str() == Some("https") && uri.path() == "/" && uri.query().is_none();
        let authority = uri.authority().filter(|authority| whole && !authority.as_str().contains('@'));
        let authority = authority.ok_or_else(wrong)?;
        Ok(Self { host: authority.host().to_owned(), port: authority.port_u16().unwrap_or(443) })
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            443 => write!(f, "https://{}", self.host),
            port => write!(f, "https://{}:{port}", self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_by_host_and_port_and_only_with_tls() {
        let text = |text: &str| text.parse::<Origin>().map(|origin| origin.to_string());
        assert_eq!(text("https://kdsintf.amd.com"), Ok("https://kdsintf.amd.com".to_owned()));
        assert_eq!(text("https://localhost:8443/"), Ok("https://localhost:8443".to_owned()));
        for wrong in
            ["http://kdsintf.amd.com", "kdsintf.amd.com", "https://a/b", "https://u@a", "https://a?b"]
        {
            assert!(text(wrong).is_err(), "{wrong}");
        }
    }
}
