//! What a verifier reads: all of it comes from whoever claims to be a guest, or from a host in between.

use coffer_attestation::azure::{HclReport, Quote, parse_snp, parse_tdx};
use coffer_attestation::handshake::{
    Attestation, Challenge, Images, InitData, Limits, Request, TeeKey, TokenKey, canonical, parse_json,
};
use coffer_attestation::snp;
use coffer_attestation::tdx;
use coffer_attestation::time::UnixTime;
use coffer_attestation::verdict::Verdict;
use coffer_attestation::x509::{Certificate, RevocationList};

/// A day on which the certificates of the samples are valid.
const AT: u64 = 1_780_000_000;

/// A key of a processor of AMD's, public, so that reports get as far as their signature.
const VCEK: &[u8] = include_bytes!("../../../attestation/testdata/snp/milan-v3-oak/vcek.der");
/// The report that it did sign.
const REPORT: &[u8] = include_bytes!("../../../attestation/testdata/snp/milan-v3-oak/report.bin");

fn at() -> UnixTime {
    UnixTime(AT)
}

/// Only the one report that the processor signed may be found good.
pub(crate) fn snp_report(input: &[u8]) {
    let vek = Certificate::from_der(VCEK).expect("a certificate");
    let evidence =
        snp::Evidence { report: input.to_vec(), vek, authorities: Vec::new(), revocation: Vec::new() };
    let appraisal = snp::appraise(&evidence, &snp::Expectations::default(), &snp::TrustedRoots::amd(), at());
    let good = matches!(appraisal.verdict(), Verdict::Affirming | Verdict::Warning);
    assert!(!good || input == REPORT, "a report that nobody signed is {:?}", appraisal.verdict());
}

pub(crate) fn snp_evidence(input: &[u8]) {
    let _ = snp::coco::parse(input, None).map_err(|error| error.to_string());
}

/// No input is good: there is no collateral.
pub(crate) fn tdx_quote(input: &[u8]) {
    let evidence = tdx::Evidence { quote: input, collateral: None, event_log: None };
    let appraisal =
        tdx::appraise(&evidence, &tdx::Expectations::default(), &tdx::TrustedRoots::intel(), at());
    assert!(
        !matches!(appraisal.verdict(), Verdict::Affirming | Verdict::Warning),
        "a quote without collateral is good"
    );
}

pub(crate) fn tdx_evidence(input: &[u8]) {
    let _ = tdx::coco::parse(input).map_err(|error| error.to_string());
}

pub(crate) fn tdx_collateral(input: &[u8]) {
    let _ = tdx::UnverifiedCollateral::parse(input).map_err(|error| error.to_string());
    let _ = tdx::TcbInfo::parse(input).map_err(|error| error.to_string());
    let _ = tdx::QeIdentity::parse(input).map_err(|error| error.to_string());
    let _ = tdx::Platform::parse(input).map_err(|error| error.to_string());
}

pub(crate) fn tdx_event_log(input: &[u8]) {
    let _ = tdx::CcelTable::parse(input).map_err(|error| error.to_string());
    if let Ok(log) = tdx::EventLog::parse(input) {
        let _ = log.replay().map_err(|error| error.to_string());
        for event in &log.events {
            let _ = event.measured().map(<[u8]>::len);
        }
    }
}

pub(crate) fn azure_evidence(input: &[u8]) {
    let _ = parse_snp(input).map_err(|error| error.to_string());
    let _ = parse_tdx(input).map_err(|error| error.to_string());
    let _ = Quote::parse(input).map_err(|error| error.to_string());
    if let Ok(report) = HclReport::parse(input) {
        let _ = report.runtime_data().map_err(|error| error.to_string());
    }
}

pub(crate) fn certificate(input: &[u8]) {
    let read =
        Certificate::from_der(input).into_iter().chain(Certificate::from_file(input).unwrap_or_default());
    for certificate in read {
        let _ = (
            certificate.subject(),
            certificate.issuer(),
            certificate.common_name(),
            certificate.key().describe(),
        );
        let _ = certificate.check_issued_by(&certificate).map_err(|error| error.to_string());
        let _ = snp::Endorsement::read(&certificate).map_err(|error| error.to_string());
    }
}

pub(crate) fn revocation_list(input: &[u8]) {
    let authority = Certificate::from_der(VCEK).expect("a certificate");
    for list in RevocationList::from_der(input).into_iter().chain(RevocationList::from_file(input)) {
        assert!(list.check(&authority, at()).is_err(), "a list of an authority that signed none");
        let _ = list.names(&authority);
    }
}

/// What is understood is understood again after it was written.
pub(crate) fn kbs_bodies(input: &[u8]) {
    if let Ok(request) = Request::parse(input) {
        let written = request.to_json().to_string();
        assert!(Request::parse(written.as_bytes()).is_ok(), "{written}");
    }
    let _ = Challenge::parse(input).map_err(|error| error.to_string());
    if let Ok(attestation) = Attestation::parse(input) {
        let written = attestation.to_json().expect("what was read as JSON is JSON");
        assert!(Attestation::parse(written.as_bytes()).is_ok(), "{written}");
    }
    if let Ok(images) = Images::parse(&String::from_utf8_lossy(input)) {
        assert_eq!(Images::parse(&images.to_json()).expect("what was written"), images);
    }
    if let Ok(value) = parse_json(input, Limits { bytes: 1 << 16, depth: 16 }) {
        let _ = TeeKey::parse(&value).map_err(|error| error.to_string());
        let _ = canonical(&value).map_err(|error| error.to_string());
    }
}

pub(crate) fn initdata(input: &[u8]) {
    if let Ok(read) = InitData::parse("toml", String::from_utf8_lossy(input).into_owned()) {
        let _ = (read.digest(), read.field::<32>().is_ok());
    }
}

/// Nobody can write a token of this key's.
pub(crate) fn token(input: &[u8]) {
    let key = TokenKey::from_scalar(&[7; 32]).expect("a key");
    let verified = key.public().verify(&String::from_utf8_lossy(input), at());
    assert!(verified.is_err(), "a forged token is good");
}
