//! What a verifier expects, what it forgot to expect, and entries of a host's certificate table.

use coffer_attestation::snp::{Evidence, Expectations, coco};
use coffer_attestation::verdict::{Appraisal, Outcome, Verdict};
use coffer_attestation::x509::Certificate;
use serde_json::{Value, json};

use super::case::{NOW, VECTORS, judge};
use super::synthetic::{self, ListRecipe, ark, asvk, certificate, key, sign_report, vlek};

const COCO: &[u8] = include_bytes!("../../testdata/snp/genoa-v3-trustee/coco-evidence.json");
const VCEK: &[u8] = include_bytes!("../../testdata/snp/genoa-v3-trustee/vcek.der");

fn outcome(appraisal: &Appraisal, name: &str) -> Outcome {
    appraisal.checks().iter().find(|check| check.name == name).expect("the check").result
}

/// Judges the synthetic report with an id key whose digest is all ones.
fn with_id_key(expected: &Expectations) -> Appraisal {
    let evidence = synthetic::evidence(|report| report[0x0e0..0x110].fill(1));
    synthetic::judge(&evidence, expected, NOW)
}

#[test]
fn a_key_alone_is_a_warning_until_a_version_or_a_measurement_is_beside_it() {
    let key = Expectations { id_key_digest: Some([1; 48]), ..Expectations::default() };
    assert_eq!(outcome(&with_id_key(&key), "guest-svn"), Outcome::Warned);
    let version = Expectations { minimum_guest_svn: Some(0), ..key.clone() };
    assert_eq!(outcome(&with_id_key(&version), "guest-svn"), Outcome::Passed);
    let mut measurement = [0; 48];
    measurement[..32].fill(0xb1);
    let measured = Expectations { measurement: Some(measurement), ..key };
    assert_eq!(outcome(&with_id_key(&measured), "guest-svn"), Outcome::NotChecked);
}

#[test]
fn an_image_below_the_least_version_is_refused() {
    let expected = Expectations { minimum_guest_svn: Some(1), ..Expectations::default() };
    assert_eq!(outcome(&with_id_key(&expected), "guest-svn"), Outcome::Failed);
}

#[test]
fn a_vlek_is_held_to_the_cloud_that_it_was_made_for() {
    let mut report = synthetic::report();
    report[0x048] = 4;
    sign_report(&mut report, &key(5));
    let authorities = vec![certificate(&asvk()), certificate(&ark())];
    let vek = certificate(&vlek());
    let evidence = Evidence { report, vek, authorities, revocation: Vec::new() };
    let of = |name: &str| {
        let expected = Expectations { cloud_provider: Some(name.to_owned()), ..Expectations::default() };
        outcome(&synthetic::judge(&evidence, &expected, NOW), "cloud-provider")
    };
    assert_eq!((of("somecloud"), of("othercloud")), (Outcome::Passed, Outcome::Failed));
}

#[test]
fn a_minimum_that_nobody_gave_is_named() {
    let seen = with_id_key(&Expectations::default());
    let names = ["minimum-tcb", "minimum-launch-tcb"];
    assert_eq!(names.map(|name| outcome(&seen, name)), [Outcome::NotChecked; 2]);
}

#[test]
fn a_version_2_report_of_turin_is_read_as_turins() {
    let evidence = synthetic::evidence(|report| {
        report[0] = 2;
        report[0x188..0x18b].fill(0);
    });
    let seen = synthetic::judge(&evidence, &Expectations::default(), NOW);
    let reasons: Vec<&str> = seen.reasons().map(|check| check.name).collect();
    assert_eq!((seen.verdict(), reasons), (Verdict::Warning, vec!["memory-aliases"]));
    assert_eq!(outcome(&seen, "tcb-fmc"), Outcome::Passed);
}

#[test]
fn an_authority_that_is_not_built_in_needs_a_list_that_speaks_for_it() {
    let vector = VECTORS[2];
    let [ask, ark, _] = vector.authorities();
    let mut other = ask.der().to_vec();
    *other.last_mut().expect("a signature") ^= 1;
    let with = |der: &[u8]| {
        let ask = Certificate::from_der(der).expect("a certificate");
        let evidence = Evidence { authorities: vec![ask, ark.clone()], ..vector.evidence() };
        outcome(&judge(&evidence, &vector.expectations(), NOW).expect("a verdict"), "revocation")
    };
    assert_eq!((with(ask.der()), with(&other)), (Outcome::NotChecked, Outcome::Contraindicated));
}

/// The real evidence with more entries in its table.
fn with_entries(entries: &[Value]) -> Vec<u8> {
    let mut json: Value = serde_json::from_slice(COCO).expect("JSON");
    let chain = json["cert_chain"].as_array_mut().expect("a table");
    chain.extend(entries.iter().cloned());
    json.to_string().into_bytes()
}

#[test]
fn entries_that_are_nothing_for_us_are_passed_over() {
    let other = json!({"cert_type": {"OTHER": "00112233-4455-6677-8899-aabbccddeeff"}, "data": [1, 2, 3]});
    let empty = json!({"cert_type": "Empty", "data": []});
    let evidence = coco::parse(&with_entries(&[other, empty]), None).expect("evidence");
    assert_eq!(evidence.vek.der(), VCEK);
}

#[test]
fn a_revocation_list_of_the_table_is_taken_for_one() {
    let list = ListRecipe::of_the_root(&[2]);
    let entry = json!({"cert_type": "CRL", "data": list.der()});
    let evidence = coco::parse(&with_entries(std::slice::from_ref(&entry)), None).expect("evidence");
    assert_eq!(evidence.revocation, [list.list()]);
    assert!(coco::parse(&with_entries(&[entry.clone(), entry]), None).is_err());
    let broken = json!({"cert_type": "CRL", "data": [1, 2, 3]});
    assert!(coco::parse(&with_entries(&[broken]), None).is_err());
}

#[test]
fn a_key_beside_evidence_that_carries_one_is_refused() {
    let vek = Certificate::from_der(VCEK).expect("a VCEK");
    assert!(matches!(coco::parse(COCO, Some(vek)), Err(coco::CocoError::TwoKeys)));
}
