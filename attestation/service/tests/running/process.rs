//! The real service as a process on loopback, and a client that speaks HTTP over TLS to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use base64ct::{Base64, Encoding};
use coffer_attestation::dsse::{Envelope, PrivateKey, REFERENCES};
use rustix::process::{Pid, Signal, kill_process};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, version};
use serde_json::Value;
use tempfile::TempDir;

use super::operators::{Authority, Identity, tables};

/// Whoever signs reference values.
pub(crate) const SIGNER: &str = include_str!("../../../testdata/dsse/p256.pem");
const SIGNERS_PUBLIC_KEY: &str = include_str!("../../../testdata/dsse/p256.pub.pem");

/// A list of reference values that the owner of a key has signed.
pub(crate) fn signed(key: &str, references: &str) -> String {
    let key = PrivateKey::from_pem(key).expect("a key");
    Envelope::sign(REFERENCES, references.as_bytes(), &key).expect("signed")
}

/// A folder with everything that a service needs.
pub(crate) struct Place {
    folder: TempDir,
    operators: Authority,
    /// Certificates of the service, the newest last.
    certificates: Mutex<Vec<CertificateDer<'static>>>,
    /// Key-encryption keys that were made, from 1.
    keys: Mutex<u8>,
    /// Further lines of the configuration, before its tables.
    more: String,
    /// Further tables of the configuration; one for a database is instead of the file.
    tables: String,
    /// Variables of the service's environment.
    environment: Vec<(&'static str, PathBuf)>,
}

/// A running service; it is ended when this is dropped.
pub(crate) struct Service {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<String>>,
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
    /// `limits` are lines of the configuration's table of limits.
    pub(crate) fn new(references: &str, simulated_root: &[u8], limits: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (operators, certificates) = (Authority::new("operators"), Mutex::default());
        let place = Self {
            folder,
            operators,
            certificates,
            keys: Mutex::new(0),
            more: String::new(),
            tables: String::new(),
            environment: Vec::new(),
        };
        ["challenge", "token", "audit-key"].iter().enumerate().for_each(|(index, name)| {
            std::fs::write(place.file(name), [index as u8 + 1; 32]).expect("written");
        });
        place.renew_certificate();
        place.operators.write(&place.file("operators.pem"));
        std::fs::write(place.file("references.toml"), signed(SIGNER, references)).expect("written");
        std::fs::write(place.file("signer.pem"), SIGNERS_PUBLIC_KEY).expect("written");
        std::fs::write(place.file("root.pem"), pem("CERTIFICATE", simulated_root)).expect("written");
        std::fs::write(place.file("limits"), limits).expect("written");
        place.renew_key();
        place.keep_only_the_newest_key();
        place
    }

    /// The same with further lines of the configuration, before its tables.
    pub(crate) fn with(self, more: &str) -> Self {
        let place = Self { more: format!("{}{more}\n", self.more), ..self };
        place.keep_only_the_newest_key();
        place
    }

    /// The same with further tables of the configuration.
    pub(crate) fn with_tables(self, tables: &str) -> Self {
        let place = Self { tables: format!("{}{tables}\n", self.tables), ..self };
        place.keep_only_the_newest_key();
        place
    }

    /// The same with a variable in the service's environment.
    pub(crate) fn with_variable(mut self, name: &'static str, value: PathBuf) -> Self {
        self.environment.push((name, value));
        self
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a key-encryption key; the one before is still accepted.
    pub(crate) fn renew_key(&self) {
        let mut keys = self.keys.lock().expect("no thread died");
        *keys += 1;
        std::fs::write(self.file(&format!("kek{keys}")), [*keys; 32]).expect("written");
        self.configure(&[*keys, keys.saturating_sub(1).max(1)]);
    }

    /// Accepts no older key-encryption key any more.
    pub(crate) fn keep_only_the_newest_key(&self) {
        self.configure(&[*self.keys.lock().expect("no thread died")]);
    }

    fn configure(&self, keys: &[u8]) {
        let path = |key: &u8| self.file(&format!("kek{key}")).display().to_string();
        self.use_keys(&keys.iter().map(path).collect::<Vec<_>>());
    }

    /// Accepts these key-encryption keys.
    pub(crate) fn use_keys(&self, keys: &[String]) {
        let folder = self.folder.path().display();
        let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
        let store = if self.tables.contains("[postgres]") {
            String::new()
        } else {
            format!("store = \"{folder}/store\"\n")
        };
        let config = format!(
            "listen = \"127.0.0.1:0\"\ntls-certificate = \"{folder}/tls.pem\"\ntls-key = \"{folder}/tls.key\"\n\
             references = \"{folder}/references.toml\"\n{store}audit-log = \"{folder}/audit\"\n\
             key-encryption-keys = [{}]\nchallenge-keys = [\"{folder}/challenge\"]\n\
             token-key = \"{folder}/token\"\naudit-key = \"{folder}/audit-key\"\n\
             operator-authorities = \"{folder}/operators.pem\"\n\
             insecure-simulated-snp-root = \"{folder}/root.pem\"\n{}[limits]\n{}\n{}{}\
             [[reference-signer]]\nname = \"release\"\nkey = \"{folder}/signer.pem\"\ntenants = [\"*\"]\n",
            keys.join(", "),
            self.more,
            std::fs::read_to_string(self.file("limits")).expect("limits"),
            tables(),
            self.tables,
        );
        // Replaced as a whole: the service may be reading it.
        std::fs::write(self.file("verifier.new"), config).expect("written");
        std::fs::rename(self.file("verifier.new"), self.file("verifier.toml")).expect("renamed");
    }

    /// Makes another certificate and key. Clients that are made from now on believe the last two.
    pub(crate) fn renew_certificate(&self) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        self.certificates.lock().expect("no thread died").push(made.cert.der().clone());
        std::fs::write(self.file("tls.pem"), made.cert.pem()).expect("written");
        std::fs::write(self.file("tls.key"), made.signing_key.serialize_pem()).expect("written");
    }

    /// The newest certificate.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificates.lock().expect("no thread died").last().expect("a certificate").clone()
    }

    /// A client that believes the service's last two certificates, and shows `identity` if there is one.
    pub(crate) fn client(&self, identity: Option<Identity>) -> Arc<ClientConfig> {
        let certificates = self.certificates.lock().expect("no thread died");
        client(certificates.iter().rev().take(2), identity)
    }

    /// The certificate of an operator.
    pub(crate) fn operator(&self, name: &str) -> Identity {
        self.operators.sign(name)
    }

    pub(crate) fn start(&self) -> Service {
        let service = Service::start(self.command());
        service.unwrap_or_else(|log| panic!("it serves: {log}"))
    }

    /// What the service says that cannot start.
    pub(crate) fn refused(&self) -> String {
        Service::start(self.command()).err().expect("it does not serve")
    }

    /// The program with its configuration.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer-verifier"));
        command.arg("--config").arg(self.file("verifier.toml"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// DER in base64, in lines of 64 characters.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = Base64::encode_string(der);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned() + "\n");
    format!("-----BEGIN {label}-----\n{}-----END {label}-----\n", lines.collect::<String>())
}

impl Service {
    /// What it said, if it does not serve.
    fn start(mut command: Command) -> Result<Self, String> {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the service");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let mut said = String::new();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            said.push_str(&line);
            said.push('\n');
            let serving = line.contains("serving").then(|| line.split("address=").nth(1)).flatten();
            serving.map(|text| text.trim().parse().expect("an address"))
        });
        let Some(address) = address else {
            child.wait().expect("an end");
            return Err(said);
        };
        let log = Arc::new(Mutex::new(String::new()));
        let written = log.clone();
        // Read as it comes, so that it never waits for us.
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| {
                let mut log = written.lock().expect("no thread died");
                // Of a service that says much the beginning is enough.
                if log.len() < 1 << 20 {
                    log.push_str(&line);
                    log.push('\n');
                }
            });
        });
        Ok(Self { child, address, log })
    }

    /// What it wrote since it serves.
    pub(crate) fn log(&self) -> Arc<Mutex<String>> {
        self.log.clone()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("sent");
    }

    /// Waits until it has ended. Answers its exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("an end").code()
    }

    /// A connection over TCP.
    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).expect("a connection")
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// A TLS connection.
    pub(crate) fn tls(&self, config: &Arc<ClientConfig>) -> std::io::Result<Tls> {
        handshake(self.connect(), config)
    }

    /// The same over a connection that is there.
    pub(crate) fn tls_over(&self, stream: TcpStream, config: &Arc<ClientConfig>) -> Tls {
        handshake(stream, config).expect("TLS")
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// One request of a guest, on a connection of its own.
    pub(crate) fn ask(&self, place: &Place, ask: &Ask<'_>) -> Answer {
        self.ask_with(&place.client(None), ask)
    }

    /// One request of an operator.
    pub(crate) fn ask_as(&self, place: &Place, operator: &str, ask: &Ask<'_>) -> Answer {
        self.ask_with(&place.client(Some(place.operator(operator))), ask)
    }

    /// One request.
    pub(crate) fn ask_with(&self, config: &Arc<ClientConfig>, ask: &Ask<'_>) -> Answer {
        let mut stream = self.tls(config).expect("TLS");
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
        let json = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
        Answer { status, headers: headers.to_owned(), body: json }
    }
}

/// A connection over TLS.
pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// TLS over a connection.
pub(crate) fn handshake(mut stream: TcpStream, config: &Arc<ClientConfig>) -> std::io::Result<Tls> {
    stream.set_nodelay(true)?;
    let name = "localhost".try_into().expect("a name");
    let mut client = ClientConnection::new(config.clone(), name).expect("a client");
    client.complete_io(&mut stream)?;
    Ok(StreamOwned::new(client, stream))
}

/// A connection on which several requests are made, one after another.
pub(crate) struct Conversation(BufReader<Tls>);

/// What was answered, byte for byte.
pub(crate) struct Heard {
    pub(crate) status: u16,
    /// Every line of the head.
    pub(crate) head: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl Conversation {
    pub(crate) fn new(stream: Tls) -> Self {
        Self(BufReader::new(stream))
    }

    /// Sends a whole request as it is, and reads one answer.
    pub(crate) fn ask(&mut self, request: &[u8]) -> std::io::Result<Heard> {
        self.0.get_mut().write_all(request)?;
        self.0.get_mut().flush()?;
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.0.read_exact(&mut body)?;
        let status = head.first().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        Ok(Heard { status, head, body })
    }
}

/// A client that believes only `certificates`.
pub(crate) fn client<'a>(
    certificates: impl Iterator<Item = &'a CertificateDer<'static>>,
    identity: Option<Identity>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    certificates.for_each(|certificate| roots.add(certificate.clone()).expect("a root"));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS13]);
    let config = versions.expect("versions").with_root_certificates(roots);
    let config = match identity {
        Some((certificate, key)) => {
            config.with_client_auth_cert(vec![certificate], key).expect("an identity")
        }
        None => config.with_no_client_auth(),
    };
    Arc::new(config)
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
