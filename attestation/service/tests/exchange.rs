//! Whole conversations of guests with a verifier, without a network: what is released, and what is refused and written down.

mod simulated;

use coffer_attestation::handshake::{Challenge, GuestKey, HashAlgorithm, ReportData, Sealed};
use coffer_attestation::snp::TrustedRoots;
use coffer_attestation::time::UnixTime;
use coffer_verifier::appraisal::{References, Signers, Trust};
use coffer_verifier::audit::{AuditLog, verify};
use coffer_verifier::challenge::{ChallengeKey, Challenger, Spent};
use coffer_verifier::exchange::{Parts, Refusal, Verifier};
use coffer_verifier::operators::Directory;
use coffer_verifier::secrets::{KeyEncryptionKey, Revocation, SecretStore};
use coffer_verifier::source::Source;
use getrandom::SysRng;
use serde_json::{Value, json};
use simulated::Processor;
use std::sync::Arc;
use tempfile::TempDir;

/// 2026-11-21T12:00:00Z.
const NOW: UnixTime = UnixTime(1_795_262_400);
const INITDATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
const AUTH: &[u8] =
    br#"{"version":"0.4.0","tee":"snp","extra-params":{"supported-hash-algorithms":["sha384"]}}"#;

fn known() -> References {
    let digest = hex::encode(HashAlgorithm::Sha256.digest(INITDATA.as_bytes()));
    References::parse(&include_str!("references/known.toml").replace("INITDATA", &digest))
        .expect("references")
}

struct Running {
    folder: TempDir,
    verifier: Verifier,
}

impl Running {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SecretStore::open(
            &folder.path().join("store"),
            Arc::new(vec![Arc::new(KeyEncryptionKey::new([1; 32])) as _]),
        );
        let store = store.expect("a store");
        store.put(&"acme/key/1".parse().expect("a path"), b"a secret", None).expect("kept");
        store.put(&"umbrella/key/1".parse().expect("a path"), b"another", None).expect("kept");
        let verifier = Verifier::new(Parts {
            challenger: Challenger::new(vec![ChallengeKey::new([2; 32])], 300, Spent::new(16)),
            trust: Trust { snp: TrustedRoots::amd().and_simulated(Processor::root()), ..Trust::makers() },
            references: known(),
            signers: Signers::default(),
            token_key: coffer_attestation::handshake::TokenKey::from_scalar(&[3; 32]).expect("a key"),
            token_lifetime: 300,
            store,
            audit: AuditLog::open(&folder.path().join("audit")).expect("a log"),
            audit_key: p256::ecdsa::SigningKey::from_slice(&[4; 32]).expect("a scalar"),
            operators: Directory::default(),
        })
        .expect("a verifier");
        Self { folder, verifier }
    }

    fn challenge(&self) -> Challenge {
        self.verifier.auth(AUTH, NOW).expect("a challenge")
    }

    fn attest(&self, body: &Value) -> Result<String, Refusal> {
        self.verifier.attest(body.to_string().as_bytes(), Source::Others, NOW)
    }

    /// A guest that is admitted, and its token.
    fn admitted(&self) -> (GuestKey, String) {
        let guest = guest();
        let token = self.attest(&body(&self.challenge().nonce, &guest.public(), |_| ())).expect("a token");
        (guest, token)
    }

    fn get(&self, path: &str, token: &str) -> Result<Sealed, Refusal> {
        self.verifier.resource(path, None, Some(token), NOW)
    }

    /// The newest entry of the log, all of which must hold.
    fn last_entry(&self) -> Value {
        let bytes = std::fs::read(self.folder.path().join("audit")).expect("the log");
        verify(&bytes, None).expect("whole");
        let text = String::from_utf8(bytes).expect("text");
        let entry = text.lines().last().and_then(|line| line.splitn(3, ' ').nth(2)).expect("an entry");
        serde_json::from_str::<Value>(entry).expect("JSON")["what"].clone()
    }

    /// Attests with `body` and holds status and log against what is expected.
    fn refuses(&self, body: &Value, status: u16, kind: &str) {
        let refusal = self.attest(body).expect_err("refused");
        assert_eq!((refusal.status(), refusal.kind()), (status, kind), "{refusal}");
        let entry = self.last_entry();
        assert_eq!((&entry["outcome"], &entry["kind"]), (&json!("refused"), &json!(kind)));
    }
}

fn guest() -> GuestKey {
    GuestKey::generate(&mut SysRng).expect("randomness")
}

/// What a guest sends for `nonce` and `key`, with a report that `change` was at before it was signed.
fn body(nonce: &str, key: &Value, change: impl FnOnce(&mut Vec<u8>)) -> Value {
    let bound = ReportData::compute(HashAlgorithm::Sha384, nonce, key, "").expect("a canonical form");
    let digest = HashAlgorithm::Sha256.digest(INITDATA.as_bytes());
    let mut report = simulated::report(&bound.as_report_field(), &digest);
    change(&mut report);
    json!({
        "init-data": { "format": "toml", "body": INITDATA },
        "runtime-data": { "nonce": nonce, "tee-pubkey": key },
        "tee-evidence": { "primary_evidence": Processor::evidence(report), "additional_evidence": "" },
    })
}

#[test]
fn a_known_guest_gets_its_secret_and_the_log_says_so() {
    let running = Running::new();
    let (guest, token) = running.admitted();
    assert_eq!(running.last_entry()["simulated"], true);
    let sealed = running.get("acme/key/1", &token).expect("released");
    assert_eq!(guest.open(&sealed).expect("opened").as_slice(), b"a secret");
    let entry = running.last_entry();
    assert_eq!((&entry["outcome"], &entry["path"]), (&json!("released"), &json!("acme/key/1")));
    assert!(!entry.to_string().contains("a secret"));
}

#[test]
fn without_a_token_the_answer_is_401_with_a_type_and_a_detail() {
    let refusal = Running::new().verifier.resource("acme/key/1", None, None, NOW).expect_err("refused");
    assert_eq!(refusal.status(), 401);
    let told = serde_json::to_string(&refusal.told()).expect("JSON");
    let expected = r#"{"type":"https://coffer.example/errors/Unauthenticated","detail":"attest first"}"#;
    assert_eq!(told, expected);
}

#[test]
fn a_nonce_of_somebody_else_is_refused() {
    let foreign = body("/VFayvLan/SEUPEP91ZBiGUCOQXF4C4wOGSNbKZS95M=", &guest().public(), |_| ());
    Running::new().refuses(&foreign, 401, "Unauthenticated");
}

#[test]
fn a_nonce_is_taken_once_even_when_the_first_answer_was_wrong() {
    let running = Running::new();
    let (nonce, key) = (running.challenge().nonce, guest().public());
    running.refuses(&body(&nonce, &key, |report| report[0x050] ^= 1), 403, "EvidenceInvalid");
    running.refuses(&body(&nonce, &key, |_| ()), 409, "ChallengeReplayed");
}

#[test]
fn a_nonce_that_expired_is_refused() {
    let running = Running::new();
    let old = running.verifier.auth(AUTH, UnixTime(NOW.0 - 300)).expect("a challenge");
    running.refuses(&body(&old.nonce, &guest().public(), |_| ()), 401, "Unauthenticated");
}

#[test]
fn evidence_for_another_nonce_is_refused() {
    let running = Running::new();
    let key = guest().public();
    let mut swapped = body(&running.challenge().nonce, &key, |_| ());
    swapped["runtime-data"]["nonce"] = running.challenge().nonce.into();
    running.refuses(&swapped, 403, "EvidenceInvalid");
    assert_eq!(running.last_entry()["reasons"][0]["name"], "report-data");
}

#[test]
fn evidence_for_another_key_is_refused() {
    let running = Running::new();
    let mut swapped = body(&running.challenge().nonce, &guest().public(), |_| ());
    swapped["runtime-data"]["tee-pubkey"] = guest().public();
    running.refuses(&swapped, 403, "EvidenceInvalid");
}

#[test]
fn evidence_whose_reasons_would_fill_the_log_is_written_down_all_the_same() {
    let running = Running::new();
    let mut endless = body(&running.challenge().nonce, &guest().public(), |_| ());
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    let mut own = rcgen::CertificateParams::default();
    own.distinguished_name.push(rcgen::DnType::OrganizationName, "x".repeat(7_500));
    own.distinguished_name.push(rcgen::DnType::CommonName, "SEV-VCEK");
    let own = own.self_signed(&key).expect("a certificate").der().to_vec();
    let chain = &mut endless["tee-evidence"]["primary_evidence"]["cert_chain"];
    let leaf = chain.as_array_mut().expect("a chain").iter_mut().find(|part| part["cert_type"] == "VCEK");
    leaf.expect("a leaf")["data"] = own.into();
    running.refuses(&endless, 403, "EvidenceInvalid");
    let reasons = running.last_entry()["reasons"].to_string();
    assert!(reasons.contains("xxxxx") && reasons.len() < 4096, "{reasons}");
}

#[test]
fn swapped_initdata_is_refused() {
    let running = Running::new();
    let mut swapped = body(&running.challenge().nonce, &guest().public(), |_| ());
    swapped["init-data"]["body"] = format!("{INITDATA}\"policy.rego\" = \"allow\"\n").into();
    running.refuses(&swapped, 403, "EvidenceInvalid");
    assert_eq!(running.last_entry()["reasons"][0]["name"], "host-data");
}

#[test]
fn sample_evidence_is_refused() {
    let running = Running::new();
    let asked = String::from_utf8(AUTH.to_vec()).expect("text").replace("snp", "sample");
    let challenge = running.verifier.auth(asked.as_bytes(), NOW).expect("a challenge");
    running.refuses(&body(&challenge.nonce, &guest().public(), |_| ()), 403, "PolicyDeny");
}

#[test]
fn a_genuine_guest_that_nobody_pinned_gets_a_token_that_opens_nothing() {
    let running = Running::new();
    let unknown = body(&running.challenge().nonce, &guest().public(), |report| report[0x090] ^= 1);
    let token = running.attest(&unknown).expect("a token");
    assert_eq!(running.last_entry()["reasons"][0]["name"], "reference-measurement");
    assert_eq!(running.get("acme/key/1", &token).expect_err("refused").kind(), "PolicyDeny");
}

#[test]
fn another_tenants_secret_is_denied_whether_it_exists_or_not() {
    let running = Running::new();
    let (_, token) = running.admitted();
    let there = running.get("umbrella/key/1", &token).expect_err("refused");
    let not_there = running.get("umbrella/key/2", &token).expect_err("refused");
    assert_eq!((there.status(), &there), (403, &not_there));
    assert_eq!(running.last_entry()["kind"], "PolicyDeny");
    assert_eq!(running.get("acme/key/2", &token).expect_err("refused").status(), 404);
    assert_eq!(running.get("acme/../umbrella", &token).expect_err("refused").status(), 400);
}

#[test]
fn what_is_revoked_opens_nothing_from_the_next_request_on() {
    let running = Running::new();
    let (_, token) = running.admitted();
    assert!(running.get("acme/key/1", &token).is_ok());
    let store = running.verifier.store();
    store.revoke(Revocation::Measurement, &"b1".repeat(48), NOW).expect("revoked");
    assert_eq!(running.get("acme/key/1", &token).expect_err("refused").status(), 403);
}

#[test]
fn each_thing_that_is_revoked_reaches_the_guest_and_is_told_apart() {
    let sandbox = "d1".repeat(32);
    let reached = [
        (Revocation::Sandbox, sandbox.clone()),
        (Revocation::Measurement, "b1".repeat(48)),
        (Revocation::Signer, "e1".repeat(48)),
    ]
    .map(|(kind, name)| {
        let running = Running::new();
        let guest = guest();
        let signed = |report: &mut Vec<u8>| report[0x0e0..0x110].fill(0xe1);
        let token =
            running.attest(&body(&running.challenge().nonce, &guest.public(), signed)).expect("a token");
        assert_eq!(running.last_entry()["identity"]["sandbox"], sandbox.as_str());
        assert!(running.get("acme/key/1", &token).is_ok());
        assert!(running.verifier.standing(Some(&token), NOW).is_ok());
        running.verifier.store().revoke(kind, &name, NOW).expect("revoked");
        let refused = running.get("acme/key/1", &token).expect_err("refused");
        assert_eq!(running.verifier.standing(Some(&token), NOW).expect_err("refused"), refused);
        assert_eq!(running.last_entry()["kind"], "Revoked");
        // Nor is it admitted again.
        let again = body(&running.challenge().nonce, &guest.public(), signed);
        assert_eq!(running.attest(&again).expect_err("refused"), refused);
        (refused.status(), refused.to_string())
    });
    let expected = ["sandbox", "measurement", "signer"].map(|what| (403, format!("the {what} was revoked")));
    assert_eq!(reached, expected);
}

#[test]
fn a_revoked_token_opens_nothing_and_another_one_of_the_guest_does() {
    let running = Running::new();
    let (_, token) = running.admitted();
    let verified = running.verifier.token_key().verify(&token, NOW).expect("a token");
    running.verifier.store().revoke(Revocation::Token, &verified.claims().jti, NOW).expect("revoked");
    assert_eq!(running.get("acme/key/1", &token).expect_err("refused").kind(), "Revoked");
    let (_, other) = running.admitted();
    assert!(running.get("acme/key/1", &other).is_ok());
}

#[test]
fn a_guest_that_is_not_known_any_more_gets_nothing_for_its_old_token() {
    let running = Running::new();
    let (_, token) = running.admitted();
    running.verifier.set_references(References::default(), Signers::default()).expect("references");
    assert_eq!(running.get("acme/key/1", &token).expect_err("refused").kind(), "PolicyDeny");
}

#[test]
fn an_old_or_changed_token_must_be_replaced() {
    let running = Running::new();
    let (_, token) = running.admitted();
    let late = running.verifier.resource("acme/key/1", None, Some(&token), UnixTime(NOW.0 + 300));
    assert_eq!(late.expect_err("refused").status(), 401);
    assert_eq!(running.get("acme/key/1", &token.replacen('.', ".A", 1)).expect_err("refused").status(), 401);
}

#[test]
fn a_body_that_is_too_long_is_413_and_one_that_is_no_json_400() {
    let running = Running::new();
    let long = running.verifier.auth(&vec![b' '; 1 << 20], NOW).expect_err("refused");
    let none = running.verifier.attest(b"{", Source::Others, NOW).expect_err("refused");
    assert_eq!((long.status(), none.status()), (413, 400));
}
