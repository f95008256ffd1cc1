//! A guest: what it does from its first byte to the secret.

use coffer_attestation::handshake::{GuestKey, HashAlgorithm, ReportData, Sealed};
use getrandom::SysRng;
use serde_json::{Value, json};

use crate::running::process::pem;
use crate::running::{Ask, Conversation, Place, Service};
use crate::simulated::{self, Processor};
use crate::target::Target;

const INITDATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
/// What it is.
pub(crate) const SECRET: &[u8] = b"thirty-two bytes that are secret";
/// Where every service keeps it.
pub(crate) const PATH: &str = "/kbs/v0/resource/acme/key/1";

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

/// ASK and ARK of the simulated processor, as PEM.
pub(crate) fn authorities() -> String {
    let report = simulated::report(&[0; 64], &[0; 32]);
    let evidence = Processor::evidence(report);
    let chain = evidence["cert_chain"].as_array().expect("certificates");
    let named = |name: &str| {
        let one = chain.iter().find(|one| one["cert_type"] == name).expect("an authority");
        pem("CERTIFICATE", &serde_json::from_value::<Vec<u8>>(one["data"].clone()).expect("DER"))
    };
    named("ASK") + &named("ARK")
}

/// One exchange on a connection of its own.
pub(crate) fn exchange(target: &Target) -> Result<(), String> {
    let stream = target.connect().map_err(|error| format!("TLS: {error}"))?;
    let mut stream = Conversation::new(stream);
    let asked = json!({"version": "0.4.0", "tee": "snp", "extra-params": ""});
    let challenge = ask(&mut stream, "POST /kbs/v0/auth", "", &asked.to_string())?;
    let nonce = challenge.body["nonce"].as_str().ok_or("a challenge without a nonce")?;
    let key = GuestKey::generate(&mut SysRng).map_err(|error| error.to_string())?;
    let session = challenge.cookie.map_or_else(String::new, |cookie| format!("cookie: {cookie}\r\n"));
    let evidence = evidence(nonce, &key.public()).to_string();
    let answered = ask(&mut stream, "POST /kbs/v0/attest", &session, &evidence)?;
    let token = answered.body["token"].as_str().ok_or("no token")?;
    let header = format!("{session}authorization: Bearer {token}\r\n");
    let sealed = ask(&mut stream, &format!("GET {PATH}"), &header, "")?;
    let sealed: Sealed = serde_json::from_value(sealed.body).map_err(|error| error.to_string())?;
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

struct Answered {
    body: Value,
    /// What the service wants to be shown again, as its name and value.
    cookie: Option<String>,
}

fn ask(stream: &mut Conversation, line: &str, header: &str, body: &str) -> Result<Answered, String> {
    let head = format!(
        "{line} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{header}content-length: {}\r\n\r\n",
        body.len()
    );
    let heard = stream.ask(&[head.as_bytes(), body.as_bytes()].concat());
    let heard = heard.map_err(|error| format!("{line}: {error}"))?;
    if heard.status != 200 {
        return Err(format!("{line}: {} {}", heard.status, String::from_utf8_lossy(&heard.body)));
    }
    let cookie = heard.head.iter().find_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next());
    let cookie = cookie.map(str::to_owned);
    let body = serde_json::from_slice(&heard.body).map_err(|error| format!("{line}: {error}"))?;
    Ok(Answered { body, cookie })
}
