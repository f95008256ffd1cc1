//! The real service over TLS on loopback.

mod running;
mod simulated;

use std::io::{Read, Write};

use coffer_attestation::handshake::{GuestKey, HashAlgorithm, ReportData, Sealed};
use getrandom::SysRng;
use running::{ADMIN, Answer, Ask, Place, Service};
use serde_json::{Value, json};
use simulated::Processor;

const INITDATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
const TRANSCRIPT: &str = include_str!("../../testdata/kbs/kbs-client-transcript.jsonl");

fn place(more: &str) -> Place {
    let digest = hex::encode(HashAlgorithm::Sha256.digest(INITDATA.as_bytes()));
    let references = include_str!("references/known.toml").replace("INITDATA", &digest);
    Place::new(&references, Processor::root().der(), more)
}

fn post(service: &Service, place: &Place, path: &str, body: &Value) -> Answer {
    let line = format!("POST {path}");
    service.ask(place, &Ask { line: &line, header: None, body: body.to_string().as_bytes() })
}

fn get(service: &Service, place: &Place, path: &str, header: Option<&str>) -> Answer {
    service.ask(place, &Ask { line: &format!("GET {path}"), header, body: b"" })
}

fn put(service: &Service, place: &Place, secret: &[u8], token: &str) -> Answer {
    let header = format!("authorization: Bearer {token}");
    service.ask(place, &Ask { line: "POST /kbs/v0/resource/acme/key/1", header: Some(&header), body: secret })
}

/// Asks for a challenge and answers it with evidence of the simulated processor.
fn attest(service: &Service, place: &Place, guest: &GuestKey) -> Answer {
    let asked = json!({"version": "0.4.0", "tee": "snp", "extra-params": ""});
    let challenge = post(service, place, "/kbs/v0/auth", &asked);
    assert_eq!(challenge.status, 200);
    let (nonce, key) = (challenge.body["nonce"].as_str().expect("a nonce"), guest.public());
    let bound = ReportData::compute(HashAlgorithm::Sha384, nonce, &key, "").expect("a canonical form");
    let digest = HashAlgorithm::Sha256.digest(INITDATA.as_bytes());
    let report = simulated::report(&bound.as_report_field(), &digest);
    let body = json!({
        "init-data": { "format": "toml", "body": INITDATA },
        "runtime-data": { "nonce": nonce, "tee-pubkey": key },
        "tee-evidence": { "primary_evidence": Processor::evidence(report), "additional_evidence": "" },
    });
    post(service, place, "/kbs/v0/attest", &body)
}

fn guest() -> GuestKey {
    GuestKey::generate(&mut SysRng).expect("randomness")
}

fn opened(guest: &GuestKey, answer: Answer) -> Vec<u8> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let sealed: Sealed = serde_json::from_value(answer.body).expect("sealed");
    guest.open(&sealed).expect("opened").to_vec()
}

#[test]
fn a_guest_gets_its_secret_by_token_or_by_cookie_also_after_a_restart() {
    let place = place("");
    let service = place.start();
    assert_eq!(put(&service, &place, b"a secret", ADMIN).body, json!({"version": 1}));
    let guest = guest();
    let attested = attest(&service, &place, &guest);
    let token = attested.body["token"].as_str().expect("a token");
    let bearer = format!("authorization: Bearer {token}");
    let path = "/kbs/v0/resource/acme/key/1";
    assert_eq!(opened(&guest, get(&service, &place, path, Some(&bearer))), b"a secret");
    let cookie =
        attested.headers.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    let cookie = format!("cookie: {}", cookie.split(';').next().expect("a pair"));
    assert_eq!(opened(&guest, get(&service, &place, path, Some(&cookie))), b"a secret");
    service.signal("TERM");
    assert_eq!(service.wait(), Some(0));
    let again = place.start();
    assert_eq!(opened(&guest, get(&again, &place, path, Some(&bearer))), b"a secret");
}

#[test]
fn recorded_requests_of_another_client_are_understood_and_their_sample_evidence_is_refused() {
    let place = place("");
    let service = place.start();
    let recorded: Vec<Value> =
        TRANSCRIPT.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let answers = recorded.iter().map(|exchange| {
        let (method, path) =
            (exchange["m"].as_str().expect("a method"), exchange["p"].as_str().expect("a path"));
        let body = if exchange["req"].is_null() { String::new() } else { exchange["req"].to_string() };
        let line = format!("{method} {path}");
        let answer = service.ask(&place, &Ask { line: &line, header: None, body: body.as_bytes() });
        (path.rsplit('/').next().expect("a name").to_owned(), answer)
    });
    let seen: Vec<(String, Answer)> = answers.collect();
    let auth: Vec<&Answer> =
        seen.iter().filter(|(name, _)| name == "auth").map(|(_, answer)| answer).collect();
    assert!(auth.len() == 5 && auth.iter().all(|answer| answer.status == 200));
    assert!(auth.iter().all(|answer| answer.headers.contains("set-cookie: kbs-session-id=")));
    assert!(auth.iter().all(|answer| answer.body["extra-params"] == "" && answer.body["nonce"].is_string()));
    let others = seen.iter().filter(|(name, _)| name != "auth");
    // Nonces and tokens are those of the recorded server.
    let foreign = others.map(|(_, answer)| (answer.status, answer.body["detail"].is_string()));
    assert!(foreign.collect::<Vec<_>>().iter().all(|found| *found == (401, true)));
}

#[test]
fn every_refusal_has_its_status_and_a_typed_body() {
    let place = place("");
    let service = place.start();
    let kind = |answer: &Answer| {
        let kind = answer.body["type"].as_str().and_then(|kind| kind.rsplit('/').next()).map(str::to_owned);
        (answer.status, kind.expect("a type"))
    };
    let is = |status, name: &str| (status, name.to_owned());
    let ask = |line, body| kind(&service.ask(&place, &Ask { line, header: None, body }));
    assert_eq!(ask("GET /kbs/v0/resource/acme/key/1", b""), is(401, "Unauthenticated"));
    assert_eq!(ask("GET /elsewhere", b""), is(404, "NotFound"));
    assert_eq!(ask("POST /kbs/v0/auth", b"{"), is(400, "Malformed"));
    assert_eq!(ask("POST /kbs/v0/auth", &[b' '; 16385]), is(413, "TooLarge"));
    assert_eq!(kind(&put(&service, &place, b"x", "another token")), is(401, "Unauthenticated"));
    let token = attest(&service, &place, &guest()).body["token"].as_str().expect("a token").to_owned();
    let bearer = format!("authorization: Bearer {token}");
    let get = |path| kind(&get(&service, &place, path, Some(&bearer)));
    assert_eq!(get("/kbs/v0/resource/acme/key/9"), is(404, "NotFound"));
    assert_eq!(get("/kbs/v0/resource/umbrella/key/1"), is(403, "PolicyDeny"));
    assert_eq!(get("/kbs/v0/resource/acme/key"), is(400, "Malformed"));
}

#[test]
fn more_requests_than_allowed_are_told_to_come_back() {
    let place = place("[limits]\nrequests-per-second = 0");
    let service = place.start();
    let answer = post(&service, &place, "/kbs/v0/auth", &json!({}));
    assert_eq!((answer.status, answer.headers.contains("retry-after: 1")), (429, true));
}

#[test]
fn tokens_are_signed_with_the_published_key() {
    let place = place("");
    let service = place.start();
    let keys = get(&service, &place, "/.well-known/jwks.json", None).body;
    let token = attest(&service, &place, &guest()).body["token"].as_str().expect("a token").to_owned();
    let header = token.split('.').next().expect("a header");
    let header = <base64ct::Base64UrlUnpadded as base64ct::Encoding>::decode_vec(header).expect("base64");
    let header: Value = serde_json::from_slice(&header).expect("JSON");
    assert_eq!((&header["alg"], &header["jwk"]), (&json!("ES256"), &keys["keys"][0]));
}

#[test]
fn plain_http_gets_no_answer() {
    let place = place("");
    let service = place.start();
    let mut plain = service.connect();
    plain.write_all(b"GET /kbs/v0/resource/acme/key/1 HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));
}

#[test]
fn a_new_certificate_is_shown_after_a_hangup() {
    let place = place("");
    let service = place.start();
    let old = place.certificate();
    assert!(service.tls(old.clone(), &[&rustls::version::TLS13]).is_ok());
    place.renew_certificate();
    assert!(service.tls(place.certificate(), &[&rustls::version::TLS13]).is_err());
    service.signal("HUP");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while service.tls(place.certificate(), &[&rustls::version::TLS13]).is_err() {
        assert!(std::time::Instant::now() < deadline, "the old certificate is still shown");
    }
    assert!(service.tls(old, &[&rustls::version::TLS13]).is_err());
}
