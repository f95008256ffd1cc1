//! Evidence that brings no certificates, judged with what is kept and fetched.

use std::sync::Arc;

use coffer_attestation::handshake::{Attestation, HashAlgorithm, Tee};
use coffer_attestation::sim::{Debug, FIRMWARE, Launch, Processor};
use coffer_attestation::snp::coco;
use coffer_attestation::verdict::{Check, Verdict};
use coffer_verifier::appraisal::{Asked, JudgeError, Judged, Trust, judge};
use coffer_verifier::challenge::Redeemed;
use coffer_verifier::collateral::{Absent, Collateral, Item};
use coffer_verifier::source::Source;
use serde_json::{Value, json};

use crate::cases::{LONG, NOW, cache, online, roots};
use crate::forged;
use crate::played::Played;

/// Who shows it, and when.
const SHOWN: Asked = Asked { from: Source::V4([192, 0, 2, 1]), at: NOW };
const ASKED: Redeemed = Redeemed { tee: Tee::Snp, hash: HashAlgorithm::Sha384 };

pub(crate) fn unsigned(report_data: &[u8; 64]) -> Vec<u8> {
    let launch =
        Launch { measurement: [0xb1; 48], host_data: [0; 32], debug: Debug::Off, instance: [0xd1; 32] };
    Processor::new(&[7; 32], FIRMWARE).unsigned(&launch, report_data).to_vec()
}

/// What a guest of the forged chip sends, with certificates of its own choice.
fn sent(certificates: &[(&str, &[u8])]) -> Attestation {
    let key = json!({
        "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
        "x": "hKNU0_R2SgvuHV3Q1wf_CjNhnMRguW9k_b_EkxXTu0s", "y": "ENjUdSdQ4ZhrfWx6wjquwO79VoeLeQkO8EIB0rhaly4",
    });
    let body = |evidence: &Value| {
        let body = json!({
            "init-data": null,
            "runtime-data": { "nonce": "some nonce", "tee-pubkey": key },
            "tee-evidence": { "primary_evidence": evidence, "additional_evidence": "" },
        });
        Attestation::parse(body.to_string().as_bytes()).expect("an attestation")
    };
    let bound = body(&Value::Null).report_data(ASKED.hash).expect("a canonical form");
    let report = forged::sign(unsigned(&bound.as_report_field()));
    body(&coco::write(&report, certificates).expect("a report"))
}

fn judged(supply: Option<Collateral>, sent: &Attestation, required: bool) -> Result<Judged, JudgeError> {
    let trust = Trust {
        snp: roots().snp,
        collateral: supply.map(Arc::new),
        snp_revocation_list: required,
        ..Trust::makers()
    };
    judge(sent, &ASKED, &trust, SHOWN)
}

/// Name, expected and found of each reason.
fn reasons(judged: &Judged) -> Vec<(&'static str, String, String)> {
    let part = |check: &Check| (check.name, check.expected.clone(), check.found.clone());
    judged.appraisal.reasons().map(part).collect()
}

/// A cache with chain, VCEK, and this list.
fn filled(folder: &tempfile::TempDir, list: Option<&[u8]>) -> Collateral {
    let kept = cache(folder.path());
    let generation = coffer_attestation::snp::Generation::Turin;
    let chip = forged::CHIP.to_vec();
    kept.keep(&Item::Chain { generation }, &forged::chain(), NOW).expect("kept");
    let vcek = Item::Vcek { generation, chip, tcb: FIRMWARE };
    kept.keep(&vcek, &forged::vcek(), NOW).expect("kept");
    if let Some(list) = list {
        let place = folder.path().join("simulated/Turin");
        std::fs::create_dir_all(&place).expect("a folder");
        std::fs::write(place.join("crl"), list).expect("written");
    }
    Collateral::offline(kept)
}

#[test]
fn evidence_without_certificates_is_affirmed_with_what_the_makers_service_has() {
    let (folder, played) = (tempfile::tempdir().expect("a folder"), Played::start());
    played.answer(forged::VCEK, &forged::vcek());
    played.answer(forged::CHAIN, &forged::chain());
    played.answer(forged::LIST, &forged::good_list());
    let judged = judged(Some(online(folder.path(), &played, LONG)), &sent(&[]), true).expect("judged");
    assert_eq!(judged.appraisal.verdict(), Verdict::Affirming, "{:?}", reasons(&judged));
    assert_eq!(played.asked(), [forged::VCEK, forged::CHAIN, forged::LIST]);
}

#[test]
fn without_a_cache_evidence_without_certificates_is_not_understood() {
    assert!(matches!(judged(None, &sent(&[]), false), Err(JudgeError::Form { .. })));
    let folder = tempfile::tempdir().expect("a folder");
    let empty = Collateral::offline(cache(folder.path()));
    let refused = judged(Some(empty), &sent(&[]), false);
    assert!(matches!(refused, Err(JudgeError::Absent(Absent::Unknown { .. }))));
}

#[test]
fn a_revoked_intermediate_a_stale_list_and_a_strangers_list_are_named() {
    let dates = ["261101000000Z", "270201000000Z"];
    let case = |list: &[u8]| {
        let folder = tempfile::tempdir().expect("a folder");
        let judged = judged(Some(filled(&folder, Some(list))), &sent(&[]), true).expect("judged");
        (judged.appraisal.verdict(), reasons(&judged).into_iter().next())
    };
    let (verdict, reason) = case(&forged::list(&[2], dates, 1));
    let (name, expected, found) = reason.expect("a reason");
    assert_eq!((verdict, name, expected.as_str()), (Verdict::Invalid, "revocation", "not revoked"));
    assert!(found.contains("the intermediate is revoked") && found.ends_with("serial 02"), "{found}");
    let (verdict, reason) = case(&forged::list(&[], ["261001000000Z", "261101000000Z"], 1));
    let (name, _, found) = reason.expect("a reason");
    assert_eq!((verdict, name), (Verdict::Invalid, "revocation-list"));
    assert!(found.contains("to 2026-11-01T00:00:00Z"), "{found}");
    // A list that the root did not sign is as good as none.
    let (verdict, reason) = case(&forged::list(&[], dates, 9));
    assert_eq!((verdict, reason.expect("a reason").0), (Verdict::Contraindicated, "revocation"));
}

#[test]
fn the_verifiers_own_list_is_used_and_not_one_that_the_evidence_chose() {
    let folder = tempfile::tempdir().expect("a folder");
    let dates = ["261101000000Z", "270201000000Z"];
    let supply = filled(&folder, Some(&forged::list(&[2], dates, 1)));
    let (vcek, older) = (forged::vcek(), forged::list(&[], dates, 1));
    let chain = [("VCEK", vcek.as_slice()), ("CRL", older.as_slice())];
    let judged = judged(Some(supply), &sent(&chain), false).expect("judged");
    assert_eq!(judged.appraisal.verdict(), Verdict::Invalid);
}

#[test]
fn where_a_list_is_required_evidence_is_contraindicated_until_one_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let seen = judged(Some(filled(&folder, None)), &sent(&[]), true).expect("judged");
    let (name, expected, found) = reasons(&seen).into_iter().next().expect("a reason");
    assert_eq!((seen.appraisal.verdict(), name), (Verdict::Contraindicated, "revocation"));
    assert!(expected.contains("ARK-Sim") && found == "no revocation list was given", "{expected}: {found}");
    let seen = judged(Some(filled(&folder, Some(&forged::good_list()))), &sent(&[]), true).expect("judged");
    assert_eq!(seen.appraisal.verdict(), Verdict::Affirming, "{:?}", reasons(&seen));
}
