//! Guests of real and simulated processors, held against what their owner pinned.

mod simulated;

use base64ct::{Base64, Encoding};
use coffer_attestation::handshake::{Attestation, HashAlgorithm, ImageRecord, Images, Tee};
use coffer_attestation::snp::TrustedRoots;
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Outcome, Verdict};
use coffer_verifier::appraisal::{
    Admitted, Asked, JudgeError, Judged, References, Refused, Trust, appraise, judge,
};
use coffer_verifier::challenge::Redeemed;
use coffer_verifier::source::Source;
use serde_json::{Value, json};
use simulated::Processor;

/// 2026-11-21T12:00:00Z.
const NOW: UnixTime = UnixTime(1_795_262_400);
/// Who shows it, and when.
const SHOWN: Asked = Asked { from: Source::V4([192, 0, 2, 1]), at: NOW };
const ASKED: Redeemed = Redeemed { tee: Tee::Snp, hash: HashAlgorithm::Sha384 };
const INITDATA: &str =
    "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"policy.rego\" = \"package agent_policy\"";
const KNOWN: &str = include_str!("references/known.toml");

fn initdata_digest() -> Vec<u8> {
    HashAlgorithm::Sha256.digest(INITDATA.as_bytes())
}

/// What a guest sends, with a report that `change` was at before it was signed.
fn sent(change: impl FnOnce(&mut Vec<u8>)) -> Attestation {
    sent_with("", change)
}

/// The same, with further evidence.
fn sent_with(additional: &str, change: impl FnOnce(&mut Vec<u8>)) -> Attestation {
    let key = json!({
        "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
        "x": "hKNU0_R2SgvuHV3Q1wf_CjNhnMRguW9k_b_EkxXTu0s", "y": "ENjUdSdQ4ZhrfWx6wjquwO79VoeLeQkO8EIB0rhaly4",
    });
    let body = |evidence: &Value| {
        json!({
            "init-data": { "format": "toml", "body": INITDATA },
            "runtime-data": { "nonce": "some nonce", "tee-pubkey": key },
            "tee-evidence": { "primary_evidence": evidence, "additional_evidence": additional },
        })
    };
    let read = |body: Value| Attestation::parse(body.to_string().as_bytes()).expect("an attestation");
    let bound = read(body(&Value::Null)).report_data(ASKED.hash).expect("a canonical form");
    let mut report = simulated::report(&bound.as_report_field(), &initdata_digest());
    change(&mut report);
    read(body(&Processor::evidence(report)))
}

/// JSON with another value at one place.
fn with(text: &str, place: &str, value: Value) -> String {
    let mut all: Value = serde_json::from_str(text).expect("JSON");
    *all.pointer_mut(place).expect("a value") = value;
    all.to_string()
}

fn trust() -> Trust {
    Trust { snp: TrustedRoots::amd().and_simulated(Processor::root()), ..Trust::makers() }
}

fn judged(sent: &Attestation) -> Judged {
    judge(sent, &ASKED, &trust(), SHOWN).expect("evidence")
}

fn references(change: impl FnOnce(String) -> String) -> References {
    let text = KNOWN.replace("INITDATA", &hex::encode(initdata_digest()));
    References::parse(&change(text)).expect("references")
}

fn admit(sent: &Attestation, known: &References) -> Result<Admitted, Refused> {
    appraise(judged(sent), known).admit()
}

/// The checks that are why a guest is refused.
fn reasons(sent: &Attestation, known: &References) -> Vec<&'static str> {
    admit(sent, known).expect_err("refused").reasons.iter().map(|check| check.name).collect()
}

fn expected_of(check: &str, sent: &Attestation, known: &References) -> String {
    let refused = admit(sent, known).expect_err("refused");
    refused.reasons.iter().find(|reason| reason.name == check).expect("the reason").expected.clone()
}

#[test]
fn a_guest_whose_every_value_is_pinned_is_admitted_for_its_tenants() {
    let admitted = admit(&sent(|_| ()), &references(|text| text)).expect("admitted");
    assert_eq!(admitted.reference().name, "web");
    assert!(admitted.may_have_secrets_of("acme") && !admitted.may_have_secrets_of("umbrella"));
    assert_eq!(admitted.appraisal().claims()["simulated"], true);
}

#[test]
fn a_simulated_processor_that_nobody_named_is_refused() {
    let judged = judge(&sent(|_| ()), &ASKED, &Trust::makers(), SHOWN).expect("evidence");
    assert_eq!(judged.appraisal.verdict(), Verdict::Invalid);
    let refused = appraise(judged, &references(|text| text)).admit().expect_err("refused");
    assert!(refused.reasons.iter().any(|check| check.name == "root-of-trust"));
}

#[test]
fn without_any_reference_nothing_is_admitted_and_the_missing_value_is_named() {
    let none = References::default();
    assert_eq!(reasons(&sent(|_| ()), &none), ["reference-measurement"]);
    let expected = expected_of("reference-measurement", &sent(|_| ()), &none);
    assert_eq!(expected, "the reference value measurement of some snp guest, which is missing");
}

#[test]
fn a_reference_without_initdata_or_firmware_names_both_as_missing() {
    let lines = |text: String| {
        let kept = text.lines().filter(|line| !line.starts_with("initdata") && !line.starts_with("minimum"));
        kept.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(reasons(&sent(|_| ()), &references(lines)), ["reference-initdata", "reference-tcb"]);
    let initdata = expected_of("reference-initdata", &sent(|_| ()), &references(lines));
    assert_eq!(initdata, "the reference value initdata of \"web\", which is missing");
    let firmware = expected_of("reference-tcb", &sent(|_| ()), &references(lines));
    assert_eq!(firmware, "the reference value minimum_tcb of \"web\", which is missing");
}

#[test]
fn another_measurement_is_refused() {
    let other = sent(|report| report[0x090] ^= 1);
    assert_eq!(reasons(&other, &references(|text| text)), ["reference-measurement"]);
}

#[test]
fn a_guest_that_may_be_debugged_is_refused() {
    let debugged = sent(|report| report[0x00a] |= 0x08);
    assert_eq!(reasons(&debugged, &references(|text| text)), ["debug", "hardware-verdict", "no-debug"]);
}

#[test]
fn firmware_older_than_the_minimum_is_refused() {
    let newer = |text: String| text.replace("microcode = 71", "microcode = 72");
    assert_eq!(reasons(&sent(|_| ()), &references(newer)), ["reference-tcb"]);
}

#[test]
fn swapped_initdata_is_refused_by_the_hardware_and_by_the_pin() {
    let swapped = sent(|report| report[0x0c0] ^= 1);
    let names = ["host-data", "hardware-verdict", "reference-initdata"];
    assert_eq!(reasons(&swapped, &references(|text| text)), names);
}

#[test]
fn evidence_for_another_nonce_or_key_is_refused() {
    let mut other_nonce = sent(|_| ());
    other_nonce.nonce = "another nonce".to_owned();
    assert_eq!(reasons(&other_nonce, &references(|text| text)), ["report-data", "hardware-verdict"]);
    let mut other_key = sent(|_| ());
    other_key.key_as_sent["x"] = "ofDQgiqLAsR6K0kmBhvUqas".into();
    assert_eq!(reasons(&other_key, &references(|text| text)), ["report-data", "hardware-verdict"]);
}

#[test]
fn a_report_that_was_changed_after_it_was_signed_is_refused() {
    let mut changed = sent(|_| ());
    changed.evidence = with(&changed.evidence, "/attestation_report/guest_svn", 9.into());
    assert_eq!(reasons(&changed, &references(|text| text))[..1], ["report-signature"]);
}

#[test]
fn a_token_says_why() {
    let appraised = appraise(judged(&sent(|report| report[0x090] ^= 1)), &references(|text| text));
    let submodule = appraised.submodule();
    assert_eq!(submodule.status, "contraindicated");
    assert_eq!((submodule.vector.hardware, submodule.vector.executables), (2, 33));
    assert_eq!(submodule.evidence["coffer"]["reasons"][0]["name"], "reference-measurement");
    assert_eq!(submodule.evidence["snp"]["simulated"], true);
    let good = appraise(judged(&sent(|_| ())), &references(|text| text)).submodule();
    assert_eq!(good.status, "affirming");
    assert_eq!((good.vector.hardware, good.vector.executables, good.vector.configuration), (2, 3, 2));
    assert_eq!(good.evidence["coffer"]["tenants"][0], "acme");
}

#[test]
fn additional_evidence_is_refused_and_not_passed_over() {
    let more = sent_with("{\"nvidia\":{}}", |_| ());
    assert!(matches!(judge(&more, &ASKED, &trust(), SHOWN), Err(JudgeError::Additional(_))));
}

fn one_image() -> Images {
    let record = ImageRecord {
        image: "r.example.com/app:1".to_owned(),
        digest: format!("sha256:{}", "0a".repeat(32)),
        rule: "/default/0".to_owned(),
        signers: vec!["P-256 00".to_owned()],
    };
    Images::default().with(record).expect("a record")
}

#[test]
fn the_images_of_a_guest_are_what_its_report_covers() {
    let images = one_image();
    let judged = judged(&sent_with(&images.to_json(), |_| ()));
    assert_eq!((judged.appraisal.verdict(), judged.images.as_ref()), (Verdict::Affirming, Some(&images)));
    let told = appraise(judged, &references(|text| text)).submodule().evidence;
    assert_eq!(told["coffer"]["images"][0]["signers"], json!(["P-256 00"]));
    let silent = appraise(self::judged(&sent(|_| ())), &references(|text| text)).submodule().evidence;
    assert_eq!(silent["coffer"]["images"], Value::Null);
}

#[test]
fn images_that_the_report_does_not_cover_are_refused() {
    let mut added = sent(|_| ());
    added.additional = one_image().to_json();
    assert_eq!(reasons(&added, &references(|text| text)), ["report-data", "hardware-verdict"]);
    let mut left_out = sent_with(&one_image().to_json(), |_| ());
    left_out.additional = String::new();
    assert_eq!(reasons(&left_out, &references(|text| text)), ["report-data", "hardware-verdict"]);
}

#[test]
fn initdata_that_the_hardware_cannot_carry_whole_is_refused() {
    let mut long = sent(|_| ());
    let text = INITDATA.replace("sha256", "sha384");
    long.init_data = Some(coffer_attestation::handshake::InitData::parse("toml", text).expect("initdata"));
    assert!(matches!(judge(&long, &ASKED, &trust(), SHOWN), Err(JudgeError::InitData(_))));
}

#[test]
fn recorded_sample_evidence_is_looked_at_only_where_it_was_asked_for_and_never_admitted() {
    let recorded =
        include_str!("../../testdata/kbs/kbs-client-transcript.jsonl").lines().nth(2).expect("a line");
    let exchange: Value = serde_json::from_str(recorded).expect("JSON");
    let mut sent = Attestation::parse(exchange["req"].to_string().as_bytes()).expect("an attestation");
    let asked = Redeemed { tee: Tee::Sample, ..ASKED };
    assert!(matches!(judge(&sent, &asked, &trust(), SHOWN), Err(JudgeError::Sample)));
    let insecure = Trust { insecure_sample: true, ..trust() };
    let judged = judge(&sent, &asked, &insecure, SHOWN).expect("evidence");
    assert_eq!(judged.appraisal.verdict(), Verdict::Warning);
    assert!(judged.appraisal.checks().iter().any(|check| check.found.contains("SIMULATED")));
    assert!(appraise(judged, &references(|text| text)).admit().is_err());
    sent.evidence = with(&sent.evidence, "/report_data", Base64::encode_string(&[0; 48]).into());
    let wrong = judge(&sent, &asked, &insecure, SHOWN).expect("evidence").appraisal;
    assert_eq!(wrong.checks().first().map(|check| check.result), Some(Outcome::Failed));
}
