//! One HTTP request and its answer, over TLS unless that is given up.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, LOCATION};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

/// Where systems keep the authorities that they believe.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Registries send readers of blobs elsewhere.
const MAX_REDIRECTS: usize = 4;

/// Sends requests.
pub(super) struct Transport {
    runtime: Runtime,
    tls: Arc<ClientConfig>,
    plain: bool,
}

/// What is asked.
pub(super) struct Asked<'a> {
    pub(super) method: Method,
    pub(super) address: String,
    pub(super) headers: Vec<(hyper::header::HeaderName, String)>,
    pub(super) body: &'a [u8],
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Transport {
    /// Believes the system's authorities, and those in `authorities`.
    pub(super) fn new(authorities: Option<&Path>, plain: bool) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut roots = RootCertStore::empty();
        if let Some(system) = SYSTEM.iter().find(|path| Path::new(path).exists()) {
            let all: Vec<CertificateDer<'_>> =
                CertificateDer::pem_file_iter(system)?.filter_map(Result::ok).collect();
            roots.add_parsable_certificates(all);
        }
        if let Some(path) = authorities {
            let read = CertificateDer::pem_file_iter(path).and_then(|all| all.collect::<Result<Vec<_>, _>>());
            for certificate in
                read.with_context(|| format!("{} holds no certificates in PEM", path.display()))?
            {
                roots.add(certificate).with_context(|| format!("reading {}", path.display()))?;
            }
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { runtime, tls: Arc::new(tls), plain })
    }

    /// How addresses of registries begin.
    pub(super) fn scheme(&self) -> &'static str {
        if self.plain { "http" } else { "https" }
    }

    /// Asks, goes where it is sent, and takes at most `limit` bytes.
    pub(super) fn send(&self, asked: Asked<'_>, limit: usize) -> anyhow::Result<Answer> {
        let mut asked = asked;
        for _ in 0..=MAX_REDIRECTS {
            let uri: Uri =
                asked.address.parse().with_context(|| format!("{} is no address", asked.address))?;
            let answer = self.runtime.block_on(async {
                tokio::time::timeout(PATIENCE, self.exchange(&uri, &asked, limit))
                    .await
                    .context("it takes too long")?
            });
            let answer = answer
                .with_context(|| format!("asking {}", uri.authority().map_or("nobody", |it| it.as_str())))?;
            let sent_on = matches!(answer.status, 301 | 302 | 303 | 307 | 308) && asked.method == Method::GET;
            let place = answer.headers.get(LOCATION).and_then(|place| place.to_str().ok());
            let Some(place) = place.filter(|_| sent_on) else { return Ok(answer) };
            asked.address = absolute(&uri, place);
            // What opens one door is not shown at another.
            asked.headers.retain(|(name, _)| *name != AUTHORIZATION);
        }
        bail!("the registry sends readers in circles")
    }

    async fn exchange(&self, uri: &Uri, asked: &Asked<'_>, limit: usize) -> anyhow::Result<Answer> {
        let host = uri.host().context("the address names no host")?;
        let is_plain = uri.scheme_str() == Some("http");
        ensure!(
            !is_plain || self.plain,
            "{host} is to be asked without TLS: only --insecure-plain-http allows that"
        );
        let port = uri.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await.context("it cannot be reached")?;
        if is_plain {
            return speak(stream, uri, asked, limit).await;
        }
        let name = ServerName::try_from(bare.to_owned()).context("its host is no name")?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        speak(stream.context("it has no certificate that is believed")?, uri, asked, limit).await
    }
}

async fn speak<S>(stream: S, uri: &Uri, asked: &Asked<'_>, limit: usize) -> anyhow::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::builder().method(&asked.method).uri(path).header(HOST, host);
    request = request.header("user-agent", "coffer");
    for (name, value) in &asked.headers {
        request = request.header(name, value);
    }
    let body = Full::new(Bytes::copy_from_slice(asked.body));
    let answer = sender.send_request(request.body(body)?).await?;
    let (head, body) = answer.into_parts();
    let read = Limited::new(body, limit).collect().await;
    driver.abort();
    let body = read.map_err(|error| {
        anyhow::anyhow!("the answer cannot be read, or has more than {limit} bytes: {error}")
    })?;
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes().to_vec() })
}

impl Answer {
    /// A header's text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// What the body is said to be, without parameters.
    pub(super) fn media_type(&self) -> &str {
        let said = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        said.split(';').next().unwrap_or_default().trim()
    }
}

/// `place` seen from `uri`.
pub(super) fn absolute(uri: &Uri, place: &str) -> String {
    if place.contains("://") {
        return place.to_owned();
    }
    let (scheme, host) = (uri.scheme_str().unwrap_or("https"), uri.authority().map_or("", |it| it.as_str()));
    format!("{scheme}://{host}/{}", place.trim_start_matches('/'))
}
