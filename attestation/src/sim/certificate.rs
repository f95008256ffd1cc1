//! Certificates (RFC 5280) of P-384 keys, with the extensions that AMD's have (publication 57230, section 3).

use p384::ecdsa::signature::Signer;
use p384::ecdsa::{DerSignature, SigningKey};

use super::asn1::{element, identifier, named};
use crate::snp::Tcb;
use crate::x509::{Certificate, CertificateError};

const ECDSA_SHA384: &str = "1.2.840.10045.4.3.3";
const EC: &str = "1.2.840.10045.2.1";
const P384: &str = "1.3.132.0.34";
const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const KEY_USAGE: &str = "2.5.29.15";
const AMD: &str = "1.3.6.1.4.1.3704.1";

/// What a certificate says, before it is signed.
#[derive(Clone)]
pub struct Recipe {
    /// 2 is version 3.
    pub version: u8,
    /// Serial number, 0 to 127.
    pub serial: u8,
    /// Common name of the issuer.
    pub issuer: String,
    /// Common name.
    pub subject: String,
    /// Begin and end, as UTCTime writes them: `260101000000Z`.
    pub dates: [&'static str; 2],
    /// Whose certificate it is; its public half goes in.
    pub key: SigningKey,
    /// Identifier, whether it is critical, value.
    pub extensions: Vec<(String, bool, Vec<u8>)>,
    /// The issuer's key.
    pub signer: SigningKey,
    /// What the part that is not signed calls the signature.
    pub outer_algorithm: &'static str,
}

impl Recipe {
    /// An authority, which `issuer` signs with its key.
    pub fn authority(subject: &str, key: SigningKey, issuer: (&str, SigningKey)) -> Self {
        let ca = element(0x30, &[0x01, 0x01, 0xff]);
        // Certificate signing and list signing.
        let usage = vec![0x03, 0x02, 0x01, 0x06];
        Recipe {
            version: 2,
            serial: 1,
            issuer: issuer.0.to_owned(),
            subject: subject.to_owned(),
            dates: ["200101000000Z", "491231235959Z"],
            key,
            extensions: vec![(BASIC_CONSTRAINTS.to_owned(), true, ca), (KEY_USAGE.to_owned(), true, usage)],
            signer: issuer.1,
            outer_algorithm: ECDSA_SHA384,
        }
    }

    /// The VCEK of a Turin with this firmware and this hardware id.
    pub fn vcek(tcb: Tcb, chip: &[u8], key: SigningKey, issuer: (&str, SigningKey)) -> Self {
        let versions = [
            ("3.9", tcb.fmc.unwrap_or(0)),
            ("3.1", tcb.boot_loader),
            ("3.2", tcb.tee),
            ("3.3", tcb.snp),
            ("3.8", tcb.microcode),
        ];
        let number = |(last, value): (&str, u8)| (format!("{AMD}.{last}"), false, unsigned(value));
        let mut extensions: Vec<_> = versions.into_iter().map(number).collect();
        extensions.push((format!("{AMD}.2"), false, element(0x16, b"Turin")));
        extensions.push((format!("{AMD}.4"), false, chip.to_vec()));
        Recipe { extensions, ..Self::authority("SEV-VCEK", key, issuer) }
    }

    /// Without AMD's extension that ends in `last`.
    pub fn without(mut self, last: &str) -> Self {
        let oid = format!("{AMD}.{last}");
        self.extensions.retain(|(found, _, _)| *found != oid);
        self
    }

    /// With another value of AMD's extension that ends in `last`.
    pub fn with(self, last: &str, value: &[u8]) -> Self {
        let mut changed = self.without(last);
        changed.extensions.push((format!("{AMD}.{last}"), false, value.to_vec()));
        changed
    }

    /// Signs, and writes DER.
    pub fn der(&self) -> Vec<u8> {
        let point = self.key.verifying_key().to_sec1_point(false);
        let bits = [&[0], point.as_bytes()].concat();
        let curve = element(0x30, &[identifier(EC), identifier(P384)].concat());
        let extensions: Vec<u8> = self.extensions.iter().flat_map(extension).collect();
        let parts = [
            element(0xa0, &element(0x02, &[self.version])),
            element(0x02, &[self.serial]),
            element(0x30, &identifier(ECDSA_SHA384)),
            named(&self.issuer),
            element(0x30, &self.dates.map(|date| element(0x17, date.as_bytes())).concat()),
            named(&self.subject),
            element(0x30, &[curve, element(0x03, &bits)].concat()),
            element(0xa3, &element(0x30, &extensions)),
        ];
        sign(&element(0x30, &parts.concat()), &self.signer, self.outer_algorithm)
    }

    /// Signs, and reads what was written.
    ///
    /// # Errors
    /// A recipe that makes no certificate.
    pub fn certificate(&self) -> Result<Certificate, CertificateError> {
        Certificate::from_der(&self.der())
    }
}

/// The signed form of a certificate or a revocation list: the part, what signs it, the signature. `outer` is what the outer
/// part calls ECDSA with SHA-384.
pub fn sign(part: &[u8], signer: &SigningKey, outer: &str) -> Vec<u8> {
    let signature: DerSignature = signer.sign(part);
    let bits = [&[0], signature.as_bytes()].concat();
    let algorithm = element(0x30, &identifier(outer));
    element(0x30, &[part, &algorithm, &element(0x03, &bits)].concat())
}

fn extension((of, critical, value): &(String, bool, Vec<u8>)) -> Vec<u8> {
    let critical = if *critical { element(0x01, &[0xff]) } else { Vec::new() };
    element(0x30, &[identifier(of), critical, element(0x04, value)].concat())
}

/// An INTEGER: a high bit would make it negative.
fn unsigned(value: u8) -> Vec<u8> {
    if value < 0x80 { vec![2, 1, value] } else { vec![2, 2, 0, value] }
}
