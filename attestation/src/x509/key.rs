//! Public keys and the signatures that they verify.

use der::asn1::ObjectIdentifier;
use der::{Decode, Encode, Reader, SliceReader, Tag, TagNumber};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use super::rsa::RsaKey;
use crate::curves;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const RSASSA_PKCS1_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");

/// A public key of a kind that evidence is signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Rsa(Box<RsaKey>),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
}

/// A way to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PSS, SHA-384, MGF1 over SHA-384, salt of 48 bytes: AMD's certificates.
    PssSha384,
    /// RSASSA-PKCS1-v1_5 with SHA-256: quotes of Azure's virtual TPM.
    Pkcs1Sha256,
    /// ECDSA with SHA-256.
    EcdsaSha256,
    /// ECDSA with SHA-384.
    EcdsaSha384,
}

/// Why bytes are not a key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither RSA nor a curve that evidence uses.
    #[error("keys of kind {found} cannot be verified with: RSA, P-256 and P-384 can")]
    Kind {
        /// Object identifier of the key's algorithm or curve.
        found: String,
    },
    /// Not a point on the curve.
    #[error("the key's {bytes} bytes are no point on {curve}")]
    Point {
        /// The curve's name.
        curve: &'static str,
        /// Length of what was given.
        bytes: usize,
    },
    /// An RSA key outside what is allowed.
    #[error("the RSA key cannot be used: 2048 to 4096 bits and an odd exponent from 3 to 2^32 can")]
    Rsa,
}

/// Why a signature does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The algorithm identifier is not one of [`Algorithm`], or its parameters are others.
    #[error(
        "the signature's algorithm or its parameters are not ones that AMD, Intel or Microsoft sign with"
    )]
    Algorithm,
    /// An RSA signature for an EC key, or the like.
    #[error("a signature of this algorithm cannot be made by a key of this kind")]
    KeyKind,
    /// The signature has not the form of one.
    #[error("the signature's numbers are not well formed")]
    Form,
    /// Another key or other bytes.
    #[error("the signature does not match these bytes and this key")]
    Mismatch,
}

impl PublicKey {
    /// Takes a SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7).
    pub(crate) fn from_info(info: &SubjectPublicKeyInfoOwned) -> Result<Self, KeyError> {
        let bytes = info.subject_public_key.raw_bytes();
        let parameters = info.algorithm.parameters.as_ref();
        if info.algorithm.oid == RSA {
            return Self::from_rsa_der(bytes);
        }
        if info.algorithm.oid != EC {
            return Err(KeyError::Kind { found: info.algorithm.oid.to_string() });
        }
        match parameters.and_then(|any| any.decode_as::<ObjectIdentifier>().ok()) {
            Some(P256) => Self::p256(bytes),
            Some(P384) => Self::p384(bytes),
            Some(curve) => Err(KeyError::Kind { found: curve.to_string() }),
            None => Err(KeyError::Kind { found: "a curve without a name".to_owned() }),
        }
    }

    /// A P-256 key from a point in SEC 1 form (65 or 33 bytes).
    pub fn p256(point: &[u8]) -> Result<Self, KeyError> {
        let error = |_| KeyError::Point { curve: "P-256", bytes: point.len() };
        p256::ecdsa::VerifyingKey::from_sec1_bytes(point).map(|key| Self(Kind::P256(key))).map_err(error)
    }

    /// A P-384 key from a point in SEC 1 form (97 or 49 bytes).
    pub fn p384(point: &[u8]) -> Result<Self, KeyError> {
        let error = |_| KeyError::Point { curve: "P-384", bytes: point.len() };
        p384::ecdsa::VerifyingKey::from_sec1_bytes(point).map(|key| Self(Kind::P384(key))).map_err(error)
    }

    /// An RSA key from modulus and exponent, both big endian.
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        RsaKey::new(modulus, exponent).map(|key| Self(Kind::Rsa(Box::new(key)))).ok_or(KeyError::Rsa)
    }

    /// RSAPublicKey (RFC 8017, section A.1.1): a sequence of modulus and exponent.
    fn from_rsa_der(bytes: &[u8]) -> Result<Self, KeyError> {
        let numbers = || -> der::Result<(der::asn1::UintRef<'_>, der::asn1::UintRef<'_>)> {
            let mut reader = SliceReader::new(bytes)?;
            let pair = reader.sequence(|inside| Ok::<_, der::Error>((inside.decode()?, inside.decode()?)))?;
            reader.finish()?;
            Ok(pair)
        };
        let (modulus, exponent) = numbers().map_err(|_| KeyError::Rsa)?;
        Self::rsa(modulus.as_bytes(), exponent.as_bytes())
    }

    /// Whether it is a key on P-384.
    pub fn is_p384(&self) -> bool {
        matches!(self.0, Kind::P384(_))
    }

    /// What kind of key it is, for people.
    pub fn describe(&self) -> String {
        match &self.0 {
            Kind::Rsa(key) => format!("RSA of {} bits", key.bits()),
            Kind::P256(_) => "P-256".to_owned(),
            Kind::P384(_) => "P-384".to_owned(),
        }
    }

    /// Verifies a signature in the form that certificates carry: RSA's bytes, or ECDSA's two numbers as a DER sequence.
    pub fn verify(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        let holds = match (&self.0, algorithm) {
            (Kind::Rsa(key), Algorithm::PssSha384) => key.verifies_pss_sha384(message, signature),
            (Kind::Rsa(key), Algorithm::Pkcs1Sha256) => key.verifies_pkcs1_sha256(message, signature),
            (Kind::P256(key), Algorithm::EcdsaSha256) => {
                let signature = p256::ecdsa::Signature::from_der(signature);
                curves::verifies_p256(key, message, &signature.map_err(|_| SignatureError::Form)?)
            }
            (Kind::P384(key), Algorithm::EcdsaSha384) => {
                let signature = p384::ecdsa::Signature::from_der(signature);
                curves::verifies_p384(key, message, &signature.map_err(|_| SignatureError::Form)?)
            }
            _ => return Err(SignatureError::KeyKind),
        };
        if holds { Ok(()) } else { Err(SignatureError::Mismatch) }
    }

    /// Verifies an ECDSA signature given as R ‖ S, both big endian and of the curve's length; the curve's own hash is
    /// used: SHA-256 for P-256, SHA-384 for P-384.
    pub fn verify_raw_ecdsa(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let holds = match &self.0 {
            Kind::Rsa(_) => return Err(SignatureError::KeyKind),
            Kind::P256(key) => {
                let signature = p256::ecdsa::Signature::from_slice(signature);
                curves::verifies_p256(key, message, &signature.map_err(|_| SignatureError::Form)?)
            }
            Kind::P384(key) => {
                let signature = p384::ecdsa::Signature::from_slice(signature);
                curves::verifies_p384(key, message, &signature.map_err(|_| SignatureError::Form)?)
            }
        };
        if holds { Ok(()) } else { Err(SignatureError::Mismatch) }
    }
}

impl Algorithm {
    /// Reads an AlgorithmIdentifier; PSS parameters other than the ones of [`Algorithm::PssSha384`] are refused.
    pub(crate) fn from_identifier(identifier: &AlgorithmIdentifierOwned) -> Result<Self, SignatureError> {
        match identifier.oid {
            ECDSA_SHA256 => Ok(Algorithm::EcdsaSha256),
            ECDSA_SHA384 => Ok(Algorithm::EcdsaSha384),
            RSASSA_PKCS1_SHA256 => Ok(Algorithm::Pkcs1Sha256),
            RSASSA_PSS => {
                let parameters = identifier.parameters.as_ref().and_then(|any| any.to_der().ok());
                match parameters.map(|bytes| is_pss_sha384(&bytes)) {
                    Some(Ok(true)) => Ok(Algorithm::PssSha384),
                    _ => Err(SignatureError::Algorithm),
                }
            }
            _ => Err(SignatureError::Algorithm),
        }
    }
}

/// RSASSA-PSS-params (RFC 8017, section A.2.3): hash \[0\], mask \[1\], salt length \[2\], trailer \[3\]. AMD writes the
/// trailer in some certificates although it is the default, so it may be there or not.
fn is_pss_sha384(bytes: &[u8]) -> der::Result<bool> {
    let mut reader = SliceReader::new(bytes)?;
    let found = reader.sequence(|inside| {
        let hash = explicit::<AlgorithmIdentifierOwned>(inside, 0)?;
        let mask = explicit::<AlgorithmIdentifierOwned>(inside, 1)?;
        let salt = explicit::<u32>(inside, 2)?;
        let trailer = explicit::<u32>(inside, 3)?;
        Ok::<_, der::Error>((hash, mask, salt, trailer))
    })?;
    reader.finish()?;
    let (Some(hash), Some(mask), Some(48), None | Some(1)) = found else {
        return Ok(false);
    };
    let masked_by = mask.parameters.map(|any| any.decode_as::<AlgorithmIdentifierOwned>()).transpose()?;
    let mask_is_sha384 = masked_by.is_some_and(|inner| is_sha384(&inner));
    Ok(is_sha384(&hash) && mask.oid == MGF1 && mask_is_sha384)
}

fn is_sha384(identifier: &AlgorithmIdentifierOwned) -> bool {
    identifier.oid == SHA384 && identifier.parameters.as_ref().is_none_or(|any| any.is_null())
}

/// An element with an explicit context tag, if it is next.
fn explicit<T: for<'a> Decode<'a, Error = der::Error>>(
    reader: &mut SliceReader<'_>,
    number: u32,
) -> der::Result<Option<T>> {
    let tag = Tag::ContextSpecific { constructed: true, number: TagNumber(number) };
    if reader.is_finished() || Tag::peek(reader)? != tag {
        return Ok(None);
    }
    let whole = reader.tlv_bytes()?;
    let mut inside = SliceReader::new(whole)?;
    let header = der::Header::decode(&mut inside)?;
    let content = inside.read_slice(header.length())?;
    T::from_der(content).map(Some)
}
