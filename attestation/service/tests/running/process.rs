//! The real service as a process on loopback, and a client that speaks HTTP over TLS to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The administrator's token of every service here.
pub(crate) const ADMIN: &str = "a token of the tests";

/// A folder with everything that a service needs.
pub(crate) struct Place {
    folder: TempDir,
}

/// A running service; it is ended when this is dropped.
pub(crate) struct Service {
    child: Child,
    address: SocketAddr,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: Value,
}

/// A request.
pub(crate) struct Ask<'a> {
    pub(crate) line: &'a str,
    pub(crate) header: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

impl Place {
    /// `more` is added to the configuration, before its table of limits.
    pub(crate) fn new(references: &str, simulated_root: &[u8], more: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder") };
        ["kek", "challenge", "token"].iter().enumerate().for_each(|(index, name)| {
            std::fs::write(place.file(name), [index as u8 + 1; 32]).expect("written");
        });
        place.renew_certificate();
        std::fs::write(place.file("references.toml"), references).expect("written");
        let pem =
            format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", wrapped(simulated_root));
        std::fs::write(place.file("root.pem"), pem).expect("written");
        let folder = place.folder.path().display();
        let admin = hex::encode(Sha256::digest(ADMIN));
        let config = format!(
            "listen = \"127.0.0.1:0\"\ntls-certificate = \"{folder}/tls.pem\"\ntls-key = \"{folder}/tls.key\"\n\
             references = \"{folder}/references.toml\"\nstore = \"{folder}/store\"\naudit-log = \"{folder}/audit\"\n\
             key-encryption-keys = [\"{folder}/kek\"]\nchallenge-keys = [\"{folder}/challenge\"]\n\
             token-key = \"{folder}/token\"\nadmin-token-sha256 = \"{admin}\"\n\
             insecure-simulated-snp-root = \"{folder}/root.pem\"\n{more}\n"
        );
        std::fs::write(place.file("verifier.toml"), config).expect("written");
        place
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes another certificate and key.
    pub(crate) fn renew_certificate(&self) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(self.file("tls.pem"), made.cert.pem()).expect("written");
        std::fs::write(self.file("tls.key"), made.signing_key.serialize_pem()).expect("written");
    }

    /// The certificate that the service shows.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        use rustls::pki_types::pem::PemObject;
        CertificateDer::from_pem_file(self.file("tls.pem")).expect("a certificate")
    }

    pub(crate) fn start(&self) -> Service {
        Service::start(&self.file("verifier.toml"))
    }
}

/// Base64 in lines of 64 characters, as PEM asks.
fn wrapped(der: &[u8]) -> String {
    let text = Base64::encode_string(der);
    text.as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

impl Service {
    fn start(config: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_coffer-verifier"))
            .arg("--config")
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the service");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            line.split("address=").nth(1).map(|text| text.trim().parse().expect("an address"))
        });
        // What it writes later is read and dropped, so that it never waits for us.
        std::thread::spawn(move || lines.map_while(Result::ok).count());
        Self { child, address: address.expect("it serves") }
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.expect("kill").success());
    }

    /// Waits until it has ended. Answers its exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("an end").code()
    }

    /// A connection over TCP.
    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).expect("a connection")
    }

    /// A TLS connection with these versions, believing only `certificate`.
    pub(crate) fn tls(
        &self,
        certificate: CertificateDer<'static>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a root");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let name = "localhost".try_into().expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut stream = self.connect();
        client.complete_io(&mut stream)?;
        Ok(StreamOwned::new(client, stream))
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, place: &Place, ask: &Ask<'_>) -> Answer {
        let mut stream = self.tls(place.certificate(), &[&rustls::version::TLS13]).expect("TLS");
        let header = ask.header.map_or_else(String::new, |header| format!("{header}\r\n"));
        let head = format!(
            "{} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}content-length: {}\r\n\r\n",
            ask.line,
            ask.body.len()
        );
        stream.write_all(head.as_bytes()).expect("sent");
        // A service that refuses by the length alone may close before all is sent.
        let _ = stream.write_all(ask.body);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).expect("text");
        let (headers, body) = text.split_once("\r\n\r\n").expect("an answer");
        let status = headers.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        Answer { status, headers: headers.to_owned(), body: serde_json::from_str(body).expect("JSON") }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
