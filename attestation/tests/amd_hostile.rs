//! Bytes that nobody made with good intentions: no parser may panic, and nothing damaged is believed.

mod damage;

use coffer_attestation::azure::{HclReport, Quote, parse_snp};
use coffer_attestation::snp::{Evidence, Expectations, TrustedRoots, UnverifiedReport, appraise, coco};
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::Verdict;
use coffer_attestation::x509::{Certificate, RevocationList};
use damage::{Damage, damaged};
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, proptest};

const REPORT: &[u8] = include_bytes!("../testdata/snp/turin-v5-oak/report.bin");
const VCEK: &[u8] = include_bytes!("../testdata/snp/turin-v5-oak/vcek.der");
const AUTHORITIES: &[u8] = include_bytes!("../testdata/snp/ca/turin_ask_ark_asvk.pem");
const COCO: &[u8] = include_bytes!("../testdata/snp/genoa-v3-trustee/coco-evidence.json");
const AT: UnixTime = UnixTime(1_795_262_400);

/// Whether `report` and `vek` are believed although one of them was damaged.
fn believed(report: &[u8], vek: &Certificate, authorities: Vec<Certificate>) -> bool {
    let revocation = Vec::new();
    let evidence = Evidence { report: report.to_vec(), vek: vek.clone(), authorities, revocation };
    let seen = appraise(&evidence, &Expectations::default(), &TrustedRoots::amd(), AT);
    let changed = report != REPORT || vek.der() != VCEK;
    changed && seen.verdict() != Verdict::Invalid
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in vec(any::<u8>(), 0..2048)) {
        let _ = UnverifiedReport::parse(&bytes);
        let _ = Certificate::from_file(&bytes);
        let _ = RevocationList::from_file(&bytes);
        let _ = HclReport::parse(&bytes);
        let _ = Quote::parse(&bytes);
        let _ = coco::parse(&bytes, None);
        let _ = parse_snp(&bytes);
    }

    #[test]
    fn a_damaged_report_is_not_believed(damage: Damage) {
        let vek = Certificate::from_der(VCEK).expect("a VCEK");
        prop_assert!(!believed(&damaged(REPORT, damage), &vek, Vec::new()));
    }

    #[test]
    fn a_damaged_certificate_is_not_believed(damage: Damage) {
        if let Ok(vek) = Certificate::from_der(&damaged(VCEK, damage)) {
            prop_assert!(!believed(REPORT, &vek, Vec::new()));
        }
    }

    #[test]
    fn damaged_authorities_are_read_or_refused(damage: Damage) {
        if let Ok(authorities) = Certificate::from_file(&damaged(AUTHORITIES, damage)) {
            let vek = Certificate::from_der(VCEK).expect("a VCEK");
            let _ = believed(REPORT, &vek, authorities);
        }
    }

    #[test]
    fn damaged_json_is_read_or_refused(damage: Damage) {
        let _ = coco::parse(&damaged(COCO, damage), None);
    }

    #[test]
    fn bytes_by_chance_are_no_paravisors_report(bytes: Vec<u8>) {
        if let Ok(report) = HclReport::parse(&bytes) {
            let _ = report.runtime_data();
        }
    }
}

#[test]
fn json_of_ten_thousand_brackets_is_refused() {
    let nested = "[".repeat(10_000);
    assert!(coco::parse(nested.as_bytes(), None).is_err() && parse_snp(nested.as_bytes()).is_err());
}

#[test]
fn a_file_of_a_mebibyte_is_no_bundle_of_certificates() {
    let long = format!("-----BEGIN CERTIFICATE-----\n{}", "A".repeat(1 << 20));
    assert!(Certificate::from_file(long.as_bytes()).is_err());
}
