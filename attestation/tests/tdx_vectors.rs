//! Real TDX evidence, judged as an honest verifier must.

use coffer_attestation::tdx::{Evidence, Expectations, TrustedRoots, appraise};
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::{Appraisal, Check, Outcome, Verdict};
use coffer_attestation::x509::{Certificate, RevocationError, RevocationList};

const DEBUG: Evidence<'_> = Evidence {
    quote: include_bytes!("../testdata/tdx/quote4-debug/quote.bin"),
    collateral: None,
    event_log: None,
};
const TDX_1_5: Evidence<'_> = Evidence {
    quote: include_bytes!("../testdata/tdx/quote5-tdx15/quote.bin"),
    collateral: None,
    event_log: None,
};
const GCP: Evidence<'_> = Evidence {
    quote: include_bytes!("../testdata/tdx/quote4-gcp-cos113/quote.bin"),
    collateral: None,
    event_log: Some(include_bytes!("../testdata/tdx/quote4-gcp-cos113/ccel.bin")),
};
const UP_TO_DATE: Evidence<'_> = Evidence {
    quote: include_bytes!("../testdata/tdx/quote4-uptodate-phala/quote.bin"),
    collateral: Some(include_bytes!("../testdata/tdx/quote4-uptodate-phala/collateral.json")),
    event_log: None,
};
/// Within the dates of the collateral.
const IN_TIME: &str = "2025-06-19T11:00:00Z";

/// Checks that only signatures, chains and bindings of the quote itself can fail.
const GENUINE: &[&str] = &[
    "quote-format",
    "pck-chain",
    "pck-root",
    "pck-ca-issuer",
    "pck-ca-name",
    "pck-ca-dates",
    "pck-issuer",
    "pck-name",
    "pck-dates",
    "pck-platform",
    "qe-report-signature",
    "qe-debug",
    "attestation-key-binding",
    "attestation-key",
    "quote-signature",
];

fn judge(evidence: &Evidence<'_>, at: &str) -> Appraisal {
    judge_with(evidence, &Expectations::default(), at)
}

fn judge_with(evidence: &Evidence<'_>, expected: &Expectations, at: &str) -> Appraisal {
    let at: UnixTime = at.parse().expect("a time");
    appraise(evidence, expected, &TrustedRoots::intel(), at)
}

fn check<'a>(appraisal: &'a Appraisal, name: &str) -> &'a Check {
    let mut found = appraisal.checks().iter().filter(|check| check.name == name);
    let first = found.next().unwrap_or_else(|| panic!("no check {name} in {:#?}", appraisal.checks()));
    assert!(found.next().is_none(), "{name} was checked twice");
    first
}

fn reasons(appraisal: &Appraisal) -> Vec<&'static str> {
    appraisal.reasons().map(|check| check.name).collect()
}

fn assert_genuine(appraisal: &Appraisal) {
    GENUINE.iter().for_each(|name| assert_eq!(check(appraisal, name).result, Outcome::Passed, "{name}"));
}

#[test]
fn a_debug_domain_is_contraindicated_although_every_signature_is_right() {
    let appraisal = judge(&DEBUG, IN_TIME);
    assert_genuine(&appraisal);
    assert_eq!(appraisal.verdict(), Verdict::Contraindicated);
    assert_eq!(check(&appraisal, "debug").result, Outcome::Contraindicated);
    assert_eq!(check(&appraisal, "debug").found, "DEBUG SEPT_VE_DISABLE");
    assert_eq!(appraisal.claims()["quoting_enclave"]["isv_svn"], 4);
}

#[test]
fn a_log_of_another_machine_fails_against_a_debug_domain() {
    let log = include_bytes!("../testdata/tdx/quote4-debug/ccel-unrelated.bin");
    let appraisal = judge(&Evidence { event_log: Some(log), ..DEBUG }, IN_TIME);
    let rtmr0 = check(&appraisal, "event-log-rtmr0");
    assert_eq!(rtmr0.result, Outcome::Failed);
    assert!(rtmr0.expected.starts_with("e940da7c") && rtmr0.found.starts_with("2dc71230"));
    assert_eq!(appraisal.verdict(), Verdict::Invalid);
}

#[test]
fn a_bound_service_td_is_named_and_warned_about() {
    let appraisal = judge(&TDX_1_5, IN_TIME);
    assert_genuine(&appraisal);
    let service = check(&appraisal, "service-td");
    assert_eq!(service.result, Outcome::Warned);
    assert!(service.found.contains("383c87d3bbb047b2"));
    assert_eq!(appraisal.claims()["report"]["tee_tcb_svn_2"], "05010200000000000000000000000000");
}

#[test]
fn a_service_td_that_was_expected_passes_and_another_fails() {
    let digest =
        "383c87d3bbb047b2d171eaca95312ede99f258088dc788f6ae2ccf8b6dd848fe8d47629e08b3f6cbd4a00dd47a5a033d";
    let mut mr_service_td = [0; 48];
    hex::decode_to_slice(digest, &mut mr_service_td).expect("48 bytes");
    let expected = Expectations { mr_service_td: Some(mr_service_td), ..Expectations::default() };
    let passed = judge_with(&TDX_1_5, &expected, IN_TIME);
    assert_eq!(check(&passed, "service-td").result, Outcome::Passed);
    let expected = Expectations { mr_service_td: Some([0; 48]), ..Expectations::default() };
    let failed = judge_with(&TDX_1_5, &expected, IN_TIME);
    assert_eq!(check(&failed, "service-td").result, Outcome::Failed);
}

#[test]
fn a_google_machines_log_replays_to_its_registers() {
    let appraisal = judge(&GCP, IN_TIME);
    assert_genuine(&appraisal);
    assert_eq!(reasons(&appraisal), ["tcb-status"]);
    let names = ["event-log-rtmr0", "event-log-rtmr1", "event-log-rtmr2", "event-log-rtmr3"];
    names.iter().for_each(|name| assert_eq!(check(&appraisal, name).result, Outcome::Passed));
    assert_eq!(appraisal.claims()["simulated"], false);
}

#[test]
fn a_google_machines_report_data_is_its_nonce() {
    let nonce = include_bytes!("../testdata/tdx/quote4-gcp-cos113/nonce.dat");
    let expected = Expectations { report_data: Some(*nonce), ..Expectations::default() };
    assert_eq!(check(&judge_with(&GCP, &expected, IN_TIME), "report-data").result, Outcome::Passed);
}

#[test]
fn without_collateral_nothing_is_affirmed() {
    let appraisal = judge(&Evidence { collateral: None, ..UP_TO_DATE }, IN_TIME);
    assert_genuine(&appraisal);
    assert_eq!(appraisal.verdict(), Verdict::Contraindicated);
    assert_eq!(reasons(&appraisal), ["tcb-status"]);
    assert_eq!(check(&appraisal, "tcb-status").found, "unknown: no collateral was given");
    // What collateral must be asked for is known nevertheless.
    assert_eq!(appraisal.claims()["platform"]["fmspc"], "b0c06f000000");
}

#[test]
fn a_platform_is_up_to_date_within_the_dates_of_its_collateral() {
    let appraisal = judge(&UP_TO_DATE, IN_TIME);
    assert_genuine(&appraisal);
    assert_eq!((appraisal.verdict(), reasons(&appraisal)), (Verdict::Affirming, vec![]));
    assert_eq!(check(&appraisal, "tcb-status").found, "UpToDate");
    assert_eq!(appraisal.claims()["platform"]["fmspc"], "b0c06f000000");
    assert_eq!(appraisal.claims()["tcb"]["good_until"], "2025-07-19T10:16:03Z");
}

#[test]
fn the_last_second_of_a_revocation_list_counts_and_the_next_does_not() {
    assert_eq!(judge(&UP_TO_DATE, "2025-07-19T10:00:35Z").verdict(), Verdict::Affirming);
    let late = judge(&UP_TO_DATE, "2025-07-19T10:00:36Z");
    assert_eq!((late.verdict(), reasons(&late)), (Verdict::Invalid, vec!["pck-crl"]));
}

#[test]
fn collateral_that_is_not_yet_issued_is_refused() {
    let early = judge(&UP_TO_DATE, "2025-06-19T10:32:26Z");
    assert_eq!((early.verdict(), reasons(&early)), (Verdict::Invalid, vec!["qe-identity-dates"]));
}

#[test]
fn collateral_that_is_out_of_date_is_refused_by_each_of_its_dates() {
    let appraisal = judge(&UP_TO_DATE, "2026-11-21T00:00:00Z");
    assert_eq!(appraisal.verdict(), Verdict::Invalid);
    assert_eq!(reasons(&appraisal), ["root-crl", "pck-crl", "tcb-info-dates", "qe-identity-dates"]);
}

#[test]
fn collateral_of_another_platform_is_refused() {
    let appraisal = judge(&Evidence { collateral: UP_TO_DATE.collateral, ..TDX_1_5 }, IN_TIME);
    assert_eq!(appraisal.verdict(), Verdict::Invalid);
    assert_eq!(check(&appraisal, "fmspc").found, "90c06f000000");
}

#[test]
fn a_raw_td_report_is_no_quote() {
    let report = include_bytes!("../testdata/tdx/misc/tdreport.bin");
    let appraisal = judge(&Evidence { quote: report, ..GCP }, IN_TIME);
    assert_eq!((appraisal.verdict(), reasons(&appraisal)), (Verdict::Invalid, vec!["quote-format"]));
}

/// The PCK's certificate, its authority's and Intel's root, as the quote carries them.
fn carried_by(quote: &[u8]) -> [Certificate; 3] {
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let text = String::from_utf8_lossy(quote);
    let (from, to) = (text.find(begin).expect("a chain"), text.rfind(end).expect("a chain") + end.len());
    let chain = Certificate::from_file(text[from..to].as_bytes()).expect("certificates");
    chain.try_into().expect("three of them")
}

#[test]
fn intels_lists_are_those_of_the_machines_authorities_and_of_their_time_only() {
    let root = Certificate::from_der(include_bytes!("../testdata/tdx/misc/intel-sgx-root-ca.der"));
    let root = root.expect("a certificate");
    let pinned = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3";
    assert_eq!(hex::encode(root.fingerprint()), pinned);
    let [pck, platform, carried] = carried_by(GCP.quote);
    assert_eq!(carried, root);
    let read = |bytes: &[u8]| RevocationList::from_file(bytes).expect("a list");
    let of_root = read(include_bytes!("../testdata/tdx/misc/rootcrl.der"));
    let of_platform = read(include_bytes!("../testdata/tdx/misc/pckcrl"));
    assert_eq!((of_root.len(), of_platform.len()), (0, 44));
    let at = |text: &str| text.parse().expect("a time");
    let (then, now) = (at("2023-06-10T00:00:00Z"), at("2026-11-21T00:00:00Z"));
    assert_eq!((of_root.check(&root, then), of_platform.check(&platform, then)), (Ok(()), Ok(())));
    assert!(of_platform.speaks_for(&pck) && !of_platform.names(&pck) && !of_root.names(&platform));
    assert!(matches!(of_root.check(&root, now), Err(RevocationError::Stale { .. })));
    assert!(matches!(of_platform.check(&platform, now), Err(RevocationError::Stale { .. })));
    assert!(matches!(of_platform.check(&root, then), Err(RevocationError::Name { .. })));
}
