//! One connection to PostgreSQL: over a Unix socket, over TLS, or plain where that was asked for by name.

use std::fs;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// Where a database is, and how to get in.
#[derive(Debug, Clone)]
pub struct Postgres {
    config: Config,
    tls: Option<Tls>,
    /// For messages.
    pub(super) place: String,
    /// Connections at once.
    pub(super) connections: usize,
    /// How long anybody waits for an answer.
    pub(super) patience: Duration,
}

/// Who the server must be, and who the verifier is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who may have signed the server's certificate.
    pub authorities: PathBuf,
    /// The verifier's own certificate and key, if the server asks for one.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// Why nothing is connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file.
    #[error("{path:?} cannot be read")]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Certificates.
    #[error("{path:?} has no certificate or key that can be used: {reason}")]
    Certificate {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Neither a socket nor TLS.
    #[error(
        "{host:?} is reached over a network: give authorities, whose certificate it must show, or insecure-plain = true for no \
         TLS at all"
    )]
    Plain {
        /// The host.
        host: String,
    },
}

/// A connection that is there, until this is dropped.
pub(super) struct Live {
    pub(super) client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Postgres {
    /// `host` is a name, or the folder of a Unix socket if it begins with a slash.
    pub fn new(host: &str, port: u16, database: &str, user: &str) -> Self {
        let mut config = Config::new();
        config.port(port).dbname(database).user(user).application_name("coffer-verifier");
        // Connections on which nothing comes back end in seconds, not hours.
        config.keepalives_idle(Duration::from_secs(10)).tcp_user_timeout(Duration::from_secs(15));
        config.ssl_mode(SslMode::Disable);
        if host.starts_with('/') {
            config.host_path(host);
        } else {
            config.host(host);
        }
        let place = format!("{host}:{port}");
        Self { config, tls: None, place, connections: 8, patience: Duration::from_secs(3) }
    }

    /// Shows the password in a file, without the end of its line.
    ///
    /// # Errors
    /// [`ConnectError::File`]
    pub fn with_password(mut self, path: &Path) -> Result<Self, ConnectError> {
        let text = Zeroizing::new(read(path)?);
        let end = text.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
        self.config.password(text.get(..end).unwrap_or_default());
        Ok(self)
    }

    /// Speaks TLS and nothing else.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub fn with_tls(mut self, identity: &Identity) -> Result<Self, ConnectError> {
        self.tls = Some(Tls(Arc::new(identity.config()?)));
        self.config.ssl_mode(SslMode::Require);
        Ok(self)
    }

    /// So many connections at once, and nobody waits for an answer longer than `patience`.
    #[must_use]
    pub fn with_limits(self, connections: usize, patience: Duration) -> Self {
        Self { connections, patience, ..self }
    }

    /// Connects. What the server tells unasked is counted in `news`.
    pub(super) async fn connect(
        &self,
        news: Option<watch::Sender<u64>>,
    ) -> Result<Live, tokio_postgres::Error> {
        let live = match &self.tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                Live { client, driver: tokio::spawn(drive(connection, news)) }
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                Live { client, driver: tokio::spawn(drive(connection, news)) }
            }
        };
        // What nobody waits for any more ends at the server too, or its processes would pile up behind a lock. Later than we
        // give up: a commit that is cut short looks as if it had reached the standby.
        let limit = (self.patience + Duration::from_secs(1)).as_millis();
        live.client.batch_execute(&format!("SET statement_timeout = {limit}")).await?;
        Ok(live)
    }
}

/// Moves bytes until the connection ends.
async fn drive<S>(mut connection: Connection<Socket, S>, news: Option<watch::Sender<u64>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let (AsyncMessage::Notification(_), Some(news)) = (message, &news) {
            news.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

impl Identity {
    fn config(&self) -> Result<ClientConfig, ConnectError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authorities)? {
            roots.add(certificate).map_err(|error| wrong(&self.authorities, &error))?;
        }
        if roots.is_empty() {
            return Err(wrong(&self.authorities, &"none is in it"));
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config =
            versions.map_err(|error| wrong(&self.authorities, &error))?.with_root_certificates(roots);
        let Some((certificate, key)) = &self.own else { return Ok(config.with_no_client_auth()) };
        let chain = certificates(certificate)?;
        let own = PrivateKeyDer::from_pem_slice(&Zeroizing::new(read(key)?));
        let own = own.map_err(|error| wrong(key, &error))?;
        config.with_client_auth_cert(chain, own).map_err(|error| wrong(certificate, &error))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConnectError> {
    fs::read(path).map_err(|source| ConnectError::File { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let pem = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    all.map_err(|error| wrong(path, &error))
}

fn wrong(path: &Path, error: &impl std::fmt::Display) -> ConnectError {
    ConnectError::Certificate { path: path.to_owned(), reason: error.to_string() }
}

/// What the client of PostgreSQL speaks TLS with.
#[derive(Clone)]
struct Tls(Arc<ClientConfig>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// The same for one server.
struct ToServer(Arc<ClientConfig>, ServerName<'static>);

struct Stream(Box<tokio_rustls::client::TlsStream<Socket>>);

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Stream;
    type TlsConnect = ToServer;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<ToServer, InvalidDnsNameError> {
        Ok(ToServer(self.0.clone(), ServerName::try_from(host.to_owned())?))
    }
}

impl TlsConnect<Socket> for ToServer {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let connected = TlsConnector::from(self.0).connect(self.1, stream).await?;
            Ok(Stream(Box::new(connected)))
        })
    }
}

impl TlsStream for Stream {
    // The server's certificate is verified with its name: nobody in between could have another.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
