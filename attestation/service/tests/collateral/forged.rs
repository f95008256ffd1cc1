//! A chain and lists of a simulated Turin, made with keys that the tests have.

use coffer_attestation::sim::{self, FIRMWARE, Recipe};
use coffer_attestation::snp::{ReportBytes, UnverifiedReport};
use coffer_attestation::x509::Certificate;
use p384::ecdsa::SigningKey;

pub(crate) const CHIP: [u8; 8] = [0xc0, 0xff, 0xee, 1, 2, 3, 4, 5];
/// What its service is asked for.
pub(crate) const VCEK: &str =
    "/vcek/v1/Turin/c0ffee0102030405?fmcSPL=03&blSPL=01&teeSPL=02&snpSPL=07&ucodeSPL=71";
pub(crate) const CHAIN: &str = "/vcek/v1/Turin/cert_chain";
pub(crate) const LIST: &str = "/vcek/v1/Turin/crl";

fn key(number: u8) -> SigningKey {
    SigningKey::from_slice(&[number; 48]).expect("a scalar")
}

fn authority(subject: &str, number: u8) -> Recipe {
    Recipe { serial: number, ..Recipe::authority(subject, key(number), ("ARK-Sim", key(1))) }
}

pub(crate) fn root() -> Certificate {
    authority("ARK-Sim", 1).certificate().expect("a certificate")
}

/// Intermediate and root in PEM, as AMD's service has them.
pub(crate) fn chain() -> Vec<u8> {
    let ask = authority("SEV-Sim", 2).certificate().expect("a certificate");
    (ask.to_pem() + &root().to_pem()).into_bytes()
}

pub(crate) fn vcek() -> Vec<u8> {
    Recipe::vcek(FIRMWARE, &CHIP, key(4), ("SEV-Sim", key(2))).der()
}

/// The VCEK of another chip, as good as the first.
pub(crate) fn other_vcek() -> Vec<u8> {
    vcek_of(&[9; 8])
}

/// The VCEK of any chip.
pub(crate) fn vcek_of(chip: &[u8; 8]) -> Vec<u8> {
    Recipe::vcek(FIRMWARE, chip, key(4), ("SEV-Sim", key(2))).der()
}

/// The root's list between two dates. The intermediate's serial number is 2.
pub(crate) fn list(serials: &[u8], dates: [&str; 2], signer: u8) -> Vec<u8> {
    sim::revocation_list("ARK-Sim", &key(signer), serials, dates)
}

/// The list of this month.
pub(crate) fn good_list() -> Vec<u8> {
    list(&[7], ["261101000000Z", "270201000000Z"], 1)
}

/// Makes a report one of the forged chip's.
pub(crate) fn sign(mut report: Vec<u8>) -> ReportBytes {
    report[0x1a0..0x1e0].fill(0);
    report[0x1a0..0x1a8].copy_from_slice(&CHIP);
    let mut report: ReportBytes = report.try_into().expect("a report's length");
    sim::sign_report(&mut report, &key(4));
    report
}

pub(crate) fn parsed(report: &ReportBytes) -> UnverifiedReport {
    UnverifiedReport::parse(report).expect("a report")
}
