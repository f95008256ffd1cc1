//! What ties a report to the key that signed it: the signature, the kind of key, the chip and the firmware versions.

use super::endorsement::Endorsement;
use super::report::{ReportBytes, SigningKey, UnverifiedReport, signed_and_signature};
use super::tcb::Tcb;
use crate::verdict::{Checks, Outcome};
use crate::x509::{Certificate, PublicKey};

/// Checks the signature over the very bytes of the report.
pub(crate) fn check_signature(bytes: &ReportBytes, vek: &Certificate, checks: &mut Checks) {
    let result = match signed_and_signature(bytes) {
        Ok((signed, signature)) => verify(vek.key(), signed, &signature),
        Err(error) => Err(error.to_string()),
    };
    checks.settle(
        "report-signature",
        "a signature by the certificate's key, ECDSA P-384 with SHA-384",
        result,
    );
}

fn verify(key: &PublicKey, signed: &[u8], signature: &[u8]) -> Result<(), String> {
    if !key.is_p384() {
        return Err(format!("the certificate's key is {}", key.describe()));
    }
    key.verify_raw_ecdsa(signed, signature).map_err(|error| error.to_string())
}

/// Checks that the report speaks of the chip and the firmware that AMD vouches for.
pub(crate) fn check(report: &UnverifiedReport, endorsement: &Endorsement, checks: &mut Checks) {
    checks.require(
        "signing-key",
        report.signing_key == endorsement.kind,
        name(endorsement.kind),
        name(report.signing_key),
    );
    check_generation(report, endorsement, checks);
    check_chip(report, endorsement, checks);
    check_tcb(&report.reported_tcb, &endorsement.tcb, checks);
}

fn name(key: SigningKey) -> &'static str {
    match key {
        SigningKey::Vcek => "VCEK",
        SigningKey::Vlek => "VLEK",
    }
}

fn check_generation(report: &UnverifiedReport, endorsement: &Endorsement, checks: &mut Checks) {
    let expected = format!("{} (the key's product is {})", endorsement.generation, endorsement.product);
    match report.generation {
        Some(found) => {
            checks.require("generation", found == endorsement.generation, expected, found);
        }
        None => checks.record("generation", Outcome::Passed, expected, "not named by a version 2 report"),
    }
}

fn check_chip(report: &UnverifiedReport, endorsement: &Endorsement, checks: &mut Checks) {
    let Some(id) = &endorsement.hardware_id else {
        checks.not_checked("chip-id", "the chip that the key is of", "a VLEK belongs to no single chip");
        return;
    };
    if report.chip_id.iter().all(|byte| *byte == 0) {
        let why = "the platform masks its chip id; the VCEK's signature alone ties the report to the chip";
        checks.not_checked("chip-id", hex::encode(id), why);
        return;
    }
    // Turin's id has 8 bytes and zeros behind them.
    let same =
        report.chip_id.strip_prefix(id.as_slice()).is_some_and(|rest| rest.iter().all(|byte| *byte == 0));
    checks.require("chip-id", same, hex::encode(id), hex::encode(report.chip_id));
}

/// The key is derived from exactly these versions, so each must be the report's.
fn check_tcb(reported: &Tcb, key: &Tcb, checks: &mut Checks) {
    let components = [
        ("tcb-boot-loader", key.boot_loader, reported.boot_loader),
        ("tcb-tee", key.tee, reported.tee),
        ("tcb-snp", key.snp, reported.snp),
        ("tcb-microcode", key.microcode, reported.microcode),
    ];
    for (name, expected, found) in components {
        checks.require(name, expected == found, expected, found);
    }
    if key.fmc.is_some() || reported.fmc.is_some() {
        let text = |fmc: Option<u8>| fmc.map_or_else(|| "none".to_owned(), |version| version.to_string());
        let outcome = if key.fmc == reported.fmc { Outcome::Passed } else { Outcome::Failed };
        checks.record("tcb-fmc", outcome, text(key.fmc), text(reported.fmc));
    }
}
