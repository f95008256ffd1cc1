//! One request to a verifier over TLS 1.3, as an operator.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, version};
use serde_json::Value;

/// The longest answer, in bytes: a thousand entries of an audit log.
const MAX_ANSWER: u64 = 4 << 20;
/// How long a verifier may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the verifier is and who asks.
#[derive(Args)]
pub(crate) struct VerifierArguments {
    /// The verifier
    #[arg(long, value_name = "HOST:PORT", env = "COFFER_VERIFIER")]
    verifier: String,
    /// Certificates, in PEM, that may have signed the verifier's
    #[arg(long, value_name = "FILE", env = "COFFER_VERIFIER_AUTHORITY")]
    authority: PathBuf,
    /// The operator's certificate, in PEM
    #[arg(long, value_name = "FILE", env = "COFFER_OPERATOR_CERTIFICATE")]
    certificate: PathBuf,
    /// The operator's private key, in PEM
    #[arg(long, value_name = "FILE", env = "COFFER_OPERATOR_KEY")]
    key: PathBuf,
}

impl VerifierArguments {
    /// Asks, and answers what the verifier said if it said yes.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Value> {
        let bytes = self.exchange(method, path, body)?;
        let (head, body) = split(&bytes).context("the verifier's answer is no HTTP")?;
        let status: u16 = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let answer: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        if status == 200 {
            return Ok(answer);
        }
        let detail = answer.get("detail").and_then(Value::as_str).unwrap_or("it did not say why");
        bail!("the verifier refused with status {status}: {}", coffer_attestation::verdict::printable(detail))
    }

    fn exchange(&self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (host, _) = self.verifier.rsplit_once(':').context("the verifier is given as HOST:PORT")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).context("the verifier's host is no name")?;
        let stream = TcpStream::connect(&self.verifier)
            .with_context(|| format!("the verifier {} cannot be reached", self.verifier))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let client = ClientConnection::new(Arc::new(self.config()?), name)?;
        let mut stream = StreamOwned::new(client, stream);
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).context("the verifier did not take the request")?;
        // One that refuses by the length alone may close before all is sent.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let read = (&mut stream).take(MAX_ANSWER).read_to_end(&mut answer);
        if answer.is_empty() {
            read.context("the verifier did not answer")?;
            bail!("the verifier closed the connection: does it know who signed the operator's certificate?");
        }
        Ok(answer)
    }

    fn config(&self) -> anyhow::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in chain(&self.authority)? {
            roots.add(certificate)?;
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .with_context(|| format!("{} is no private key in PEM", self.key.display()))?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain(&self.certificate)?, key);
        config.context("the operator's certificate and key cannot be used together")
    }
}

fn chain(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(|all| all.collect());
    read.with_context(|| format!("{} holds no certificates in PEM", path.display()))
}

fn split(answer: &[u8]) -> Option<(String, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, rest) = answer.split_at_checked(end)?;
    Some((String::from_utf8_lossy(head).into_owned(), rest.get(4..)?))
}

/// A part of a path or a query in which nothing means anything else.
pub(crate) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
