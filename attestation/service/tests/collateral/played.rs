//! AMD's and Intel's services, played by a thread: HTTPS on loopback with an authority of its own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

/// What is said to one question.
#[derive(Clone)]
pub(crate) enum Say {
    /// An answer: status, header lines, body.
    Answer(u16, String, Vec<u8>),
    /// Nothing, and the connection stays.
    Nothing,
}

/// A service that answers by path, and remembers what it was asked.
pub(crate) struct Played {
    address: SocketAddr,
    folder: TempDir,
    answers: Arc<Mutex<BTreeMap<String, Say>>>,
    heard: Arc<Mutex<Heard>>,
}

/// What came.
#[derive(Default)]
struct Heard {
    paths: Vec<String>,
    bodies: Vec<Vec<u8>>,
    /// Connections on which nothing is said.
    silent: Vec<TcpStream>,
}

impl Played {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Arc::new(identity(&folder.path().join("authority.pem")));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let played = Self { address, folder, answers: Arc::default(), heard: Arc::default() };
        let (answers, heard) = (played.answers.clone(), played.heard.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (config, answers) = (config.clone(), answers.clone());
                let heard = heard.clone();
                std::thread::spawn(move || serve(stream, config, &answers, &heard));
            }
        });
        played
    }

    pub(crate) fn answer(&self, path: &str, body: &[u8]) {
        self.say(path, Say::Answer(200, String::new(), body.to_vec()));
    }

    pub(crate) fn say(&self, path: &str, what: Say) {
        self.answers.lock().expect("no thread died").insert(path.to_owned(), what);
    }

    /// Ends the connections on which nothing was said.
    pub(crate) fn hang_up(&self) {
        let silent = std::mem::take(&mut self.heard.lock().expect("no thread died").silent);
        silent.iter().for_each(|stream| drop(stream.shutdown(std::net::Shutdown::Both)));
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.heard.lock().expect("no thread died").paths.clone()
    }

    /// Bodies that were sent.
    pub(crate) fn told(&self) -> Vec<Vec<u8>> {
        self.heard.lock().expect("no thread died").bodies.clone()
    }

    pub(crate) fn origin(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }
}

fn identity(authority: &std::path::Path) -> ServerConfig {
    let (ca_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = params.self_signed(&ca_key).expect("a certificate");
    std::fs::write(authority, ca.pem()).expect("written");
    let of = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = of.signed_by(&key, &Issuer::new(params, ca_key)).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("an identity")
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    answers: &Mutex<BTreeMap<String, Say>>,
    heard: &Mutex<Heard>,
) {
    let Ok(connection) = ServerConnection::new(config) else { return };
    let mut reader = BufReader::new(StreamOwned::new(connection, stream));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        // A client that does not believe this service goes away here.
        if !reader.read_line(&mut head).is_ok_and(|read| read > 0) {
            return;
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    if let Some(length) = length {
        let mut body: Vec<u8> = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        heard.lock().expect("no thread died").bodies.push(body);
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let says = answers.lock().expect("no thread died").get(&path).cloned();
    heard.lock().expect("no thread died").paths.push(path);
    let (status, headers, body) = match says {
        Some(Say::Answer(status, headers, body)) => (status, headers, body),
        None => (404, String::new(), Vec::new()),
        Some(Say::Nothing) => {
            let connection = reader.get_ref().sock.try_clone();
            heard.lock().expect("no thread died").silent.extend(connection);
            // Until the client goes.
            let _ = reader.read_line(&mut head);
            return;
        }
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n");
    let stream = reader.get_mut();
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
    let _ = stream.flush();
}
