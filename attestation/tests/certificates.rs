//! Certificates of AMD, parsed and held against each other.

use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::{Certificate, CertificateError, IssueError, SignatureError};

const MILAN: &[u8] = include_bytes!("../testdata/snp/ca/milan_ask_ark_asvk.pem");
const GENOA: &[u8] = include_bytes!("../testdata/snp/ca/genoa_ask_ark_asvk.pem");
const VCEK: &[u8] = include_bytes!("../testdata/snp/milan-v2-trustee/vcek.der");

/// ASK, ARK and ASVK.
fn authorities(pem: &[u8]) -> [Certificate; 3] {
    let certificates = Certificate::from_file(pem).expect("AMD's certificates");
    certificates.try_into().expect("three of them")
}

fn vcek() -> Certificate {
    Certificate::from_der(VCEK).expect("a VCEK")
}

#[test]
fn amds_root_signed_itself() {
    let [_, ark, _] = authorities(MILAN);
    assert_eq!(ark.check_issued_by(&ark), Ok(()));
}

#[test]
fn a_vcek_is_issued_by_its_ask() {
    let [ask, _, _] = authorities(MILAN);
    assert_eq!(vcek().check_issued_by(&ask), Ok(()));
}

#[test]
fn a_vcek_is_not_issued_by_the_ask_of_another_generation() {
    let [ask, _, _] = authorities(GENOA);
    assert!(matches!(vcek().check_issued_by(&ask), Err(IssueError::Name { .. })));
}

#[test]
fn a_vcek_issues_nothing() {
    let [ask, _, _] = authorities(MILAN);
    assert!(matches!(ask.check_issued_by(&vcek()), Err(IssueError::Name { .. })));
}

#[test]
fn one_flipped_bit_of_a_signature_is_seen() {
    let [ask, _, _] = authorities(MILAN);
    let mut der = VCEK.to_vec();
    *der.last_mut().expect("bytes") ^= 1;
    let changed = Certificate::from_der(&der).expect("still a certificate");
    let reason = SignatureError::Mismatch;
    let expected = IssueError::Signature { subject: ask.subject(), reason };
    assert_eq!(changed.check_issued_by(&ask), Err(expected));
}

#[test]
fn a_certificate_is_valid_from_its_first_to_its_last_second() {
    let vcek = vcek();
    let at = |seconds: u64| vcek.check_valid_at(UnixTime(seconds)).is_ok();
    let (first, last) = (vcek.not_before().0, vcek.not_after().0);
    assert_eq!([first - 1, first, last, last + 1].map(at), [false, true, true, false]);
}

#[test]
fn bytes_behind_a_certificate_are_refused() {
    let mut der = VCEK.to_vec();
    der.push(0);
    assert!(matches!(Certificate::from_der(&der), Err(CertificateError::Form { .. })));
}

#[test]
fn a_certificate_of_17_kibibytes_is_refused_unread() {
    assert_eq!(Certificate::from_der(&[0; 17 << 10]), Err(CertificateError::TooLong { found: 17 << 10 }));
}

#[test]
fn a_file_of_nine_certificates_is_refused() {
    let nine = [MILAN, MILAN, MILAN].concat();
    assert_eq!(Certificate::from_file(&nine), Err(CertificateError::Count { found: 9 }));
}

#[test]
fn every_truncation_of_a_certificate_is_refused() {
    let parsed = (0..VCEK.len()).filter(|length| Certificate::from_der(&VCEK[..*length]).is_ok()).count();
    assert_eq!(parsed, 0);
}
