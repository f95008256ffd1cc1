//! The real service over TLS on loopback.

mod authority;
mod cluster;
mod collateral;
mod commands;
mod guests;
mod hostile;
mod hsm;
mod images;
mod keys;
mod managed;
mod replay;
mod replicas;
mod revoked;
mod rotation;
#[path = "../running/mod.rs"]
mod running;
#[path = "../simulated/mod.rs"]
mod simulated;

use coffer_attestation::handshake::{GuestKey, HashAlgorithm, ReportData, Sealed};
use getrandom::SysRng;
use running::{Answer, Ask, Place, Service};
use serde_json::{Value, json};
use simulated::Processor;

const INITDATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
const TRANSCRIPT: &str = include_str!("../../../testdata/kbs/kbs-client-transcript.jsonl");
const KEY: &str = "/kbs/v0/resource/acme/key/1";

/// The guests that a place knows, unsigned.
fn known() -> String {
    let digest = hex::encode(HashAlgorithm::Sha256.digest(INITDATA.as_bytes()));
    include_str!("../references/known.toml").replace("INITDATA", &digest)
}

fn place(limits: &str) -> Place {
    Place::new(&known(), Processor::root().der(), limits)
}

fn post(service: &Service, place: &Place, path: &str, body: &Value) -> Answer {
    let line = format!("POST {path}");
    service.ask(place, &Ask { line: &line, header: None, body: body.to_string().as_bytes() })
}

fn get(service: &Service, place: &Place, path: &str, header: Option<&str>) -> Answer {
    service.ask(place, &Ask { line: &format!("GET {path}"), header, body: b"" })
}

/// A request of an operator.
fn order(service: &Service, place: &Place, who: &str, line: &str, body: &str) -> Answer {
    service.ask_as(place, who, &Ask { line, header: None, body: body.as_bytes() })
}

/// Keeps a secret for the guests.
fn keep(service: &Service, place: &Place, secret: &str) {
    assert_eq!(order(service, place, "alice", &format!("POST {KEY}"), secret).status, 200);
}

/// Asks for a challenge and answers it with evidence of the simulated processor, for any public key.
fn attest_with(service: &Service, place: &Place, key: &Value) -> Answer {
    attest_showing(service, place, key, ["", ""])
}

/// The same, with these two as further evidence: what is bound, and what is sent.
fn attest_showing(service: &Service, place: &Place, key: &Value, additional: [&str; 2]) -> Answer {
    let asked = json!({"version": "0.4.0", "tee": "snp", "extra-params": ""});
    let challenge = post(service, place, "/kbs/v0/auth", &asked);
    assert_eq!(challenge.status, 200);
    let nonce = challenge.body["nonce"].as_str().expect("a nonce");
    post(service, place, "/kbs/v0/attest", &answer_showing(nonce, key, additional))
}

/// The answer to a challenge.
fn answer_to(nonce: &str, key: &Value) -> Value {
    answer_showing(nonce, key, ["", ""])
}

fn answer_showing(nonce: &str, key: &Value, [bound, sent]: [&str; 2]) -> Value {
    let bound = ReportData::compute(HashAlgorithm::Sha384, nonce, key, bound).expect("a canonical form");
    let digest = HashAlgorithm::Sha256.digest(INITDATA.as_bytes());
    let report = simulated::report(&bound.as_report_field(), &digest);
    json!({
        "init-data": { "format": "toml", "body": INITDATA },
        "runtime-data": { "nonce": nonce, "tee-pubkey": key },
        "tee-evidence": { "primary_evidence": Processor::evidence(report), "additional_evidence": sent },
    })
}

/// A guest that was admitted, and the header that says so.
fn admitted(service: &Service, place: &Place) -> (GuestKey, String) {
    let guest = guest();
    let token = token(&attest_with(service, place, &guest.public()));
    (guest, format!("authorization: Bearer {token}"))
}

fn token(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["token"].as_str().expect("a token").to_owned()
}

fn guest() -> GuestKey {
    GuestKey::generate(&mut SysRng).expect("randomness")
}

fn opened(guest: &GuestKey, answer: Answer) -> Vec<u8> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let sealed: Sealed = serde_json::from_value(answer.body).expect("sealed");
    guest.open(&sealed).expect("opened").to_vec()
}

/// Asks again and again, for a minute at most.
fn until(mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "it did not happen in a minute");
        // Asking without a pause is what the limits for one client are there against.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Status, and the last part of the type.
fn kind(answer: &Answer) -> (u16, String) {
    let kind = answer.body["type"].as_str().and_then(|kind| kind.rsplit('/').next());
    (answer.status, kind.unwrap_or("none").to_owned())
}

fn is(status: u16, kind: &str) -> (u16, String) {
    (status, kind.to_owned())
}
