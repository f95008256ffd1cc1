//! Guests: what they are given, and what they are refused.

use std::io::{Read, Write};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::running::{Answer, Ask, client};
use crate::{
    KEY, TRANSCRIPT, admitted, attest_with, get, guest, is, keep, kind, opened, place, post, token, until,
};

#[test]
fn a_guest_gets_its_secret_by_token_or_by_cookie_also_after_a_restart() {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "a secret");
    let guest = guest();
    let attested = attest_with(&service, &place, &guest.public());
    let token = token(&attested);
    let bearer = format!("authorization: Bearer {token}");
    assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&bearer))), b"a secret");
    let cookie =
        attested.headers.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    let cookie = format!("cookie: {}", cookie.split(';').next().expect("a pair"));
    assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&cookie))), b"a secret");
    service.signal(Signal::TERM);
    assert_eq!(service.wait(), Some(0));
    let again = place.start();
    assert_eq!(opened(&guest, get(&again, &place, KEY, Some(&bearer))), b"a secret");
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
    let ask = |line, body| kind(&service.ask(&place, &Ask { line, header: None, body }));
    assert_eq!(ask("GET /kbs/v0/resource/acme/key/1", b""), is(401, "Unauthenticated"));
    assert_eq!(ask("GET /elsewhere", b""), is(404, "NotFound"));
    assert_eq!(ask("POST /kbs/v0/auth", b"{"), is(400, "Malformed"));
    assert_eq!(ask("POST /kbs/v0/auth", &[b' '; 16385]), is(413, "TooLarge"));
    assert_eq!(ask("POST /kbs/v0/resource/acme/key/1", b"x"), is(401, "Unauthenticated"));
    let token = token(&attest_with(&service, &place, &guest().public()));
    let bearer = format!("authorization: Bearer {token}");
    let get = |path| kind(&get(&service, &place, path, Some(&bearer)));
    assert_eq!(get("/kbs/v0/resource/acme/key/9"), is(404, "NotFound"));
    assert_eq!(get("/kbs/v0/resource/umbrella/key/1"), is(403, "PolicyDeny"));
    assert_eq!(get("/kbs/v0/resource/acme/key"), is(400, "Malformed"));
}

#[test]
fn more_requests_than_allowed_are_told_to_come_back() {
    let place = place("client-requests-per-second = 1");
    let service = place.start();
    // The connection counts as one.
    let answer = post(&service, &place, "/kbs/v0/auth", &json!({}));
    assert_eq!((answer.status, answer.headers.contains("retry-after: 1")), (429, true));
}

#[test]
fn tokens_are_signed_with_the_published_key() {
    let place = place("");
    let service = place.start();
    let keys = get(&service, &place, "/.well-known/jwks.json", None).body;
    let token = token(&attest_with(&service, &place, &guest().public()));
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
    let old = client([place.certificate()].iter(), None);
    assert!(service.tls(&old).is_ok());
    place.renew_certificate();
    let new = client([place.certificate()].iter(), None);
    assert!(service.tls(&new).is_err());
    service.signal(Signal::HUP);
    until(|| service.tls(&new).is_ok());
    assert!(service.tls(&old).is_err());
}

#[test]
fn the_key_encryption_key_is_replaced_while_secrets_are_given_out() {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "a secret");
    let (guest, token) = admitted(&service, &place);
    let log = service.log();
    place.renew_key();
    service.signal(Signal::HUP);
    until(|| log.lock().expect("a log").matches("key-encryption keys were read again").count() == 1);
    assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&token))), b"a secret");
    place.keep_only_the_newest_key();
    service.signal(Signal::TERM);
    assert_eq!(service.wait(), Some(0));
    let again = place.start();
    assert_eq!(opened(&guest, get(&again, &place, KEY, Some(&token))), b"a secret");
}
