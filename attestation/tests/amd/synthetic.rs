//! A simulated processor: certificates and reports in AMD's formats, made and signed here. Nothing of it is AMD's, and only
//! a verifier that is told to trust its root believes it.

use coffer_attestation::snp::{Evidence, Expectations, REPORT_BYTES, SIGNED_BYTES, TrustedRoots, appraise};
use coffer_attestation::verdict::Appraisal;
use coffer_attestation::x509::{Certificate, RevocationList};
use der::asn1::ObjectIdentifier;
use p384::ecdsa::signature::Signer;
use p384::ecdsa::{DerSignature, Signature, SigningKey};

use super::case::time;

const ECDSA_SHA384: &str = "1.2.840.10045.4.3.3";
const EC: &str = "1.2.840.10045.2.1";
const P384: &str = "1.3.132.0.34";
const AMD: &str = "1.3.6.1.4.1.3704.1";

/// A key, the same at each run.
pub(crate) fn key(number: u8) -> SigningKey {
    SigningKey::from_slice(&[number; 48]).expect("a scalar")
}

/// What a certificate says, before it is signed.
#[derive(Clone)]
pub(crate) struct Recipe {
    pub(crate) version: u8,
    pub(crate) serial: u8,
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) dates: [&'static str; 2],
    pub(crate) key: SigningKey,
    pub(crate) extensions: Vec<(String, bool, Vec<u8>)>,
    pub(crate) signer: SigningKey,
    pub(crate) outer_algorithm: &'static str,
}

impl Recipe {
    /// An authority; `signer` is its issuer's key.
    pub(crate) fn authority(subject: &str, key_number: u8, issuer: (&str, u8)) -> Self {
        let ca = tlv(0x30, &[0x01, 0x01, 0xff]);
        // Certificate signing and list signing.
        let usage = vec![0x03, 0x02, 0x01, 0x06];
        Recipe {
            version: 2,
            serial: key_number,
            issuer: issuer.0.to_owned(),
            subject: subject.to_owned(),
            dates: ["200101000000Z", "450101000000Z"],
            key: key(key_number),
            extensions: vec![("2.5.29.19".to_owned(), true, ca), ("2.5.29.15".to_owned(), true, usage)],
            signer: key(issuer.1),
            outer_algorithm: ECDSA_SHA384,
        }
    }

    /// A VCEK of a Turin: fmc 3, boot loader 1, tee 2, snp 7, microcode 71.
    pub(crate) fn vcek() -> Self {
        let numbers = [("3.9", 3), ("3.1", 1), ("3.2", 2), ("3.3", 7), ("3.8", 71)];
        let mut extensions: Vec<(String, bool, Vec<u8>)> =
            numbers.iter().map(|(oid, value)| (format!("{AMD}.{oid}"), false, vec![2, 1, *value])).collect();
        extensions.push((format!("{AMD}.2"), false, tlv(0x16, b"Turin")));
        extensions.push((format!("{AMD}.4"), false, CHIP.to_vec()));
        Recipe {
            version: 2,
            serial: 0,
            issuer: "SEV-Sim".to_owned(),
            subject: "SEV-VCEK".to_owned(),
            dates: ["250101000000Z", "320101000000Z"],
            key: key(4),
            extensions,
            signer: key(2),
            outer_algorithm: ECDSA_SHA384,
        }
    }

    /// A VLEK of a Turin, with the same versions.
    pub(crate) fn vlek() -> Self {
        let vcek = Recipe::vcek().without("4");
        let provider = (format!("{AMD}.5"), false, tlv(0x16, b"somecloud"));
        let extensions = vcek.extensions.iter().cloned().chain([provider]).collect();
        let (issuer, subject) = ("SEV-VLEK-Sim".to_owned(), "SEV-VLEK".to_owned());
        Recipe { issuer, subject, key: key(5), signer: key(3), extensions, ..vcek }
    }

    /// Without the extension that ends in `last`.
    pub(crate) fn without(mut self, last: &str) -> Self {
        let oid = format!("{AMD}.{last}");
        self.extensions.retain(|(found, _, _)| *found != oid);
        self
    }

    /// With another value of the extension that ends in `last`.
    pub(crate) fn with(self, last: &str, value: &[u8]) -> Self {
        let mut without = self.without(last);
        without.extensions.push((format!("{AMD}.{last}"), false, value.to_vec()));
        without
    }

    /// Signs.
    pub(crate) fn der(&self) -> Vec<u8> {
        let serial = tlv(0x02, &[self.serial]);
        let version = tlv(0xa0, &tlv(0x02, &[self.version]));
        let dates = tlv(0x30, &self.dates.map(|date| tlv(0x17, date.as_bytes())).concat());
        let point = self.key.verifying_key().to_sec1_point(false);
        let bits = [&[0], point.as_bytes()].concat();
        let info = tlv(0x30, &[tlv(0x30, &[oid(EC), oid(P384)].concat()), tlv(0x03, &bits)].concat());
        let extensions: Vec<u8> = self.extensions.iter().flat_map(extension).collect();
        let parts = [
            version,
            serial,
            algorithm(ECDSA_SHA384),
            name(&self.issuer),
            dates,
            name(&self.subject),
            info,
            tlv(0xa3, &tlv(0x30, &extensions)),
        ];
        signed(&tlv(0x30, &parts.concat()), &self.signer, self.outer_algorithm)
    }

    /// Signs and reads.
    pub(crate) fn certificate(&self) -> Certificate {
        Certificate::from_der(&self.der()).expect("a certificate")
    }
}

/// The chip's id: Turin's has 8 bytes.
pub(crate) const CHIP: [u8; 8] = [0xc0, 0xff, 0xee, 1, 2, 3, 4, 5];

/// ARK, ASK and ASVK of the simulated processor, before they are signed.
pub(crate) fn ark() -> Recipe {
    Recipe::authority("ARK-Sim", 1, ("ARK-Sim", 1))
}

pub(crate) fn ask() -> Recipe {
    Recipe::authority("SEV-Sim", 2, ("ARK-Sim", 1))
}

pub(crate) fn asvk() -> Recipe {
    Recipe::authority("SEV-VLEK-Sim", 3, ("ARK-Sim", 1))
}

/// A report of version 5 that is affirmed, not yet signed.
pub(crate) fn report() -> Vec<u8> {
    let mut report = vec![0; REPORT_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| report[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0x000, &[5]);
    put(0x008, &[0x1f, 0, 0x03]);
    put(0x034, &[1]);
    put(0x040, &[0x21]);
    for (offset, byte) in [(0x050, 0xa1), (0x070, 0xa2), (0x090, 0xb1), (0x0c0, 0xc1), (0x140, 0xd1)] {
        put(offset, &[byte; 32]);
    }
    put(0x160, &[0xff; 32]);
    for offset in [0x038, 0x180, 0x1e0, 0x1f0] {
        put(offset, &[3, 1, 2, 7, 0, 0, 0, 71]);
    }
    put(0x188, &[0x1a, 0x02, 0x01]);
    put(0x1a0, &CHIP);
    put(0x1e8, &[40, 58, 1, 0, 40, 58, 1, 0]);
    report
}

/// Signs a report as the firmware does: R and S little endian, 72 bytes each.
pub(crate) fn sign_report(report: &mut [u8], key: &SigningKey) {
    let signature: Signature = key.sign(&report[..SIGNED_BYTES]);
    let (r, s) = signature.split_bytes();
    for (offset, number) in [(SIGNED_BYTES, r), (SIGNED_BYTES + 72, s)] {
        let reversed: Vec<u8> = number.iter().rev().copied().collect();
        report[offset..offset + 48].copy_from_slice(&reversed);
    }
}

/// Evidence with a report that `change` has been at before it was signed.
pub(crate) fn evidence(change: impl FnOnce(&mut Vec<u8>)) -> Evidence {
    let mut report = report();
    change(&mut report);
    sign_report(&mut report, &key(4));
    Evidence {
        report,
        vek: Recipe::vcek().certificate(),
        authorities: vec![ask().certificate(), ark().certificate()],
        revocation: Vec::new(),
    }
}

/// Judges with AMD's roots and the simulated one.
pub(crate) fn judge(evidence: &Evidence, expected: &Expectations, at: &str) -> Appraisal {
    let roots = TrustedRoots::amd().and_simulated(ark().certificate());
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
        let parts = [tlv(0x02, &[1]), algorithm(ECDSA_SHA384), name(self.issuer), dates, entries, extensions];
        signed(&tlv(0x30, &parts.concat()), &self.signer, ECDSA_SHA384)
    }
}

fn signed(part: &[u8], signer: &SigningKey, outer: &str) -> Vec<u8> {
    let signature: DerSignature = signer.sign(part);
    let bits = [&[0], signature.as_bytes()].concat();
    tlv(0x30, &[part.to_vec(), algorithm(outer), tlv(0x03, &bits)].concat())
}

fn algorithm(of: &str) -> Vec<u8> {
    tlv(0x30, &oid(of))
}

fn name(common: &str) -> Vec<u8> {
    tlv(0x30, &tlv(0x31, &tlv(0x30, &[oid("2.5.4.3"), tlv(0x0c, common.as_bytes())].concat())))
}

fn extension((of, critical, value): &(String, bool, Vec<u8>)) -> Vec<u8> {
    let critical = if *critical { tlv(0x01, &[0xff]) } else { Vec::new() };
    tlv(0x30, &[oid(of), critical, tlv(0x04, value)].concat())
}

fn oid(text: &str) -> Vec<u8> {
    tlv(0x06, ObjectIdentifier::new(text).expect("an identifier").as_bytes())
}

/// A DER element of at most 65535 bytes.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("a short element").to_be_bytes();
    let header = match length {
        [0, short @ 0..0x80] => vec![tag, short],
        [0, short] => vec![tag, 0x81, short],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [header, content.to_vec()].concat()
}
