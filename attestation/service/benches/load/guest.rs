//! A guest: what it does from its first byte to the secret.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use coffer_attestation::handshake::{GuestKey, HashAlgorithm, ReportData, Sealed};
use getrandom::SysRng;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::{Value, json};

use crate::running::{Ask, Place, Service};
use crate::simulated::{self, Processor};

const INITDATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
const SECRET: &[u8] = b"thirty-two bytes that are secret";
const PATH: &str = "/kbs/v0/resource/acme/key/1";

type Stream = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// Everything that a service needs, and no limit that one address with all guests would meet.
pub(crate) fn place() -> Place {
    let digest = hex::encode(HashAlgorithm::Sha256.digest(INITDATA.as_bytes()));
    let references = include_str!("../../tests/references/known.toml").replace("INITDATA", &digest);
    let limits = "client-requests-per-second = 1000000\nclient-connections = 256";
    Place::new(&references, Processor::root().der(), limits)
}

/// Keeps the secret that every guest asks for.
pub(crate) fn keep_secret(service: &Service, place: &Place) {
    let ask = Ask { line: &format!("POST {PATH}"), header: None, body: SECRET };
    let answer = service.ask_as(place, "alice", &ask);
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// One exchange on a connection of its own.
pub(crate) fn exchange(service: &Service, tls: &Arc<ClientConfig>) -> Result<(), String> {
    let stream = service.tls(tls).map_err(|error| format!("TLS: {error}"))?;
    let mut stream = BufReader::new(stream);
    let asked = json!({"version": "0.4.0", "tee": "snp", "extra-params": ""});
    let challenge = ask(&mut stream, "POST /kbs/v0/auth", "", &asked.to_string())?;
    let nonce = challenge["nonce"].as_str().ok_or("a challenge without a nonce")?;
    let key = GuestKey::generate(&mut SysRng).map_err(|error| error.to_string())?;
    let answered = ask(&mut stream, "POST /kbs/v0/attest", "", &evidence(nonce, &key.public()).to_string())?;
    let token = answered["token"].as_str().ok_or("no token")?;
    let header = format!("authorization: Bearer {token}\r\n");
    let sealed = ask(&mut stream, &format!("GET {PATH}"), &header, "")?;
    let sealed: Sealed = serde_json::from_value(sealed).map_err(|error| error.to_string())?;
    let opened = key.open(&sealed).map_err(|error| error.to_string())?;
    if opened.as_slice() == SECRET { Ok(()) } else { Err("another secret".to_owned()) }
}

fn evidence(nonce: &str, key: &Value) -> Value {
    let bound = ReportData::compute(HashAlgorithm::Sha384, nonce, key, "").expect("a canonical form");
    let digest = HashAlgorithm::Sha256.digest(INITDATA.as_bytes());
    let report = simulated::report(&bound.as_report_field(), &digest);
    json!({
        "init-data": { "format": "toml", "body": INITDATA },
        "runtime-data": { "nonce": nonce, "tee-pubkey": key },
        "tee-evidence": { "primary_evidence": Processor::evidence(report), "additional_evidence": "" },
    })
}

fn ask(stream: &mut Stream, line: &str, header: &str, body: &str) -> Result<Value, String> {
    let head =
        format!("{line} HTTP/1.1\r\nhost: localhost\r\n{header}content-length: {}\r\n\r\n", body.len());
    let message = [head.as_bytes(), body.as_bytes()].concat();
    let written = stream.get_mut().write_all(&message).and_then(|()| stream.get_mut().flush());
    written.map_err(|error| format!("{line}: {error}"))?;
    let (status, body) = answer(stream).map_err(|error| format!("{line}: {error}"))?;
    if status != 200 {
        return Err(format!("{line}: {status} {}", String::from_utf8_lossy(&body)));
    }
    serde_json::from_slice(&body).map_err(|error| format!("{line}: {error}"))
}

fn answer(stream: &mut Stream) -> io::Result<(u16, Vec<u8>)> {
    let (mut status, mut length, mut line) = (0, 0, String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let lower = line.trim_end().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        }
        if let Some(code) = lower.strip_prefix("http/1.1 ") {
            status = code.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
        }
        if let Some(value) = lower.strip_prefix("content-length: ") {
            length = value.parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status, body))
}
