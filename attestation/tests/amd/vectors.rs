//! Reports of real processors, judged.

use coffer_attestation::snp::{Evidence, Expectations, TrustedRoots, appraise, coco};
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Appraisal, Outcome, Verdict};
use coffer_attestation::x509::Certificate;

const MILAN_V2: (&[u8], &[u8]) = (
    include_bytes!("../../testdata/snp/milan-v2-trustee/report.bin"),
    include_bytes!("../../testdata/snp/milan-v2-trustee/vcek.der"),
);
const MILAN_V3: (&[u8], &[u8]) = (
    include_bytes!("../../testdata/snp/milan-v3-oak/report.bin"),
    include_bytes!("../../testdata/snp/milan-v3-oak/vcek.der"),
);
const GENOA_V3: (&[u8], &[u8]) = (
    include_bytes!("../../testdata/snp/genoa-v3-trustee/report.bin"),
    include_bytes!("../../testdata/snp/genoa-v3-trustee/vcek.der"),
);
const TURIN_V5: (&[u8], &[u8]) = (
    include_bytes!("../../testdata/snp/turin-v5-oak/report.bin"),
    include_bytes!("../../testdata/snp/turin-v5-oak/vcek.der"),
);
const COCO: &[u8] = include_bytes!("../../testdata/snp/genoa-v3-trustee/coco-evidence.json");
const CHANGED_VCEK: &[u8] = include_bytes!("../../testdata/snp/negative/test-vcek-invalid-legacy.der");

const NOW: &str = "2026-11-21T12:00:00Z";

fn evidence((report, vek): (&[u8], &[u8])) -> Evidence {
    let vek = Certificate::from_der(vek).expect("a certificate");
    Evidence { report: report.to_vec(), vek, authorities: Vec::new(), revocation: Vec::new() }
}

fn judge(vector: (&[u8], &[u8]), at: &str) -> Appraisal {
    appraise(&evidence(vector), &Expectations::default(), &TrustedRoots::amd(), time(at))
}

fn time(text: &str) -> UnixTime {
    text.parse().expect("a time")
}

fn reasons(appraisal: &Appraisal) -> Vec<(&'static str, Outcome)> {
    appraisal.reasons().map(|check| (check.name, check.result)).collect()
}

fn claim<'a>(appraisal: &'a Appraisal, path: &str) -> &'a serde_json::Value {
    let mut parts = path.split('.');
    let first = &appraisal.claims()[parts.next().expect("a path")];
    parts.fold(first, |value, part| &value[part])
}

#[test]
fn milan_version_2_is_genuine_with_firmware_that_is_not_committed() {
    let appraisal = judge(MILAN_V2, NOW);
    let expected = vec![("provisional-firmware", Outcome::Warned), ("memory-aliases", Outcome::Warned)];
    assert_eq!((appraisal.verdict(), reasons(&appraisal)), (Verdict::Warning, expected));
}

#[test]
fn milan_version_2_takes_its_generation_from_the_vcek() {
    let appraisal = judge(MILAN_V2, NOW);
    let product = (claim(&appraisal, "signing_key.product"), claim(&appraisal, "platform.generation"));
    assert_eq!(product, (&"Milan-B0".into(), &serde_json::Value::Null));
}

#[test]
fn milan_version_2_says_what_its_owner_gave() {
    let appraisal = judge(MILAN_V2, NOW);
    assert_eq!(claim(&appraisal, "report.guest_svn"), 4);
    assert_eq!(claim(&appraisal, "policy.raw"), "0x3001f");
    assert_eq!(claim(&appraisal, "tcb.current.microcode"), 206);
    assert_eq!(claim(&appraisal, "tcb.reported.microcode"), 115);
    assert_eq!(claim(&appraisal, "report.author_key_enabled"), false);
    let id_key = claim(&appraisal, "report.id_key_digest").as_str().unwrap_or_default();
    assert!(id_key.starts_with("0356215882a8"));
}

#[test]
fn milan_version_3_is_affirmed() {
    let appraisal = judge(MILAN_V3, NOW);
    assert_eq!((appraisal.verdict(), reasons(&appraisal)), (Verdict::Affirming, vec![]));
}

#[test]
fn genoa_version_3_is_affirmed() {
    let appraisal = judge(GENOA_V3, NOW);
    assert_eq!((appraisal.verdict(), reasons(&appraisal)), (Verdict::Affirming, vec![]));
}

#[test]
fn turin_version_5_is_affirmed() {
    let appraisal = judge(TURIN_V5, NOW);
    assert_eq!((appraisal.verdict(), reasons(&appraisal)), (Verdict::Affirming, vec![]));
}

#[test]
fn turin_is_read_in_its_own_layout() {
    let appraisal = judge(TURIN_V5, NOW);
    let expected = serde_json::json!({"fmc": 0, "boot_loader": 1, "tee": 0, "snp": 2, "microcode": 71});
    assert_eq!(claim(&appraisal, "tcb.reported"), &expected);
    assert_eq!(claim(&appraisal, "signing_key.hardware_id"), "3b42092f69c656d3");
}

#[test]
fn nothing_that_is_real_is_called_simulated() {
    let simulated = [MILAN_V2, MILAN_V3, GENOA_V3, TURIN_V5]
        .map(|vector| judge(vector, NOW).claims()["simulated"].clone());
    assert_eq!(simulated, [false, false, false, false]);
}

#[test]
fn evidence_in_the_form_of_confidential_containers_is_the_same_report() {
    let read = coco::parse(COCO, None).expect("evidence");
    assert_eq!((read.report.as_slice(), read.vek.der()), GENOA_V3);
}

#[test]
fn a_vcek_whose_hardware_id_was_changed_is_not_amds() {
    let appraisal = judge((MILAN_V2.0, CHANGED_VCEK), NOW);
    let failed: Vec<&str> = appraisal.reasons().map(|check| check.name).collect();
    assert_eq!(appraisal.verdict(), Verdict::Invalid);
    assert!(failed.contains(&"vek-issuer") && failed.contains(&"chip-id"), "{failed:?}");
}

#[test]
fn a_vcek_is_refused_before_its_first_day() {
    let appraisal = judge(MILAN_V3, "2025-01-15T21:21:53Z");
    assert_eq!(reasons(&appraisal), [("vek-validity", Outcome::Failed)]);
}

#[test]
fn a_vcek_is_refused_after_its_last_day() {
    let appraisal = judge(MILAN_V3, "2032-01-15T21:21:55Z");
    assert_eq!(reasons(&appraisal), [("vek-validity", Outcome::Failed)]);
}

#[test]
fn an_expectation_that_is_met_passes() {
    let report_data = MILAN_V3.0[0x50..0x90].try_into().ok();
    let measurement = MILAN_V3.0[0x90..0xc0].try_into().ok();
    let expected =
        Expectations { report_data, measurement, host_data: Some([0; 32]), ..Expectations::default() };
    let appraisal = appraise(&evidence(MILAN_V3), &expected, &TrustedRoots::amd(), time(NOW));
    let compared = ["report-data", "measurement", "host-data"];
    let passed = appraisal
        .checks()
        .iter()
        .filter(|check| compared.contains(&check.name) && check.result == Outcome::Passed);
    assert_eq!((appraisal.verdict(), passed.count()), (Verdict::Affirming, 3));
}

#[test]
fn each_report_says_what_was_launched_and_for_whom() {
    let said = [MILAN_V2, MILAN_V3, GENOA_V3, TURIN_V5].map(|vector| {
        let appraisal = judge(vector, NOW);
        let text = |path| claim(&appraisal, path).as_str().unwrap_or_default().to_owned();
        (text("report.measurement"), text("report.report_data"))
    });
    let measurements = [
        "a1f3930413247bb38cfc171579ea3c12d5fe4901f0c792f63fd75d98f1ef827c23500644e0e692e6be917f9050d3d38c",
        "0a3c0fa3f1558a883660cb3f37491e6da05e3445dc0f517ab5f9b8f7be6dc2ae2fa46a23b501d66d1d7e24796d1c2e20",
        "6a6519d757e68c2e939c9dbbbc1828498e8de35d2766dd05f1a2cca5059d0cf4ae62a36d75c837974dd50b315506e73e",
        "f924dd18f168df60fbea937f0b086284d51b1b376de872bac43694f61134d57967c318018de7335503023dbb50dee624",
    ];
    assert_eq!(said.each_ref().map(|(measurement, _)| measurement.as_str()), measurements);
    let zeros = "00".repeat(32);
    let [(_, of_v2), (_, of_v3), ..] = said;
    assert_eq!(of_v2, format!("ec6c52d7533cc2c4f45be7849cf112ab82b2009fe7bd43e71ed08c14400ad7e2{zeros}"));
    assert_eq!(of_v3, format!("6061a1b49c706591839a3d9a0fab68c6d71236b7ab912cb7f7f3f9170fcbdc51{zeros}"));
}
