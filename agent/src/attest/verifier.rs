//! Requests to the verifier: HTTP/1.1 over TLS 1.3 over a vsock connection that the host passes on.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coffer_protocol::VERIFIER_PORT;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, HeaderValue, SET_COOKIE};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, version};
use serde_json::Value;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::wishes::Address;
use super::{AttestError, HostKey};

/// How long one request may take, its connection included.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest answer: a secret of the largest size, sealed and in base64.
const MAX_ANSWER: usize = 2 << 20;
/// The longest reason that is passed on, in characters.
const MAX_REASON: usize = 1000;

/// The verifier that the initdata names.
pub(super) struct Verifier {
    connector: TlsConnector,
    name: ServerName<'static>,
    address: Address,
    host_key: HostKey,
    /// The connection of the last request.
    open: tokio::sync::Mutex<Option<http1::SendRequest<Full<Bytes>>>>,
}

/// A request.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Behind the verifier's own prefix.
    pub(super) path: &'a str,
    /// Shown as a bearer token.
    pub(super) token: Option<&'a str>,
    /// What the verifier gave to be given back.
    pub(super) cookie: Option<&'a str>,
    pub(super) body: String,
}

/// An answer whose body is JSON, or nothing.
pub(super) struct Answer {
    pub(super) status: u16,
    /// The first `Set-Cookie`, without its attributes.
    pub(super) cookie: Option<String>,
    pub(super) body: Bytes,
}

impl Verifier {
    /// Believes the authorities of `address` and nobody else.
    pub(super) fn new(address: Address, host_key: HostKey) -> Result<Self, AttestError> {
        let wrong = |reason: String| AttestError::Wishes { file: "aa.toml", reason };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(address.authorities.as_bytes()) {
            let certificate = certificate.map_err(|error| wrong(format!("cert is no PEM: {error}")))?;
            roots.add(certificate).map_err(|error| wrong(format!("cert cannot be an authority: {error}")))?;
        }
        if roots.is_empty() {
            return Err(wrong("cert holds no certificate".to_owned()));
        }
        let name = ServerName::try_from(address.host.clone())
            .map_err(|_| wrong(format!("{:?} is no name of a host", address.host)))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| wrong(error.to_string()))?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { connector, name, address, host_key, open: tokio::sync::Mutex::default() })
    }

    /// Asks. An answer that says "not now" is one that was not had.
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Answer, AttestError> {
        let asked = timeout(PATIENCE, self.exchange(ask)).await;
        let late = || Err(format!("no answer within {} s", PATIENCE.as_secs()));
        let unreachable =
            |reason| AttestError::Unreachable { verifier: self.address.authority.clone(), reason };
        let answer = asked.unwrap_or_else(|_| late()).map_err(unreachable)?;
        if answer.is_not_now() {
            return Err(unreachable(format!("it answers {}: {}", answer.status, answer.reason())));
        }
        Ok(answer)
    }

    /// Ends the connection, if there is one: a guest that has nothing to ask takes none of the verifier's.
    pub(super) async fn hang_up(&self) {
        *self.open.lock().await = None;
    }

    async fn exchange(&self, ask: Ask<'_>) -> Result<Answer, String> {
        let request = self.request(ask)?;
        let mut open = self.open.lock().await;
        let mut sender = match open.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let cookie = response.headers().get(SET_COOKIE).and_then(|value| value.to_str().ok());
        let cookie = cookie.and_then(|value| value.split(';').next()).map(str::to_owned);
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        *open = Some(sender);
        Ok(Answer { status, cookie, body })
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, String> {
        let stream = self.host_key.connect(VERIFIER_PORT).await;
        let stream = stream.map_err(|error| {
            format!("the host passes nothing on to it ({error}); is tee.verifier set on the node?")
        })?;
        let tls = self.connector.connect(self.name.clone(), stream).await.map_err(tls_failure)?;
        let handshake = http1::handshake(TokioIo::new(tls)).await;
        let (sender, connection) = handshake.map_err(|error| error.to_string())?;
        // It ends when the sender is dropped; what goes wrong with it, the sender tells.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn request(&self, ask: Ask<'_>) -> Result<Request<Full<Bytes>>, String> {
        let uri = format!("{}{}", self.address.prefix, ask.path);
        let mut request =
            Request::builder().method(ask.method).uri(uri).header(HOST, &self.address.authority);
        if let Some(token) = ask.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|_| "the token cannot be sent".to_owned())?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(cookie) = ask.cookie {
            request = request.header(COOKIE, cookie);
        }
        if !ask.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(Bytes::from(ask.body))).map_err(|error| error.to_string())
    }
}

/// A connection that the host closes before TLS is one that the host could not pass on.
fn tls_failure(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "the host could not pass the connection on; is it running?".to_owned()
        }
        _ => format!("no TLS with it: {error}"),
    }
}

impl Answer {
    /// Whether it says nothing but that it is to be asked later: a limit of the verifier's, or of something before it.
    fn is_not_now(&self) -> bool {
        matches!(self.status, 429 | 502..=504)
    }

    /// The kind of a refusal: the last part of its `type`.
    pub(super) fn kind(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let kind = body.get("type").and_then(Value::as_str).and_then(|kind| kind.rsplit('/').next());
        kind.unwrap_or_default().chars().take(64).collect()
    }

    /// What a refusal says, cut and without control characters: it goes into errors and logs.
    pub(super) fn reason(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let detail = body.get("detail").and_then(Value::as_str).unwrap_or("it gives no reason");
        detail.chars().filter(|found| !found.is_control()).take(MAX_REASON).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> HostKey {
        HostKey::read(&[0; 32]).unwrap()
    }

    fn address(host: &str, authorities: &str) -> Address {
        Address {
            authority: host.to_owned(),
            host: host.to_owned(),
            prefix: String::new(),
            authorities: authorities.to_owned(),
        }
    }

    #[test]
    fn a_verifier_without_an_authority_is_refused() {
        let none = Verifier::new(address("a.example", "nothing"), key()).map(drop).unwrap_err();
        assert!(none.to_string().contains("no certificate"), "{none}");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(Verifier::new(address("a.example", broken), key()).is_err());
    }

    #[test]
    fn a_refusal_is_told_in_one_line_of_bounded_length() {
        let detail = format!("one\\n{}", "x".repeat(1100));
        let body = format!(r#"{{"type":"https://a/errors/PolicyDeny","detail":"{detail}"}}"#);
        let answer = Answer { status: 403, cookie: None, body: Bytes::from(body) };
        assert_eq!(answer.kind(), "PolicyDeny");
        assert!(answer.reason().starts_with("onexxx") && answer.reason().len() == MAX_REASON);
    }

    #[test]
    fn an_answer_that_asks_for_patience_is_none_and_every_other_is_one() {
        let not_now = |status| Answer { status, cookie: None, body: Bytes::new() }.is_not_now();
        assert_eq!([429, 502, 503, 504].map(not_now), [true; 4]);
        assert_eq!([200, 401, 403, 404, 409, 500].map(not_now), [false; 6]);
    }

    #[test]
    fn an_answer_that_is_no_json_has_no_reason() {
        let answer = Answer { status: 500, cookie: None, body: Bytes::from_static(b"<html>") };
        assert_eq!((answer.kind(), answer.reason()), (String::new(), "it gives no reason".to_owned()));
    }
}
