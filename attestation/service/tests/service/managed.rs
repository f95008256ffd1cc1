//! Operators: who they are, what they may do, and that all of it is written down.

use base64ct::{Base64, Encoding};
use coffer_attestation::audit::{Checkpoint, leaf_hash, verify, verify_inclusion};
use p256::ecdsa::VerifyingKey;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::running::{OPERATORS, SIGNER, client, signed, stranger};
use crate::{KEY, admitted, get, is, keep, kind, opened, order, place};

/// Whom the verifier does not know.
const STRANGERS_KEY: &str = include_str!("../../../testdata/dsse/p384.pem");
const NARROW: &str = "package coffer.release\nallow if input.tag == \"1\"";
const REFUSED: &str = "package coffer.release\nallow := false";

fn unsigned(name: &str, measurement: &str) -> String {
    format!(
        "[[reference]]\nname = \"{name}\"\ntee = \"snp\"\ntenants = [\"acme\"]\nmeasurement = \"{measurement}\"\n"
    )
}

fn references(name: &str, measurement: &str) -> String {
    signed(SIGNER, &unsigned(name, measurement))
}

/// Status of one order, as each operator in the order of [`OPERATORS`].
fn as_each(line: &str, body: &str) -> Vec<u16> {
    let place = place("");
    let service = place.start();
    OPERATORS.iter().map(|(name, _, _)| order(&service, &place, name, line, body).status).collect()
}

#[test]
fn each_role_reaches_what_it_may_and_nothing_else() {
    // alice admin, oscar operator, dora developer of acme, audrey auditor, rita releaser of acme
    assert_eq!(as_each("POST /kbs/v0/resource/acme/key/1", "x"), [200, 200, 200, 403, 403]);
    assert_eq!(as_each("POST /kbs/v0/resource/umbrella/key/1", "x"), [200, 200, 403, 403, 403]);
    assert_eq!(as_each("GET /coffer/v1/secrets/acme", ""), [200, 200, 200, 200, 403]);
    assert_eq!(as_each("DELETE /kbs/v0/resource/acme/key/1", ""), [404, 404, 403, 403, 403]);
    assert_eq!(as_each("PUT /coffer/v1/policies/release/acme", NARROW), [200, 403, 403, 403, 200]);
    assert_eq!(as_each("PUT /coffer/v1/policies/release/*", NARROW), [200, 403, 403, 403, 403]);
    assert_eq!(as_each("POST /coffer/v1/policies/release/acme/test", NARROW), [200, 200, 200, 403, 200]);
    assert_eq!(as_each("GET /coffer/v1/references", ""), [200, 200, 403, 200, 403]);
    assert_eq!(
        as_each("PUT /coffer/v1/references", &references("new", &"aa".repeat(48))),
        [200, 200, 403, 403, 403]
    );
    assert_eq!(
        as_each("POST /coffer/v1/revocations", "{\"kind\":\"token\",\"name\":\"x\"}"),
        [200, 200, 403, 403, 403]
    );
    assert_eq!(as_each("GET /coffer/v1/audit", ""), [200, 403, 403, 200, 403]);
    assert_eq!(as_each("GET /metrics", ""), [200, 200, 403, 200, 403]);
}

#[test]
fn without_a_certificate_of_an_operator_nothing_is_done_and_a_foreign_one_is_turned_away() {
    let place = place("");
    let service = place.start();
    assert_eq!(kind(&get(&service, &place, "/coffer/v1/audit", None)), is(401, "Unauthenticated"));
    assert_eq!(order(&service, &place, "mallory", "GET /coffer/v1/audit", "").status, 401);
    let foreign = stranger("alice");
    let config = client([place.certificate()].iter(), Some(foreign));
    let refused = service.tls(&config).and_then(|mut stream| {
        use std::io::{Read, Write};
        stream.write_all(b"GET /coffer/v1/audit HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
        stream.read(&mut [0; 16])
    });
    assert!(refused.is_err() || refused.is_ok_and(|read| read == 0));
}

#[test]
fn a_secret_has_versions_and_an_end() {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "old");
    let expired =
        order(&service, &place, "alice", &format!("POST {KEY}?expires=2020-01-01T00:00:00Z"), "new");
    assert_eq!(expired.body, json!({"version": 2}));
    let (guest, token) = admitted(&service, &place);
    assert_eq!(kind(&get(&service, &place, KEY, Some(&token))), is(404, "NotFound"));
    let old = get(&service, &place, &format!("{KEY}?version=1"), Some(&token));
    assert_eq!(opened(&guest, old), b"old");
    let listed = order(&service, &place, "dora", "GET /coffer/v1/secrets/acme", "").body;
    assert_eq!(
        listed["secrets"][1],
        json!({"path": "acme/key/1", "version": 2, "expiry": "2020-01-01T00:00:00Z"})
    );
    let wrong = order(&service, &place, "alice", &format!("POST {KEY}?expires=tomorrow"), "x");
    assert_eq!(wrong.status, 400);
}

#[test]
fn a_policy_is_tried_out_on_what_was_asked_put_in_force_and_taken_back() {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "a secret");
    let (_, token) = admitted(&service, &place);
    assert_eq!(get(&service, &place, KEY, Some(&token)).status, 200);
    let tried = order(&service, &place, "dora", "POST /coffer/v1/policies/release/acme/test", REFUSED).body;
    assert_eq!((&tried["asked"], &tried["changed"]), (&json!(1), &json!(1)));
    assert_eq!(get(&service, &place, KEY, Some(&token)).status, 200);
    let path = "/coffer/v1/policies/release/acme";
    let put = |policy| order(&service, &place, "alice", &format!("PUT {path}"), policy);
    assert_eq!(put(REFUSED).body, json!({"version": 1}));
    assert_eq!(kind(&get(&service, &place, KEY, Some(&token))), is(403, "PolicyDeny"));
    let stale = order(&service, &place, "alice", &format!("PUT {path}?expected=0"), NARROW);
    assert_eq!(kind(&stale), is(409, "Conflict"));
    assert_eq!(kind(&put("package coffer.release\nallow if")), is(400, "Malformed"));
    assert_eq!(put(NARROW).body, json!({"version": 2}));
    assert_eq!(get(&service, &place, KEY, Some(&token)).status, 200);
    service.signal(Signal::TERM);
    service.wait();
    let again = place.start();
    let other = get(&again, &place, "/kbs/v0/resource/acme/key/2", Some(&token));
    assert_eq!(kind(&other), is(403, "PolicyDeny"));
    assert_eq!(order(&again, &place, "alice", &format!("DELETE {path}"), "").status, 200);
    let other = get(&again, &place, "/kbs/v0/resource/acme/key/2", Some(&token));
    assert_eq!(kind(&other), is(404, "NotFound"));
    let versions = order(&again, &place, "audrey", &format!("GET {path}"), "").body;
    assert_eq!(versions["versions"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_policy_for_appraisal_narrows_whom_tokens_affirm() {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "a secret");
    let policy = "package coffer.appraisal\nallow if input.claims.report.vmpl == 1";
    let put = order(&service, &place, "alice", "PUT /coffer/v1/policies/appraisal/*", policy);
    assert_eq!(put.status, 200, "{}", put.body);
    let (_, token) = admitted(&service, &place);
    assert_eq!(kind(&get(&service, &place, KEY, Some(&token))), is(403, "PolicyDeny"));
    let query = "GET /coffer/v1/audit?event=attest";
    let logged = order(&service, &place, "audrey", query, "").body["entries"][0]["entry"].clone();
    let logged: Value = serde_json::from_str(logged.as_str().expect("text")).expect("JSON");
    assert_eq!(logged["what"]["reasons"][0]["name"], "appraisal-policy");
    assert_eq!(logged["what"]["reasons"][0]["found"], "appraisal/*@1: no");
}

#[test]
fn a_reference_is_added_replaced_and_taken_away_while_guests_run() {
    let place = place("");
    let service = place.start();
    let put = |text: &str| order(&service, &place, "oscar", "PUT /coffer/v1/references", text);
    assert_eq!(put(&references("new", &"aa".repeat(48))).body, json!({"version": 1}));
    assert_eq!(put(&references("new", &"ab".repeat(48))).body, json!({"version": 2}));
    assert_eq!(put(&references("web", &"ab".repeat(48))).status, 400, "the file has one of that name");
    assert_eq!(put(&references("new", "ab")).status, 400);
    let listed = order(&service, &place, "audrey", "GET /coffer/v1/references", "").body;
    assert_eq!(listed["in_force"], json!(["web", "another", "new"]));
    assert_eq!(listed["signed_by"]["new"]["name"], "release");
    let delete = || order(&service, &place, "oscar", "DELETE /coffer/v1/references/new", "").status;
    assert_eq!((delete(), delete()), (200, 404));
}

/// Entries of the log, as they were written.
fn entries(answer: &Value) -> Vec<Value> {
    let entries = answer["entries"].as_array().expect("entries").iter();
    let texts = entries.map(|entry| entry["entry"].as_str().expect("a text"));
    texts.map(|text| serde_json::from_str(text).expect("JSON")).collect()
}

#[test]
fn a_reference_that_nobody_or_a_stranger_signed_is_refused_and_who_signed_one_is_written_down() {
    let place = place("");
    let service = place.start();
    let put = |text: &str| order(&service, &place, "oscar", "PUT /coffer/v1/references", text);
    let text = unsigned("new", &"aa".repeat(48));
    let refused = [put(&text), put(&signed(STRANGERS_KEY, &text))];
    let said: Vec<_> =
        refused.iter().map(|answer| (answer.status, answer.body["detail"].to_string())).collect();
    assert!(said[0].0 == 400 && said[0].1.contains("nobody signed"), "{said:?}");
    assert!(said[1].0 == 400 && said[1].1.contains("none of the keys"), "{said:?}");
    assert_eq!(put(&signed(SIGNER, &text)).status, 200);
    let logged = order(&service, &place, "audrey", "GET /coffer/v1/audit?event=put", "").body;
    assert_eq!(entries(&logged)[0]["what"]["signer"]["name"], "release", "{logged}");
}

#[test]
fn guests_of_a_signer_that_is_revoked_are_nobodys_at_once() {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "a secret");
    let (guest, token) = admitted(&service, &place);
    assert_eq!(opened(&guest, get(&service, &place, KEY, Some(&token))), b"a secret");
    let listed = order(&service, &place, "audrey", "GET /coffer/v1/references", "").body;
    let signer = listed["signed_by"]["web"]["id"].clone();
    let body = json!({ "kind": "signer", "name": signer }).to_string();
    assert_eq!(order(&service, &place, "oscar", "POST /coffer/v1/revocations", &body).status, 200);
    assert_eq!(kind(&get(&service, &place, KEY, Some(&token))), is(403, "Revoked"));
    assert_eq!(kind(&get(&service, &place, "/coffer/v1/standing", Some(&token))), is(403, "Revoked"));
    // Who attests anew is told which value is worth nothing any more.
    let (_, again) = admitted(&service, &place);
    assert_eq!(kind(&get(&service, &place, KEY, Some(&again))), is(403, "PolicyDeny"));
    let logged = order(&service, &place, "audrey", "GET /coffer/v1/audit?event=attest", "").body;
    let with_reason = |entry: &Value| entry["what"]["reasons"][0]["name"] == "reference-signer";
    let entry = entries(&logged).into_iter().find(with_reason).expect("an entry with the reason");
    assert_eq!(entry["what"]["signer"]["revoked"], true);
}

#[test]
fn unsigned_references_count_only_under_a_flag_that_the_log_and_each_verdict_name() {
    let place = place("");
    std::fs::write(place.file("references.toml"), crate::known()).expect("written");
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_coffer-verifier"))
        .arg("--config")
        .arg(place.file("verifier.toml"))
        .output()
        .expect("it runs");
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("nobody signed reference \\\"web\\\"")
            || said.contains("nobody signed reference \"web\""),
        "{said}"
    );
    let place = place.with("insecure-unsigned-references = true");
    let service = place.start();
    let token = crate::token(&crate::attest_with(&service, &place, &crate::guest().public()));
    let claims = token.split('.').nth(1).expect("claims");
    let claims = <base64ct::Base64UrlUnpadded as Encoding>::decode_vec(claims).expect("base64");
    let claims = String::from_utf8(claims).expect("text");
    assert!(claims.contains("nobody: insecure-unsigned-references"), "{claims}");
    let put =
        order(&service, &place, "oscar", "PUT /coffer/v1/references", &unsigned("new", &"aa".repeat(48)));
    assert_eq!(put.status, 200, "{}", put.body);
    let log = service.log();
    crate::until(|| log.lock().expect("a log").contains("insecure-unsigned-references"));
}

#[test]
fn a_release_is_found_in_the_log_and_proven_to_be_there() {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "a secret");
    let (_, token) = admitted(&service, &place);
    assert_eq!(get(&service, &place, KEY, Some(&token)).status, 200);
    let query = "GET /coffer/v1/audit?event=release&outcome=released&path=acme%2Fkey%2F1";
    let found = order(&service, &place, "audrey", query, "").body;
    let (number, entry) =
        (found["entries"][0]["number"].as_u64().expect("a number"), &found["entries"][0]["entry"]);
    let proven = order(&service, &place, "audrey", &format!("GET /coffer/v1/audit/{number}/proof"), "").body;
    assert_eq!(&proven["entry"], entry);
    let key = order(&service, &place, "audrey", "GET /coffer/v1/audit/checkpoint", "").body["key"].clone();
    let key = Base64::decode_vec(key.as_str().expect("text")).expect("base64");
    let key = VerifyingKey::from_sec1_bytes(&key).expect("a key");
    let checkpoint = Checkpoint::verify(proven["checkpoint"].as_str().expect("text"), &key).expect("signed");
    let proof: Vec<[u8; 32]> = proven["proof"]
        .as_array()
        .expect("hashes")
        .iter()
        .map(|hash| {
            hex::decode(hash.as_str().expect("text")).expect("hexadecimal").try_into().expect("32 bytes")
        })
        .collect();
    let leaf = leaf_hash(entry.as_str().expect("text").as_bytes());
    assert_eq!(verify_inclusion(leaf, (number, checkpoint.size), &proof, &checkpoint.root), Ok(()));
    let log = std::fs::read(place.file("audit")).expect("the log");
    assert!(verify(&log, Some(&checkpoint)).is_ok());
}

#[test]
fn every_change_and_every_refused_change_names_its_operator_in_the_log() {
    let place = place("");
    let service = place.start();
    keep(&service, &place, "a secret");
    assert_eq!(order(&service, &place, "dora", "POST /kbs/v0/resource/umbrella/key/1", "x").status, 403);
    let query =
        |of: &str| order(&service, &place, "audrey", &format!("GET /coffer/v1/audit?operator={of}"), "").body;
    let entry = |found: Value| {
        let text = found["entries"][0]["entry"].as_str().expect("an entry").to_owned();
        serde_json::from_str::<Value>(&text).expect("JSON")["what"].clone()
    };
    let (alice, dora) = (entry(query("alice")), entry(query("dora")));
    assert_eq!(
        (&alice["event"], &alice["of"], &alice["path"]),
        (&json!("put"), &json!("secret"), &json!("acme/key/1"))
    );
    assert_eq!((&dora["outcome"], &dora["tenant"]), (&json!("refused"), &json!("umbrella")));
}

#[test]
fn metrics_count_decisions_and_their_labels_are_the_programs_own() {
    let place = place("");
    let service = place.start();
    let (_, token) = admitted(&service, &place);
    let names = ["acme/key/1", "acme/key/2", "umbrella/key/1"];
    let asked =
        names.map(|name| get(&service, &place, &format!("/kbs/v0/resource/{name}"), Some(&token)).status);
    assert_eq!(asked, [404, 404, 403]);
    let text = order(&service, &place, "audrey", "GET /metrics", "").body;
    let text = text.as_str().expect("text");
    assert!(text.contains("{event=\"attest\",outcome=\"token\"} 1"), "{text}");
    assert!(text.contains("{event=\"release\",outcome=\"NotFound\"} 2"), "{text}");
    assert!(!text.contains("umbrella") && !text.contains("acme"), "{text}");
}
