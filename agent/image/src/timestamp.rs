//! Time stamps (RFC 3161): when somebody whom we trust saw a signature.
//!
//! ```text
//! TimeStampResp -> ContentInfo -> SignedData { TSTInfo, certificates, one SignerInfo } -> the time, if all of it holds
//! ```
//! Never here: revocation of the stamping authority, whose certificates are handed on for it.

use coffer_attestation::time::UnixTime;
use coffer_attestation::x509::{Algorithm, Certificate};
use der::asn1::{GeneralizedTime, ObjectIdentifier};
use der::{Decode, Encode};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::spki::AlgorithmIdentifierOwned;

use crate::extension::{self, EXTENDED_USAGE, TIME_STAMPING};
use crate::tlv::{self, Element, GENERALIZED_TIME, INTEGER, OCTET_STRING, OID, SEQUENCE, SET, Walk, context};
use crate::trusted_root::Authority;
use crate::work::{Exhausted, Work};

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const SIGNING_CERTIFICATE_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");

/// The longest time stamp that is read.
const MAX_BYTES: usize = 64 << 10;
const MAX_CERTIFICATES: usize = 8;

/// Why a time stamp does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TimestampError {
    #[error("this is no time stamp: {part} cannot be read")]
    Form { part: &'static str },
    #[error("the time stamp is of other bytes than the signature")]
    OtherBytes,
    #[error("the hash {found} in the time stamp is not supported: SHA-256, SHA-384 and SHA-512 are")]
    Hash { found: String },
    #[error("what the time stamp signs is not what it holds")]
    Attributes,
    #[error("the certificate that signed the time stamp is not in it and not in the trusted root")]
    NoCertificate,
    #[error("{subject} is not for time stamps alone")]
    Usage { subject: String },
    #[error("the time stamp's signature by {subject} does not hold")]
    Signature { subject: String },
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    #[error("no trusted clock stands behind {subject}: {reason}")]
    Untrusted { subject: String, reason: String },
}

/// A time stamp that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) time: UnixTime,
    /// From the certificate that signed it up to the trusted one.
    pub(crate) chain: Vec<Certificate>,
}

struct Token<'a> {
    info: &'a [u8],
    certificates: Vec<Certificate>,
    signer: SignerInfo<'a>,
}

struct SignerInfo<'a> {
    serial: &'a [u8],
    issuer: &'a [u8],
    digest: AlgorithmIdentifierOwned,
    attributes: Element<'a>,
    algorithm: AlgorithmIdentifierOwned,
    signature: &'a [u8],
}

/// When `stamp` (a TimeStampResp, or its token alone) saw `message`, by one of `clocks`.
pub(crate) fn verify(
    stamp: &[u8],
    message: &[u8],
    clocks: &[Authority],
    work: &Work,
) -> Result<Stamp, TimestampError> {
    let token = bounded(stamp)?;
    let time = token.claimed(message)?;
    let chain = token.check_signed_by(clocks, time, work)?;
    Ok(Stamp { time, chain })
}

/// The time in `stamp`, if it is of `message` and of one piece; whose word that is was not looked at.
pub(crate) fn claimed(stamp: &[u8], message: &[u8]) -> Result<UnixTime, TimestampError> {
    bounded(stamp)?.claimed(message)
}

fn bounded(stamp: &[u8]) -> Result<Token<'_>, TimestampError> {
    if stamp.len() > MAX_BYTES {
        return Err(TimestampError::Form { part: "a response of that length" });
    }
    Token::read(stamp)
}

impl<'a> Token<'a> {
    fn claimed(&self, message: &[u8]) -> Result<UnixTime, TimestampError> {
        let time = self.time_of(message)?;
        self.check_attributes()?;
        Ok(time)
    }

    fn read(stamp: &'a [u8]) -> Result<Self, TimestampError> {
        let form = |part| TimestampError::Form { part };
        let mut outer = Walk::only(stamp, SEQUENCE).ok_or(form("the response"))?.walk();
        let first = outer.step().ok_or(form("the response"))?;
        let content = if first.tag == SEQUENCE {
            // PKIStatusInfo: granted (0), or granted with changes (1).
            let status = first.walk().expect(INTEGER).ok_or(form("the status"))?;
            if !matches!(status.content, [0 | 1]) {
                return Err(form("a status other than granted"));
            }
            outer.expect(SEQUENCE).ok_or(form("the token"))?.walk()
        } else {
            Walk::only(stamp, SEQUENCE).ok_or(form("the token"))?.walk()
        };
        Self::of_content(content).ok_or(form("the token"))
    }

    /// SignedData (RFC 5652, section 5.1). `None` for what is none.
    fn of_content(mut content: Walk<'a>) -> Option<Self> {
        if oid(content.expect(OID)?)? != SIGNED_DATA {
            return None;
        }
        let mut data = Walk::only(content.expect(context(0))?.content, SEQUENCE)?.walk();
        data.expect(INTEGER)?;
        data.expect(SET)?;
        let mut encapsulated = data.expect(SEQUENCE)?.walk();
        if oid(encapsulated.expect(OID)?)? != TST_INFO {
            return None;
        }
        let info = Walk::only(encapsulated.expect(context(0))?.content, OCTET_STRING)?.content;
        let mut certificates = Vec::new();
        if let Some(set) = data.optional(context(0)) {
            let mut walk = set.walk();
            while !walk.is_finished() {
                let der = walk.expect(SEQUENCE)?.whole;
                if certificates.len() >= MAX_CERTIFICATES {
                    return None;
                }
                certificates.extend(Certificate::from_der(der).ok());
            }
        }
        data.optional(context(1));
        let mut signers = data.expect(SET)?.walk();
        let signer = SignerInfo::read(signers.expect(SEQUENCE)?)?;
        if !signers.is_finished() || !data.is_finished() {
            return None;
        }
        Some(Self { info, certificates, signer })
    }

    /// TSTInfo (RFC 3161, section 2.4.2): the time, if it is of `message`.
    fn time_of(&self, message: &[u8]) -> Result<UnixTime, TimestampError> {
        let (imprint, time) = self.info_parts().ok_or(TimestampError::Form { part: "TSTInfo" })?;
        let mut walk = imprint.walk();
        let parts = walk.expect(SEQUENCE).and_then(|algorithm| {
            let algorithm = AlgorithmIdentifierOwned::from_der(algorithm.whole).ok()?;
            Some((algorithm, walk.expect(OCTET_STRING)?.content))
        });
        let (algorithm, found) = parts.ok_or(TimestampError::Form { part: "the imprint" })?;
        if hash(&algorithm, message)? != found {
            return Err(TimestampError::OtherBytes);
        }
        whole_seconds(time).ok_or(TimestampError::Form { part: "the time" })
    }

    fn info_parts(&self) -> Option<(Element<'a>, Element<'a>)> {
        let mut info = Walk::only(self.info, SEQUENCE)?.walk();
        info.expect(INTEGER)?;
        info.expect(OID)?;
        let imprint = info.expect(SEQUENCE)?;
        info.expect(INTEGER)?;
        Some((imprint, info.expect(GENERALIZED_TIME)?))
    }

    /// The signed attributes must name this content, its type, and the certificate (RFC 5035, section 3).
    fn check_attributes(&self) -> Result<(), TimestampError> {
        let digest = hash(&self.signer.digest, self.info)?;
        let content = self.signer.attribute(&CONTENT_TYPE).and_then(oid);
        let found = self.signer.attribute(&MESSAGE_DIGEST).map(|value| value.content);
        if content != Some(TST_INFO) || found != Some(digest.as_slice()) {
            return Err(TimestampError::Attributes);
        }
        Ok(())
    }

    fn check_signed_by(
        &self,
        clocks: &[Authority],
        time: UnixTime,
        work: &Work,
    ) -> Result<Vec<Certificate>, TimestampError> {
        let trusted = clocks.iter().flat_map(|clock| &clock.chain);
        let mut all = trusted.chain(&self.certificates);
        let signer =
            all.find(|certificate| self.signer.is(certificate)).ok_or(TimestampError::NoCertificate)?;
        let subject = || signer.subject();
        if extension::usages(signer) != [TIME_STAMPING] {
            return Err(TimestampError::Usage { subject: subject() });
        }
        let algorithm = Algorithm::from_identifier(&self.signer.algorithm)
            .or_else(|_| Algorithm::of_key_and_digest(signer.key(), &self.signer.digest));
        let attributes = tlv::encode(SET, self.signer.attributes.content);
        work.spend()?;
        let holds = algorithm.and_then(|it| signer.key().verify(it, &attributes, self.signer.signature));
        holds.map_err(|_| TimestampError::Signature { subject: subject() })?;
        let mut why = "the trusted root has no clock".to_owned();
        for clock in clocks {
            match self.chain_holds(clock, signer, time, work) {
                Ok(chain) => return Ok(chain),
                Err(reason) => why = reason,
            }
        }
        Err(TimestampError::Untrusted { subject: subject(), reason: why })
    }

    /// The chain of a clock begins with its own certificate, with what is above that, or is a root alone: then the token's
    /// certificates lead to it.
    fn chain_holds(
        &self,
        clock: &Authority,
        signer: &Certificate,
        time: UnixTime,
        work: &Work,
    ) -> Result<Vec<Certificate>, String> {
        let below = |first: &[&Certificate]| {
            let above = clock.chain.iter().filter(|one| !first.contains(one));
            first.iter().copied().chain(above).cloned().collect()
        };
        let Err(direct) = clock.check(signer, time, &[EXTENDED_USAGE], work) else {
            return Ok(below(&[signer]));
        };
        let above = self.certificates.iter().find(|found| signer.names_as_issuer(found) && *found != signer);
        let Some(above) = above else { return Err(direct) };
        signer.check_valid_at(time).map_err(|error| error.to_string())?;
        work.spend()?;
        signer.check_issued_by_knowing(above, &[EXTENDED_USAGE]).map_err(|error| error.to_string())?;
        clock.check(above, time, &[EXTENDED_USAGE], work).map(|()| below(&[signer, above]))
    }
}

impl<'a> SignerInfo<'a> {
    /// RFC 5652, section 5.3, with the signer named by issuer and serial number.
    fn read(whole: Element<'a>) -> Option<Self> {
        let mut walk = whole.walk();
        walk.expect(INTEGER)?;
        let mut name = walk.expect(SEQUENCE)?.walk();
        let issuer = name.expect(SEQUENCE)?.whole;
        let serial = name.expect(INTEGER)?.content;
        let digest = AlgorithmIdentifierOwned::from_der(walk.expect(SEQUENCE)?.whole).ok()?;
        let attributes = walk.expect(context(0))?;
        let algorithm = AlgorithmIdentifierOwned::from_der(walk.expect(SEQUENCE)?.whole).ok()?;
        let signature = walk.expect(OCTET_STRING)?.content;
        walk.optional(context(1));
        let info = Self { serial, issuer, digest, attributes, algorithm, signature };
        walk.is_finished().then_some(info)
    }

    /// The one value of an attribute that is there once.
    fn attribute(&self, wanted: &ObjectIdentifier) -> Option<Element<'a>> {
        let mut walk = self.attributes.walk();
        let mut found = None;
        while !walk.is_finished() {
            let mut attribute = walk.expect(SEQUENCE)?.walk();
            if oid(attribute.expect(OID)?)? == *wanted {
                let mut values = attribute.expect(SET)?.walk();
                let value = values.step()?;
                if found.replace(value).is_some() || !values.is_finished() {
                    return None;
                }
            }
        }
        found
    }

    /// Whether `certificate` is the one that is named: by issuer and number, and by its hash where the attributes have one.
    fn is(&self, certificate: &Certificate) -> bool {
        let parsed = x509_cert::Certificate::from_der(certificate.der());
        let named = parsed.is_ok_and(|parsed| {
            let tbs = parsed.tbs_certificate();
            let serial = tbs.serial_number().as_bytes();
            tbs.issuer().to_der().is_ok_and(|issuer| issuer == self.issuer)
                && unsigned(self.serial) == unsigned(serial)
        });
        named && self.attribute(&SIGNING_CERTIFICATE_V2).is_none_or(|value| names(value, certificate))
    }
}

/// SigningCertificateV2 (RFC 5035, section 4): whether its first entry is the hash of `certificate`.
fn names(value: Element<'_>, certificate: &Certificate) -> bool {
    let entry = value.walk().expect(SEQUENCE).and_then(|list| list.walk().expect(SEQUENCE));
    let Some(mut entry) = entry.map(|entry| entry.walk()) else { return false };
    let algorithm = entry.optional(SEQUENCE).map(|it| AlgorithmIdentifierOwned::from_der(it.whole));
    let expected = match algorithm {
        None => Ok(Sha256::digest(certificate.der()).to_vec()),
        Some(Ok(algorithm)) => hash(&algorithm, certificate.der()),
        Some(Err(_)) => return false,
    };
    let found = entry.expect(OCTET_STRING).map(|found| found.content);
    expected.is_ok_and(|expected| found == Some(expected.as_slice()))
}

fn hash(algorithm: &AlgorithmIdentifierOwned, bytes: &[u8]) -> Result<Vec<u8>, TimestampError> {
    match algorithm.oid {
        SHA256 => Ok(Sha256::digest(bytes).to_vec()),
        SHA384 => Ok(Sha384::digest(bytes).to_vec()),
        SHA512 => Ok(Sha512::digest(bytes).to_vec()),
        found => Err(TimestampError::Hash { found: found.to_string() }),
    }
}

fn oid(element: Element<'_>) -> Option<ObjectIdentifier> {
    ObjectIdentifier::from_bytes(element.content).ok().filter(|_| element.tag == OID)
}

fn unsigned(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// A GeneralizedTime, which may have a fraction of a second here (RFC 3161, section 2.4.2).
fn whole_seconds(time: Element<'_>) -> Option<UnixTime> {
    let text = std::str::from_utf8(time.content).ok()?;
    let whole = match text.split_once('.') {
        Some((whole, fraction)) => {
            let digits = fraction.strip_suffix('Z')?;
            (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(())?;
            format!("{whole}Z")
        }
        None => text.to_owned(),
    };
    let der = tlv::encode(GENERALIZED_TIME, whole.as_bytes());
    GeneralizedTime::from_der(&der).ok().map(|time| UnixTime(time.to_unix_duration().as_secs()))
}
