//! One certificate: parsed, bounded, and the checks that tie it to its issuer and to a time.

use std::collections::BTreeSet;

use base64ct::{Base64, Encoding};
use der::asn1::ObjectIdentifier;
use der::pem::PemLabel;
use der::{Decode, Reader, SliceReader};
use sha2::{Digest, Sha256};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
use x509_cert::name::Name;

use super::issued;
use super::key::{Algorithm, KeyError, PublicKey, SignatureError};
use crate::time::UnixTime;
use crate::verdict::printable;

/// The longest certificate that is read, in bytes of DER.
pub const MAX_CERTIFICATE_BYTES: usize = 16 << 10;
/// The most certificates that one file may hold.
pub const MAX_BUNDLE: usize = 8;

const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const PEM_BEGIN: &str = "-----BEGIN ";

/// A certificate whose form is sound and which nobody vouched for yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    signed: Vec<u8>,
    parsed: x509_cert::Certificate,
    key: PublicKey,
}

/// Why bytes are not a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Longer than anything real.
    #[error("a certificate may have {MAX_CERTIFICATE_BYTES} bytes, this one has {found}")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// Not DER, or not the structure of a certificate.
    #[error("this is no certificate in DER: {reason}")]
    Form {
        /// What the decoder said.
        reason: der::Error,
    },
    /// Its key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The same extension twice: which one counts would be a guess.
    #[error("the extension {oid} appears more than once")]
    Repeated {
        /// The extension.
        oid: ObjectIdentifier,
    },
    /// Not PEM, or PEM of something else.
    #[error("block {block} of the file is no certificate in PEM")]
    Pem {
        /// Its place in the file, from 1.
        block: usize,
    },
    /// A file with another number of certificates than one that makes sense.
    #[error("the file has {found} certificates, it may have 1 to {MAX_BUNDLE}")]
    Count {
        /// Number found; counting ends one above the limit.
        found: usize,
    },
}

/// Why a certificate was not issued by another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// Names do not link.
    #[error("it names {named} as its issuer, the certificate above it is {subject}")]
    Name {
        /// Issuer that the certificate names.
        named: String,
        /// Subject of the supposed issuer.
        subject: String,
    },
    /// The issuer may not issue.
    #[error(
        "{subject} may not sign certificates: it has not CA and certificate signing among its constraints"
    )]
    NotAnAuthority {
        /// Subject of the supposed issuer.
        subject: String,
    },
    /// Something critical that this code would have to understand.
    #[error("it has the critical extension {oid}, which is not understood here")]
    Critical {
        /// The extension.
        oid: ObjectIdentifier,
    },
    /// The two places that name the algorithm differ.
    #[error("it names two different signature algorithms")]
    TwoAlgorithms,
    /// The signature itself.
    #[error("{subject} did not sign it: {reason}")]
    Signature {
        /// Subject of the supposed issuer.
        subject: String,
        /// What is wrong.
        reason: SignatureError,
    },
}

/// A certificate outside its dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("valid from {not_before} to {not_after}, looked at {at}")]
pub struct ValidityError {
    /// First second of its validity.
    pub not_before: UnixTime,
    /// Last second of its validity.
    pub not_after: UnixTime,
    /// The time it was held against.
    pub at: UnixTime,
}

impl Certificate {
    /// Parses DER. Bytes behind the certificate are refused.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(CertificateError::TooLong { found: der.len() });
        }
        let form = |reason| CertificateError::Form { reason };
        let parsed = x509_cert::Certificate::from_der(der).map_err(form)?;
        let signed = signed_part(der).map_err(form)?;
        let mut seen = BTreeSet::new();
        let extensions = parsed.tbs_certificate().extensions().into_iter().flatten();
        if let Some(twice) = extensions.map(|extension| extension.extn_id).find(|oid| !seen.insert(*oid)) {
            return Err(CertificateError::Repeated { oid: twice });
        }
        let key = PublicKey::from_info(parsed.tbs_certificate().subject_public_key_info())?;
        Ok(Self { der: der.to_vec(), signed, parsed, key })
    }

    /// Parses one or more certificates in PEM, or exactly one in DER.
    pub fn from_file(bytes: &[u8]) -> Result<Vec<Self>, CertificateError> {
        if bytes.len() > MAX_BUNDLE * 2 * MAX_CERTIFICATE_BYTES {
            return Err(CertificateError::TooLong { found: bytes.len() });
        }
        match std::str::from_utf8(bytes) {
            Ok(text) if text.contains(PEM_BEGIN) => Self::from_pem(text),
            _ => Ok(vec![Self::from_der(bytes)?]),
        }
    }

    fn from_pem(text: &str) -> Result<Vec<Self>, CertificateError> {
        let blocks: Vec<&str> = text.split(PEM_BEGIN).skip(1).take(MAX_BUNDLE + 1).collect();
        if blocks.len() > MAX_BUNDLE {
            return Err(CertificateError::Count { found: blocks.len() });
        }
        let numbered = blocks.iter().enumerate();
        let parsed = numbered.map(|(index, block)| {
            let der = pem_block(block, x509_cert::Certificate::PEM_LABEL);
            Self::from_der(&der.ok_or(CertificateError::Pem { block: index + 1 })?)
        });
        parsed.collect()
    }

    /// The certificate as it was given.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The same in PEM (RFC 7468).
    pub fn to_pem(&self) -> String {
        let text = Base64::encode_string(&self.der);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    /// SHA-256 of the DER.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// The subject, as RFC 4514 writes names, with control characters replaced.
    pub fn subject(&self) -> String {
        printable(&self.parsed.tbs_certificate().subject().to_string())
    }

    /// The issuer that it names, as RFC 4514 writes names, with control characters replaced.
    pub fn issuer(&self) -> String {
        printable(&self.issuer_name().to_string())
    }

    /// Whether it names `other` as its issuer. A name proves nothing: [`Certificate::check_issued_by`] does.
    pub fn names_as_issuer(&self, other: &Certificate) -> bool {
        self.issuer_name() == other.subject_name()
    }

    /// The subject's common name, if there is one.
    pub fn common_name(&self) -> Option<String> {
        let name = self.parsed.tbs_certificate().subject().common_name().ok().flatten();
        name.map(|name| name.value().into_owned())
    }

    /// The serial number, big endian, without leading zeros.
    pub fn serial(&self) -> &[u8] {
        self.parsed.tbs_certificate().serial_number().as_bytes()
    }

    /// The public key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// First second of its validity.
    pub fn not_before(&self) -> UnixTime {
        UnixTime(self.parsed.tbs_certificate().validity().not_before.to_unix_duration().as_secs())
    }

    /// Last second of its validity.
    pub fn not_after(&self) -> UnixTime {
        UnixTime(self.parsed.tbs_certificate().validity().not_after.to_unix_duration().as_secs())
    }

    /// What the extension `oid` holds, as it is written inside its octet string.
    pub fn extension(&self, oid: &ObjectIdentifier) -> Option<&[u8]> {
        self.find(oid).map(|extension| extension.extn_value.as_bytes())
    }

    /// Whether the extension `oid` is there and critical.
    pub fn is_critical(&self, oid: &ObjectIdentifier) -> bool {
        self.find(oid).is_some_and(|extension| extension.critical)
    }

    /// Checks that `issuer` issued this certificate: names link, the issuer may sign certificates, nothing critical is
    /// unknown, and the signature holds. Dates, revocation and trust in the issuer are other questions; the length of a
    /// chain is the business of whoever fixes the chain.
    pub fn check_issued_by(&self, issuer: &Certificate) -> Result<(), IssueError> {
        self.check_issued_by_knowing(issuer, &[])
    }

    /// The same where the caller understands further critical extensions, and looks at them itself.
    pub fn check_issued_by_knowing(
        &self,
        issuer: &Certificate,
        understood: &[ObjectIdentifier],
    ) -> Result<(), IssueError> {
        if self.issuer_name() != issuer.subject_name() {
            return Err(IssueError::Name {
                named: self.issuer_name().to_string(),
                subject: issuer.subject(),
            });
        }
        if !issuer.is_authority() {
            return Err(IssueError::NotAnAuthority { subject: issuer.subject() });
        }
        let known = [BASIC_CONSTRAINTS, KEY_USAGE];
        let mut critical = self.extensions().filter(|extension| extension.critical);
        if let Some(unknown) =
            critical.find(|extension| !known.iter().chain(understood).any(|oid| *oid == extension.extn_id))
        {
            return Err(IssueError::Critical { oid: unknown.extn_id });
        }
        self.check_signed_with(issuer)
    }

    /// Checks that the certificate names itself as its issuer and that its own key signed it, whether or not it may issue others.
    pub fn check_signed_by_itself(&self) -> Result<(), IssueError> {
        if !self.names_as_issuer(self) {
            return Err(IssueError::Name { named: self.issuer(), subject: self.subject() });
        }
        self.check_signed_with(self)
    }

    fn check_signed_with(&self, issuer: &Certificate) -> Result<(), IssueError> {
        if self.parsed.signature_algorithm() != self.parsed.tbs_certificate().signature() {
            return Err(IssueError::TwoAlgorithms);
        }
        let pair = [self.fingerprint(), issuer.fingerprint()];
        if issued::is_known(&pair) {
            return Ok(());
        }
        let verified = Algorithm::from_identifier(self.parsed.signature_algorithm()).and_then(|algorithm| {
            let signature = self.parsed.signature().as_bytes().ok_or(SignatureError::Form)?;
            issuer.key.verify(algorithm, &self.signed, signature)
        });
        verified.map_err(|reason| IssueError::Signature { subject: issuer.subject(), reason })?;
        issued::remember(pair);
        Ok(())
    }

    /// Checks that `at` lies within the certificate's dates, both included.
    pub fn check_valid_at(&self, at: UnixTime) -> Result<(), ValidityError> {
        let (not_before, not_after) = (self.not_before(), self.not_after());
        if (not_before..=not_after).contains(&at) {
            return Ok(());
        }
        Err(ValidityError { not_before, not_after, at })
    }

    pub(super) fn issuer_name(&self) -> &Name {
        self.parsed.tbs_certificate().issuer()
    }

    pub(super) fn subject_name(&self) -> &Name {
        self.parsed.tbs_certificate().subject()
    }

    /// Whether it may sign revocation lists; without a key usage nothing is forbidden (RFC 5280, section 4.2.1.3).
    pub(super) fn may_sign_lists(&self) -> bool {
        self.usage().is_none_or(|usage| usage.is_some_and(|usage| usage.crl_sign()))
    }

    /// Whether it may sign certificates: a CA by its basic constraints, and no key usage forbids it.
    pub fn is_authority(&self) -> bool {
        let constraints = self.extension(&BASIC_CONSTRAINTS);
        let is_ca =
            constraints.and_then(|der| BasicConstraints::from_der(der).ok()).is_some_and(|found| found.ca);
        is_ca && self.usage().is_none_or(|usage| usage.is_some_and(|usage| usage.key_cert_sign()))
    }

    /// Whether its key may sign messages: a key usage that says so is there (RFC 5280, section 4.2.1.3).
    pub fn may_sign_messages(&self) -> bool {
        self.usage().flatten().is_some_and(|usage| usage.digital_signature())
    }

    /// The key usage, if there is one; the inner `None` is one that cannot be read.
    fn usage(&self) -> Option<Option<KeyUsage>> {
        self.extension(&KEY_USAGE).map(|der| KeyUsage::from_der(der).ok())
    }

    fn find(&self, oid: &ObjectIdentifier) -> Option<&Extension> {
        self.extensions().find(|extension| extension.extn_id == *oid)
    }

    fn extensions(&self) -> impl Iterator<Item = &Extension> {
        self.parsed.tbs_certificate().extensions().into_iter().flatten()
    }
}

/// The first element of the outer sequence, byte for byte: that is what a signature covers.
pub(super) fn signed_part(der: &[u8]) -> der::Result<Vec<u8>> {
    let mut reader = SliceReader::new(der)?;
    reader.sequence(|inside| {
        let signed = inside.tlv_bytes()?.to_vec();
        inside.drain(inside.remaining_len())?;
        Ok(signed)
    })
}

/// Decodes what follows `-----BEGIN ` if it is a block of `label`; text behind the block's end does not count.
pub(super) fn pem_block(rest: &str, label: &str) -> Option<Vec<u8>> {
    let end = format!("-----END {label}-----");
    let (block, _) = rest.split_once(&end)?;
    let whole = format!("{PEM_BEGIN}{block}{end}\n");
    let (found, der) = der::pem::decode_vec(whole.as_bytes()).ok()?;
    (found == label).then_some(der)
}
