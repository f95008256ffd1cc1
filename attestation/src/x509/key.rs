//! Public keys and the signatures that they verify.

use der::asn1::ObjectIdentifier;
use der::{Decode, Encode, Reader, SliceReader, Tag, TagNumber};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use p384::ecdsa::signature::Verifier;
use p384::ecdsa::signature::hazmat::PrehashVerifier;
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::certificate::pem_block;
use super::rsa::{Hash, RsaKey};
use crate::curves;

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const RSASSA_PKCS1_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const RSASSA_PKCS1_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const RSASSA_PKCS1_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ECDSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");

/// A public key of a kind that evidence or an image is signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Rsa(Box<RsaKey>),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
    P521(Box<p521::ecdsa::VerifyingKey>),
    Ed25519(Box<ed25519_dalek::VerifyingKey>),
}

/// A way to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PSS, SHA-256, MGF1 over SHA-256, salt of 32 bytes.
    PssSha256,
    /// RSASSA-PSS, SHA-384, MGF1 over SHA-384, salt of 48 bytes: AMD's certificates.
    PssSha384,
    /// RSASSA-PSS, SHA-512, MGF1 over SHA-512, salt of 64 bytes.
    PssSha512,
    /// RSASSA-PKCS1-v1_5 with SHA-256: quotes of Azure's virtual TPM.
    Pkcs1Sha256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Pkcs1Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Pkcs1Sha512,
    /// ECDSA with SHA-256, on any curve.
    EcdsaSha256,
    /// ECDSA with SHA-384, on any curve.
    EcdsaSha384,
    /// ECDSA with SHA-512, on any curve.
    EcdsaSha512,
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// Ed25519ph (RFC 8032): the same over SHA-512 of the message, without a context.
    Ed25519ph,
}

/// Why bytes are not a key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Neither RSA nor a curve that is known here.
    #[error("keys of kind {found} cannot be verified with: RSA, P-256, P-384, P-521 and Ed25519 can")]
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
    /// Not a public key at all.
    #[error("this is no public key: a SubjectPublicKeyInfo in DER or PEM is one")]
    Form,
}

/// Why a signature does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The algorithm identifier is not one of [`Algorithm`], or its parameters are others.
    #[error(
        "the signature's algorithm or its parameters are not known here: RSA in PSS or PKCS #1, ECDSA and Ed25519 are"
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
    pub fn from_info(info: &SubjectPublicKeyInfoOwned) -> Result<Self, KeyError> {
        let bytes = info.subject_public_key.raw_bytes();
        let parameters = info.algorithm.parameters.as_ref();
        if info.algorithm.oid == RSA {
            return Self::from_rsa_der(bytes);
        }
        if info.algorithm.oid == ED25519 {
            let key = <[u8; 32]>::try_from(bytes).ok();
            let key = key.and_then(|key| ed25519_dalek::VerifyingKey::from_bytes(&key).ok());
            let key = key.filter(|key| !key.is_weak());
            return key
                .map(|key| Self(Kind::Ed25519(Box::new(key))))
                .ok_or(KeyError::Point { curve: "Ed25519", bytes: bytes.len() });
        }
        if info.algorithm.oid != EC {
            return Err(KeyError::Kind { found: info.algorithm.oid.to_string() });
        }
        match parameters.and_then(|any| any.decode_as::<ObjectIdentifier>().ok()) {
            Some(P256) => Self::p256(bytes),
            Some(P384) => Self::p384(bytes),
            Some(P521) => Self::p521(bytes),
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

    /// A SubjectPublicKeyInfo, in DER or as one block of PEM (`PUBLIC KEY`).
    pub fn from_file(bytes: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN "));
        let der = match text {
            Some(text) => {
                let (_, rest) = text.split_once("-----BEGIN ").ok_or(KeyError::Form)?;
                if rest.contains("-----BEGIN ") {
                    return Err(KeyError::Form);
                }
                pem_block(rest, "PUBLIC KEY").ok_or(KeyError::Form)?
            }
            None => bytes.to_vec(),
        };
        let info = SubjectPublicKeyInfoOwned::from_der(&der).map_err(|_| KeyError::Form)?;
        Self::from_info(&info)
    }

    /// A P-521 key from a point in SEC 1 form (133 or 67 bytes).
    pub fn p521(point: &[u8]) -> Result<Self, KeyError> {
        let error = |_| KeyError::Point { curve: "P-521", bytes: point.len() };
        let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(point);
        key.map(|key| Self(Kind::P521(Box::new(key)))).map_err(error)
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
            Kind::P521(_) => "P-521".to_owned(),
            Kind::Ed25519(_) => "Ed25519".to_owned(),
        }
    }

    /// The way to sign that is usual for keys of this kind: PKCS #1 with SHA-256 for RSA, the curve's own hash for the others.
    pub fn usual_algorithm(&self) -> Algorithm {
        match &self.0 {
            Kind::Rsa(_) => Algorithm::Pkcs1Sha256,
            Kind::P256(_) => Algorithm::EcdsaSha256,
            Kind::P384(_) => Algorithm::EcdsaSha384,
            Kind::P521(_) => Algorithm::EcdsaSha512,
            Kind::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// The way to sign that JWS and COSE prescribe for a key of this kind and size in Notation's envelopes: PSS for RSA with the
    /// hash that fits its size, ECDSA with the curve's own hash. `None` for keys that they do not take.
    pub fn envelope_algorithm(&self) -> Option<Algorithm> {
        match &self.0 {
            Kind::Rsa(key) if key.bits() == 2048 => Some(Algorithm::PssSha256),
            Kind::Rsa(key) if key.bits() == 3072 => Some(Algorithm::PssSha384),
            Kind::Rsa(key) if key.bits() == 4096 => Some(Algorithm::PssSha512),
            Kind::Rsa(_) | Kind::Ed25519(_) => None,
            Kind::P256(_) | Kind::P384(_) | Kind::P521(_) => Some(self.usual_algorithm()),
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
            (Kind::Rsa(key), Algorithm::PssSha256) => key.verifies_pss(Hash::Sha256, message, signature),
            (Kind::Rsa(key), Algorithm::PssSha384) => key.verifies_pss(Hash::Sha384, message, signature),
            (Kind::Rsa(key), Algorithm::PssSha512) => key.verifies_pss(Hash::Sha512, message, signature),
            (Kind::Rsa(key), Algorithm::Pkcs1Sha256) => key.verifies_pkcs1(Hash::Sha256, message, signature),
            (Kind::Rsa(key), Algorithm::Pkcs1Sha384) => key.verifies_pkcs1(Hash::Sha384, message, signature),
            (Kind::Rsa(key), Algorithm::Pkcs1Sha512) => key.verifies_pkcs1(Hash::Sha512, message, signature),
            (Kind::P256(key), _) => {
                let signature = p256::ecdsa::Signature::from_der(signature);
                let signature = signature.map_err(|_| SignatureError::Form)?;
                match algorithm {
                    Algorithm::EcdsaSha256 => curves::verifies_p256(key, message, &signature),
                    _ => key.verify_prehash(&ecdsa_digest(algorithm, message)?, &signature).is_ok(),
                }
            }
            (Kind::P384(key), _) => {
                let signature = p384::ecdsa::Signature::from_der(signature);
                let signature = signature.map_err(|_| SignatureError::Form)?;
                match algorithm {
                    Algorithm::EcdsaSha384 => curves::verifies_p384(key, message, &signature),
                    _ => key.verify_prehash(&ecdsa_digest(algorithm, message)?, &signature).is_ok(),
                }
            }
            (Kind::P521(key), _) => {
                let signature = p521::ecdsa::Signature::from_der(signature);
                let signature = signature.map_err(|_| SignatureError::Form)?;
                key.verify_prehash(&ecdsa_digest(algorithm, message)?, &signature).is_ok()
            }
            (Kind::Ed25519(key), Algorithm::Ed25519) => {
                let signature = ed25519_dalek::Signature::from_slice(signature);
                key.verify_strict(message, &signature.map_err(|_| SignatureError::Form)?).is_ok()
            }
            (Kind::Ed25519(key), Algorithm::Ed25519ph) => {
                let signature = ed25519_dalek::Signature::from_slice(signature);
                let signature = signature.map_err(|_| SignatureError::Form)?;
                let digest = Sha512::new_with_prefix(message);
                key.verify_prehashed_strict(digest, None, &signature).is_ok()
            }
            _ => return Err(SignatureError::KeyKind),
        };
        if holds { Ok(()) } else { Err(SignatureError::Mismatch) }
    }

    /// Verifies an ECDSA signature given as R ‖ S, both big endian and of the curve's length; the curve's own hash is
    /// used: SHA-256 for P-256, SHA-384 for P-384, SHA-512 for P-521.
    pub fn verify_raw_ecdsa(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let holds = match &self.0 {
            Kind::Rsa(_) | Kind::Ed25519(_) => return Err(SignatureError::KeyKind),
            Kind::P521(key) => {
                let signature = p521::ecdsa::Signature::from_slice(signature);
                key.verify(message, &signature.map_err(|_| SignatureError::Form)?).is_ok()
            }
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
    /// Reads an AlgorithmIdentifier; of PSS only parameters with one hash throughout and a salt as long as it are taken.
    pub fn from_identifier(identifier: &AlgorithmIdentifierOwned) -> Result<Self, SignatureError> {
        match identifier.oid {
            ECDSA_SHA256 => Ok(Algorithm::EcdsaSha256),
            ECDSA_SHA384 => Ok(Algorithm::EcdsaSha384),
            ECDSA_SHA512 => Ok(Algorithm::EcdsaSha512),
            ED25519 => Ok(Algorithm::Ed25519),
            RSASSA_PKCS1_SHA256 => Ok(Algorithm::Pkcs1Sha256),
            RSASSA_PKCS1_SHA384 => Ok(Algorithm::Pkcs1Sha384),
            RSASSA_PKCS1_SHA512 => Ok(Algorithm::Pkcs1Sha512),
            RSASSA_PSS => {
                let parameters = identifier.parameters.as_ref().and_then(|any| any.to_der().ok());
                let read = parameters.and_then(|bytes| pss_parameters(&bytes).ok().flatten());
                read.ok_or(SignatureError::Algorithm)
            }
            _ => Err(SignatureError::Algorithm),
        }
    }

    /// The way to sign with a key of the kind of `key` and the hash `digest`, where a message names the two apart (CMS).
    pub fn of_key_and_digest(
        key: &PublicKey,
        digest: &AlgorithmIdentifierOwned,
    ) -> Result<Self, SignatureError> {
        match (&key.0, digest.oid) {
            (Kind::Rsa(_), SHA256) => Ok(Algorithm::Pkcs1Sha256),
            (Kind::Rsa(_), SHA384) => Ok(Algorithm::Pkcs1Sha384),
            (Kind::Rsa(_), SHA512) => Ok(Algorithm::Pkcs1Sha512),
            (Kind::Ed25519(_), SHA512) => Ok(Algorithm::Ed25519),
            (Kind::P256(_) | Kind::P384(_) | Kind::P521(_), SHA256) => Ok(Algorithm::EcdsaSha256),
            (Kind::P256(_) | Kind::P384(_) | Kind::P521(_), SHA384) => Ok(Algorithm::EcdsaSha384),
            (Kind::P256(_) | Kind::P384(_) | Kind::P521(_), SHA512) => Ok(Algorithm::EcdsaSha512),
            _ => Err(SignatureError::Algorithm),
        }
    }
}

/// The digest that an ECDSA signature of this algorithm covers.
fn ecdsa_digest(algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
    match algorithm {
        Algorithm::EcdsaSha256 => Ok(Sha256::digest(message).to_vec()),
        Algorithm::EcdsaSha384 => Ok(Sha384::digest(message).to_vec()),
        Algorithm::EcdsaSha512 => Ok(Sha512::digest(message).to_vec()),
        _ => Err(SignatureError::KeyKind),
    }
}

/// RSASSA-PSS-params (RFC 8017, section A.2.3): hash \[0\], mask \[1\], salt length \[2\], trailer \[3\]. AMD writes the
/// trailer in some certificates although it is the default, so it may be there or not.
fn pss_parameters(bytes: &[u8]) -> der::Result<Option<Algorithm>> {
    let mut reader = SliceReader::new(bytes)?;
    let found = reader.sequence(|inside| {
        let hash = explicit::<AlgorithmIdentifierOwned>(inside, 0)?;
        let mask = explicit::<AlgorithmIdentifierOwned>(inside, 1)?;
        let salt = explicit::<u32>(inside, 2)?;
        let trailer = explicit::<u32>(inside, 3)?;
        Ok::<_, der::Error>((hash, mask, salt, trailer))
    })?;
    reader.finish()?;
    let (Some(hash), Some(mask), Some(salt), None | Some(1)) = found else {
        return Ok(None);
    };
    let masked_by = mask.parameters.map(|any| any.decode_as::<AlgorithmIdentifierOwned>()).transpose()?;
    let bare = |found: &AlgorithmIdentifierOwned| found.parameters.as_ref().is_none_or(|any| any.is_null());
    let one_hash = masked_by.is_some_and(|inner| inner.oid == hash.oid && bare(&inner)) && bare(&hash);
    if mask.oid != MGF1 || !one_hash {
        return Ok(None);
    }
    Ok(match (hash.oid, salt) {
        (SHA256, 32) => Some(Algorithm::PssSha256),
        (SHA384, 48) => Some(Algorithm::PssSha384),
        (SHA512, 64) => Some(Algorithm::PssSha512),
        _ => None,
    })
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
