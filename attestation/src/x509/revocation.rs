//! Certificate revocation lists (RFC 5280, section 5).

use der::Decode;
use der::asn1::{ObjectIdentifier, UintRef};
use der::pem::PemLabel;
use sha2::{Digest, Sha256};
use x509_cert::crl::CertificateList;
use x509_cert::ext::Extension;

use super::certificate::{Certificate, pem_block, signed_part};
use super::edition::Edition;
use super::issued;
use super::key::{Algorithm, SignatureError};
use crate::time::UnixTime;

/// The longest list that is read, in bytes: some 30,000 entries.
pub const MAX_LIST_BYTES: usize = 1 << 20;

/// Extension with the list's number.
const CRL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.20");

const PEM_BEGIN: &str = "-----BEGIN ";

/// A list whose form is sound; [`RevocationList::check`] says whether it can be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    signed: Vec<u8>,
    /// SHA-256 of the DER.
    fingerprint: [u8; 32],
    parsed: CertificateList,
}

/// Why a list cannot be relied on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// Longer than anything real.
    #[error("a revocation list may have {MAX_LIST_BYTES} bytes, this one has {found}")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// Not PEM of a list.
    #[error("this is no revocation list in PEM")]
    Pem,
    /// Not DER, or not the structure of a list.
    #[error("this is no revocation list in DER: {reason}")]
    Form {
        /// What the decoder said.
        reason: der::Error,
    },
    /// Another authority's list.
    #[error("the list is {issuer}'s, asked was {subject}'s")]
    Name {
        /// Issuer that the list names.
        issuer: String,
        /// Subject of the authority.
        subject: String,
    },
    /// The authority signs certificates only.
    #[error("{subject} may not sign revocation lists")]
    NotAnAuthority {
        /// Subject of the authority.
        subject: String,
    },
    /// Something critical that this code would have to understand, such as a list of changes only.
    #[error("the list has the critical extension {oid}, which is not understood here")]
    Critical {
        /// The extension.
        oid: ObjectIdentifier,
    },
    /// The signature itself.
    #[error("{subject} did not sign the list: {reason}")]
    Signature {
        /// Subject of the authority.
        subject: String,
        /// What is wrong.
        reason: SignatureError,
    },
    /// Not the list of that time.
    #[error("the list is good from {this_update} to {next_update}, looked at {at}: fetch a newer one")]
    Stale {
        /// When it was issued.
        this_update: UnixTime,
        /// When the next one is due.
        next_update: UnixTime,
        /// The time it was held against.
        at: UnixTime,
    },
    /// Without an end nobody can tell whether it is withheld.
    #[error("the list does not say when the next one is due")]
    Endless,
}

impl RevocationList {
    /// Parses PEM or DER.
    pub fn from_file(bytes: &[u8]) -> Result<Self, RevocationError> {
        if bytes.len() > 2 * MAX_LIST_BYTES {
            return Err(RevocationError::TooLong { found: bytes.len() });
        }
        match std::str::from_utf8(bytes).ok().and_then(|text| text.split_once(PEM_BEGIN)) {
            Some((_, rest)) => Self::from_der(
                &pem_block(rest, CertificateList::<x509_cert::certificate::Rfc5280>::PEM_LABEL)
                    .ok_or(RevocationError::Pem)?,
            ),
            None => Self::from_der(bytes),
        }
    }

    /// Parses DER. Bytes behind the list are refused.
    pub fn from_der(der: &[u8]) -> Result<Self, RevocationError> {
        if der.len() > MAX_LIST_BYTES {
            return Err(RevocationError::TooLong { found: der.len() });
        }
        let form = |reason| RevocationError::Form { reason };
        let parsed = CertificateList::from_der(der).map_err(form)?;
        let signed = signed_part(der).map_err(form)?;
        Ok(Self { signed, fingerprint: Sha256::digest(der).into(), parsed })
    }

    /// Checks that `authority` signed this list and that it is the list of the time `at`.
    pub fn check(&self, authority: &Certificate, at: UnixTime) -> Result<(), RevocationError> {
        let list = &self.parsed.tbs_cert_list;
        let subject = || authority.subject();
        if list.issuer != *authority.subject_name() {
            return Err(RevocationError::Name { issuer: list.issuer.to_string(), subject: subject() });
        }
        if !authority.may_sign_lists() {
            return Err(RevocationError::NotAnAuthority { subject: subject() });
        }
        if let Some(unknown) = self.extensions().find(|extension| extension.critical) {
            return Err(RevocationError::Critical { oid: unknown.extn_id });
        }
        self.check_signature(authority)
            .map_err(|reason| RevocationError::Signature { subject: subject(), reason })?;
        let this_update = self.this_update();
        let next_update = self.next_update().ok_or(RevocationError::Endless)?;
        if !(this_update..=next_update).contains(&at) {
            return Err(RevocationError::Stale { this_update, next_update, at });
        }
        Ok(())
    }

    /// When it was issued.
    pub fn this_update(&self) -> UnixTime {
        UnixTime(self.parsed.tbs_cert_list.this_update.to_unix_duration().as_secs())
    }

    /// When the next one is due, if it says so.
    pub fn next_update(&self) -> Option<UnixTime> {
        let next = self.parsed.tbs_cert_list.next_update;
        next.map(|time| UnixTime(time.to_unix_duration().as_secs()))
    }

    /// By what it is told from those before and after it: its number (RFC 5280, 5.2.3), and its time.
    pub fn edition(&self) -> Edition {
        let number = self.extensions().find(|extension| extension.extn_id == CRL_NUMBER);
        let number = number.and_then(|extension| UintRef::from_der(extension.extn_value.as_bytes()).ok());
        Edition::new(number.map_or(&[], |number| number.as_bytes()), self.this_update())
    }

    /// Whether this list speaks for the issuer of `certificate` and names it.
    pub fn names(&self, certificate: &Certificate) -> bool {
        let list = &self.parsed.tbs_cert_list;
        let entries = list.revoked_certificates.as_deref().unwrap_or_default();
        list.issuer == *certificate.issuer_name()
            && entries.iter().any(|entry| entry.serial_number.as_bytes() == certificate.serial())
    }

    /// Whether this list is issued by the issuer of `certificate`, so that its silence means something.
    pub fn speaks_for(&self, certificate: &Certificate) -> bool {
        self.parsed.tbs_cert_list.issuer == *certificate.issuer_name()
    }

    /// Whether it names `authority` as its issuer. A name proves nothing: [`RevocationList::check`] does.
    pub fn is_of(&self, authority: &Certificate) -> bool {
        self.parsed.tbs_cert_list.issuer == *authority.subject_name()
    }

    /// How many certificates it names.
    pub fn len(&self) -> usize {
        self.parsed.tbs_cert_list.revoked_certificates.as_ref().map_or(0, Vec::len)
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn check_signature(&self, authority: &Certificate) -> Result<(), SignatureError> {
        if self.parsed.signature_algorithm != self.parsed.tbs_cert_list.signature {
            return Err(SignatureError::Algorithm);
        }
        let pair = [self.fingerprint, authority.fingerprint()];
        if issued::is_known(&pair) {
            return Ok(());
        }
        let algorithm = Algorithm::from_identifier(&self.parsed.signature_algorithm)?;
        let signature = self.parsed.signature.as_bytes().ok_or(SignatureError::Form)?;
        authority.key().verify(algorithm, &self.signed, signature)?;
        issued::remember(pair);
        Ok(())
    }

    fn extensions(&self) -> impl Iterator<Item = &Extension> {
        let list = &self.parsed.tbs_cert_list;
        let of_entries =
            list.revoked_certificates.iter().flatten().flat_map(|entry| &entry.crl_entry_extensions);
        list.crl_extensions.iter().chain(of_entries).flatten()
    }
}
