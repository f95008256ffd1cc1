//! One HTTP request and its answer, over TLS unless that is given up.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION};
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
use zeroize::Zeroizing;

/// Where systems keep the authorities that they believe.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Registries send readers of blobs elsewhere.
const MAX_REDIRECTS: usize = 4;

/// Sends requests.
pub(crate) struct Transport {
    /// There until this ends.
    runtime: Option<Runtime>,
    tls: Arc<ClientConfig>,
    /// Hosts, with or without a port, that are spoken to without TLS.
    plain: Vec<String>,
    /// When all of it must be over.
    until: Option<Instant>,
}

/// Who answers at an address. What opens one's door is shown to no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    is_plain: bool,
    host: String,
    port: u16,
}

/// What is asked.
pub(crate) struct Asked<'a> {
    pub(crate) method: Method,
    pub(crate) address: String,
    pub(crate) headers: Vec<(HeaderName, Zeroizing<String>)>,
    pub(crate) body: &'a [u8],
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(super) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Who gave it, after whatever the asker was sent on to.
    pub(super) by: Authority,
}

impl Drop for Transport {
    /// A name that is still being looked up keeps nobody waiting.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Authority {
    /// That of an address.
    pub(super) fn of(uri: &Uri) -> anyhow::Result<Self> {
        let is_plain = match uri.scheme_str() {
            Some("http") => true,
            Some("https") => false,
            _ => bail!("{uri} is no address of a registry"),
        };
        let host = uri.host().context("the address names no host")?.to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
        Ok(Self { is_plain, host, port })
    }
}

impl Transport {
    /// Believes the system's authorities, and those in `authorities`; speaks to the hosts `plain` without TLS. Nothing is asked
    /// after `until`.
    pub(super) fn new(
        authorities: Option<&Path>,
        plain: Vec<String>,
        until: Option<Instant>,
    ) -> anyhow::Result<Self> {
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
        Ok(Self { runtime: Some(runtime), tls: Arc::new(tls), plain, until })
    }

    /// How addresses at `authority` (host, or host and port) begin.
    pub(super) fn scheme(&self, authority: &str) -> &'static str {
        let bare = |text: &str| {
            format!("http://{text}/").parse::<Uri>().ok().and_then(|uri| Authority::of(&uri).ok())
        };
        if bare(authority).is_some_and(|asked| self.is_plain(&asked)) { "http" } else { "https" }
    }

    /// How long whoever is asked may take, at most `usual`.
    ///
    /// # Errors
    /// There is no time left.
    pub(super) fn patience(&self, usual: Duration) -> anyhow::Result<Duration> {
        let Some(until) = self.until else { return Ok(usual) };
        let left = until.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "there is no time left to ask");
        Ok(left.min(usual))
    }

    fn is_plain(&self, asked: &Authority) -> bool {
        let with_port = format!("{}:{}", asked.host, asked.port);
        self.plain.iter().any(|host| [&asked.host, &with_port].iter().any(|it| it.eq_ignore_ascii_case(host)))
    }

    /// Asks, goes where it is sent, and takes at most `limit` bytes. What opens a door is shown to nobody else than whom it
    /// was meant for.
    pub(crate) fn send(&self, asked: Asked<'_>, limit: usize) -> anyhow::Result<Answer> {
        let runtime = self.runtime.as_ref().context("requests are over")?;
        let mut asked = asked;
        for _ in 0..=MAX_REDIRECTS {
            let uri: Uri =
                asked.address.parse().with_context(|| format!("{} is no address", asked.address))?;
            let patience = self.patience(PATIENCE)?;
            let answer = runtime.block_on(async {
                tokio::time::timeout(patience, self.exchange(&uri, &asked, limit))
                    .await
                    .context("it takes too long")?
            });
            let answer = answer
                .with_context(|| format!("asking {}", uri.authority().map_or("nobody", |it| it.as_str())))?;
            let sent_on = matches!(answer.status, 301 | 302 | 303 | 307 | 308) && asked.method == Method::GET;
            let place = answer.headers.get(LOCATION).and_then(|place| place.to_str().ok());
            let Some(place) = place.filter(|_| sent_on) else { return Ok(answer) };
            asked.address = absolute(&uri, place);
            if Authority::of(&asked.address.parse()?)? != answer.by {
                asked.headers.retain(|(name, _)| *name != AUTHORIZATION);
            }
        }
        bail!("the registry sends readers in circles")
    }

    async fn exchange(&self, uri: &Uri, asked: &Asked<'_>, limit: usize) -> anyhow::Result<Answer> {
        let by = Authority::of(uri)?;
        ensure!(
            !by.is_plain || self.is_plain(&by),
            "{0} is to be asked without TLS: only --insecure-plain-http {0} allows that",
            by.host
        );
        let bare = by.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let stream = TcpStream::connect((bare.as_str(), by.port)).await.context("it cannot be reached")?;
        if by.is_plain {
            return speak(stream, uri, by, (asked, limit)).await;
        }
        let name = ServerName::try_from(bare).context("its host is no name")?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        let stream = stream.context("it has no certificate that is believed")?;
        speak(stream, uri, by, (asked, limit)).await
    }
}

async fn speak<S>(
    stream: S,
    uri: &Uri,
    by: Authority,
    (asked, limit): (&Asked<'_>, usize),
) -> anyhow::Result<Answer>
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
        let mut value = HeaderValue::from_str(value)?;
        value.set_sensitive(*name == AUTHORIZATION);
        request = request.header(name, value);
    }
    // Wiped when it was sent: there may be a token in it.
    let body = Full::new(Bytes::from_owner(Zeroizing::new(asked.body.to_vec())));
    let answer = sender.send_request(request.body(body)?).await?;
    let (head, body) = answer.into_parts();
    let read = Limited::new(body, limit).collect().await;
    driver.abort();
    let body = read.map_err(|error| {
        anyhow::anyhow!("the answer cannot be read, or has more than {limit} bytes: {error}")
    })?;
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes().to_vec(), by })
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
