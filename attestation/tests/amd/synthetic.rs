//! What the simulated processor makes, with keys and names that tests know, and whatever a test wants otherwise.

pub(crate) use coffer_attestation::sim::Recipe;
use coffer_attestation::sim::{self, Debug, FIRMWARE, Launch, Processor};
use coffer_attestation::snp::{Evidence, Expectations, ReportBytes, TrustedRoots, appraise};
use coffer_attestation::verdict::Appraisal;
use coffer_attestation::x509::{Certificate, RevocationList};
use p384::ecdsa::SigningKey;

use super::case::time;

const ECDSA_SHA384: &str = "1.2.840.10045.4.3.3";

/// The chip's id: Turin's has 8 bytes.
pub(crate) const CHIP: [u8; 8] = [0xc0, 0xff, 0xee, 1, 2, 3, 4, 5];

/// A key, the same at each run.
pub(crate) fn key(number: u8) -> SigningKey {
    SigningKey::from_slice(&[number; 48]).expect("a scalar")
}

/// An authority; `issuer` is the name and the number of its issuer's key.
fn authority(subject: &str, number: u8, issuer: (&str, u8)) -> Recipe {
    Recipe {
        serial: number,
        dates: ["200101000000Z", "450101000000Z"],
        ..Recipe::authority(subject, key(number), (issuer.0, key(issuer.1)))
    }
}

/// ARK, ASK and ASVK of the simulated processor, before they are signed.
pub(crate) fn ark() -> Recipe {
    authority("ARK-Sim", 1, ("ARK-Sim", 1))
}

pub(crate) fn ask() -> Recipe {
    authority("SEV-Sim", 2, ("ARK-Sim", 1))
}

pub(crate) fn asvk() -> Recipe {
    authority("SEV-VLEK-Sim", 3, ("ARK-Sim", 1))
}

/// A VCEK of a Turin: fmc 3, boot loader 1, tee 2, snp 7, microcode 71.
pub(crate) fn vcek() -> Recipe {
    let recipe = Recipe::vcek(FIRMWARE, &CHIP, key(4), ("SEV-Sim", key(2)));
    Recipe { serial: 0, dates: ["250101000000Z", "320101000000Z"], ..recipe }
}

/// A VLEK of a Turin, with the same versions.
pub(crate) fn vlek() -> Recipe {
    let vcek = vcek().without("4").with("5", &tlv(0x16, b"somecloud"));
    let (issuer, subject) = ("SEV-VLEK-Sim".to_owned(), "SEV-VLEK".to_owned());
    Recipe { issuer, subject, key: key(5), signer: key(3), ..vcek }
}

/// Signs and reads.
pub(crate) fn certificate(recipe: &Recipe) -> Certificate {
    recipe.certificate().expect("a certificate")
}

/// A report of version 5 that is affirmed, not yet signed.
pub(crate) fn report() -> Vec<u8> {
    let measurement = [[0xb1; 32].as_slice(), &[0; 16]].concat().try_into().expect("48 bytes");
    let report_data = [[0xa1; 32], [0xa2; 32]].concat().try_into().expect("64 bytes");
    let launch = Launch { measurement, host_data: [0xc1; 32], debug: Debug::Off, instance: [0xd1; 32] };
    let mut report = Processor::new(&[1; 32], FIRMWARE).unsigned(&launch, &report_data);
    report[0x1a0..0x1a8].copy_from_slice(&CHIP);
    report.to_vec()
}

/// Signs a report as the firmware does.
pub(crate) fn sign_report(report: &mut [u8], key: &SigningKey) {
    let report: &mut ReportBytes = report.try_into().expect("a report's length");
    sim::sign_report(report, key);
}

/// Evidence with a report that `change` has been at before it was signed.
pub(crate) fn evidence(change: impl FnOnce(&mut Vec<u8>)) -> Evidence {
    let mut report = report();
    change(&mut report);
    sign_report(&mut report, &key(4));
    Evidence {
        report,
        vek: certificate(&vcek()),
        authorities: vec![certificate(&ask()), certificate(&ark())],
        revocation: Vec::new(),
    }
}

/// Judges with AMD's roots and the simulated one.
pub(crate) fn judge(evidence: &Evidence, expected: &Expectations, at: &str) -> Appraisal {
    let roots = TrustedRoots::amd().and_simulated(certificate(&ark()));
    appraise(evidence, expected, &roots, time(at))
}

/// A revocation list, before it is signed.
#[derive(Clone)]
pub(crate) struct ListRecipe {
    pub(crate) issuer: &'static str,
    pub(crate) dates: [Option<&'static str>; 2],
    pub(crate) serials: Vec<u8>,
    pub(crate) signer: SigningKey,
    pub(crate) critical: bool,
}

impl ListRecipe {
    /// A list of the simulated root.
    pub(crate) fn of_the_root(serials: &[u8]) -> Self {
        ListRecipe {
            issuer: "ARK-Sim",
            dates: [Some("261101000000Z"), Some("261201000000Z")],
            serials: serials.to_vec(),
            signer: key(1),
            critical: false,
        }
    }

    /// Signs and reads.
    pub(crate) fn list(&self) -> RevocationList {
        RevocationList::from_der(&self.der()).expect("a list")
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        let dates = self.dates.iter().flatten().flat_map(|date| tlv(0x17, date.as_bytes())).collect();
        let entry = |serial: &u8| tlv(0x30, &[tlv(0x02, &[*serial]), tlv(0x17, b"260601000000Z")].concat());
        let entries: Vec<u8> = self.serials.iter().flat_map(entry).collect();
        let entries = if entries.is_empty() { entries } else { tlv(0x30, &entries) };
        // Delta CRL indicator: a list of changes to list 1.
        let delta = ("2.5.29.27".to_owned(), true, vec![2, 1, 1]);
        let extensions = if self.critical { tlv(0xa0, &tlv(0x30, &extension(&delta))) } else { Vec::new() };
        let parts =
            [tlv(0x02, &[1]), algorithm(ECDSA_SHA384), sim::named(self.issuer), dates, entries, extensions];
        sim::sign(&tlv(0x30, &parts.concat()), &self.signer, ECDSA_SHA384)
    }
}

fn algorithm(of: &str) -> Vec<u8> {
    tlv(0x30, &sim::identifier(of))
}

fn extension((of, critical, value): &(String, bool, Vec<u8>)) -> Vec<u8> {
    let critical = if *critical { tlv(0x01, &[0xff]) } else { Vec::new() };
    tlv(0x30, &[sim::identifier(of), critical, tlv(0x04, value)].concat())
}

/// A DER element of at most 65535 bytes.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    sim::element(tag, content)
}
