//! Keys that documents are signed and verified with, as PEM files.

use der::asn1::{ObjectIdentifier, OctetStringRef};
use der::{AnyRef, Decode, Encode, Reader, SliceReader};
use p256::ecdsa::signature::Signer;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::elliptic_curve::sec1::ToSec1Point;
use sha2::{Digest, Sha256};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use zeroize::Zeroizing;

use crate::x509::{Algorithm, PublicKey};

const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Signs documents.
pub struct PrivateKey(Curve);

enum Curve {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
}

/// Whose documents are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerKey {
    key: PublicKey,
    algorithm: Algorithm,
    id: String,
}

/// Why a file holds no such key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerKeyError {
    /// Not PEM.
    #[error("this is no PEM file")]
    Pem,
    /// PEM of something else.
    #[error("this is a {found}, wanted is a {expected}")]
    Label {
        /// What it must be.
        expected: &'static str,
        /// What it is, cut.
        found: String,
    },
    /// Not a key, or not on one of the two curves.
    #[error("this is no key on P-256 or P-384")]
    Kind,
}

impl PrivateKey {
    /// Reads PKCS #8 (RFC 5958) in PEM, which `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` writes.
    ///
    /// # Errors
    /// [`SignerKeyError`]
    pub fn from_pem(pem: &str) -> Result<Self, SignerKeyError> {
        Self::from_der(&Zeroizing::new(block(pem, "PRIVATE KEY")?))
    }

    /// Reads PKCS #8 in DER.
    ///
    /// # Errors
    /// [`SignerKeyError`]
    pub fn from_der(der: &[u8]) -> Result<Self, SignerKeyError> {
        let (curve, scalar) = scalar(der).map_err(|_| SignerKeyError::Kind)?;
        let kind = |_| SignerKeyError::Kind;
        Ok(Self(match curve {
            P256 => Curve::P256(p256::ecdsa::SigningKey::from_slice(&scalar).map_err(kind)?),
            P384 => Curve::P384(p384::ecdsa::SigningKey::from_slice(&scalar).map_err(kind)?),
            _ => return Err(SignerKeyError::Kind),
        }))
    }

    /// The key that verifies what this one signs.
    ///
    /// # Errors
    /// [`SignerKeyError`]
    pub fn signer(&self) -> Result<SignerKey, SignerKeyError> {
        let (curve, point) = match &self.0 {
            Curve::P256(key) => (P256, key.verifying_key().to_sec1_point(false).as_bytes().to_vec()),
            Curve::P384(key) => (P384, key.verifying_key().to_sec1_point(false).as_bytes().to_vec()),
        };
        SignerKey::of(curve, &point)
    }

    /// Signs bytes with the curve's own hash. Answers a DER sequence of two numbers.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.0 {
            Curve::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.to_der().as_bytes().to_vec()
            }
            Curve::P384(key) => {
                let signature: p384::ecdsa::Signature = key.sign(message);
                signature.to_der().as_bytes().to_vec()
            }
        }
    }
}

impl PrivateKey {
    /// Signs bytes with SHA-256 on either curve, as cosign wants images signed. Answers a DER sequence of two numbers.
    ///
    /// # Errors
    /// [`SignerKeyError::Kind`] for a key that cannot; there is none.
    pub fn sign_with_sha256(&self, message: &[u8]) -> Result<Vec<u8>, SignerKeyError> {
        let Curve::P384(key) = &self.0 else { return Ok(self.sign(message)) };
        let signature: Result<p384::ecdsa::Signature, _> = key.sign_prehash(&Sha256::digest(message));
        Ok(signature.map_err(|_| SignerKeyError::Kind)?.to_der().as_bytes().to_vec())
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl SignerKey {
    /// Reads a SubjectPublicKeyInfo in PEM, which `openssl pkey -pubout` writes.
    ///
    /// # Errors
    /// [`SignerKeyError`]
    pub fn from_pem(pem: &str) -> Result<Self, SignerKeyError> {
        Self::from_der(&block(pem, "PUBLIC KEY")?)
    }

    fn from_der(der: &[u8]) -> Result<Self, SignerKeyError> {
        let info = SubjectPublicKeyInfoOwned::from_der(der).map_err(|_| SignerKeyError::Kind)?;
        let curve = info.algorithm.parameters.and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        let curve = curve.filter(|_| info.algorithm.oid == EC).ok_or(SignerKeyError::Kind)?;
        Self::of(curve, info.subject_public_key.as_bytes().ok_or(SignerKeyError::Kind)?)
    }

    /// `point` is compressed or not (SEC 1, 2.3.3); the key is the same.
    fn of(curve: ObjectIdentifier, point: &[u8]) -> Result<Self, SignerKeyError> {
        let (algorithm, whole) = match curve {
            P256 => {
                let key = p256::PublicKey::from_sec1_bytes(point).map_err(|_| SignerKeyError::Kind)?;
                (Algorithm::EcdsaSha256, key.to_sec1_point(false).as_bytes().to_vec())
            }
            P384 => {
                let key = p384::PublicKey::from_sec1_bytes(point).map_err(|_| SignerKeyError::Kind)?;
                (Algorithm::EcdsaSha384, key.to_sec1_point(false).as_bytes().to_vec())
            }
            _ => return Err(SignerKeyError::Kind),
        };
        let info = || {
            let parameters = Some(der::Any::encode_from(&curve)?);
            let algorithm = AlgorithmIdentifierOwned { oid: EC, parameters };
            let subject_public_key = der::asn1::BitString::from_bytes(&whole)?;
            Ok::<_, der::Error>(SubjectPublicKeyInfoOwned { algorithm, subject_public_key })
        };
        let info = info().map_err(|_| SignerKeyError::Kind)?;
        let key = PublicKey::from_info(&info).map_err(|_| SignerKeyError::Kind)?;
        let id = hex::encode(Sha256::digest(info.to_der().map_err(|_| SignerKeyError::Kind)?));
        Ok(Self { key, algorithm, id })
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo with the point uncompressed, in hexadecimal.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify(self.algorithm, message, signature).is_ok()
    }
}

fn block(pem: &str, expected: &'static str) -> Result<Vec<u8>, SignerKeyError> {
    let (label, der) = der::pem::decode_vec(pem.trim().as_bytes()).map_err(|_| SignerKeyError::Pem)?;
    if label == expected {
        return Ok(der);
    }
    Err(SignerKeyError::Label { expected, found: label.chars().take(64).collect() })
}

/// Curve and scalar of PrivateKeyInfo around ECPrivateKey (RFC 5915).
fn scalar(der: &[u8]) -> der::Result<(ObjectIdentifier, Zeroizing<Vec<u8>>)> {
    let mut reader = SliceReader::new(der)?;
    let (curve, inside) = reader.sequence(|info| {
        let _version: u8 = info.decode()?;
        let algorithm: AlgorithmIdentifierOwned = info.decode()?;
        let key: &OctetStringRef = info.decode()?;
        rest(info)?;
        let curve = algorithm.parameters.filter(|_| algorithm.oid == EC);
        let curve = curve.ok_or(der::ErrorKind::Failed)?.decode_as::<ObjectIdentifier>()?;
        Ok::<_, der::Error>((curve, key.as_bytes()))
    })?;
    reader.finish()?;
    let mut reader = SliceReader::new(inside)?;
    let scalar = reader.sequence(|key| {
        let _version: u8 = key.decode()?;
        let scalar: &OctetStringRef = key.decode()?;
        rest(key)?;
        Ok::<_, der::Error>(Zeroizing::new(scalar.as_bytes().to_vec()))
    })?;
    reader.finish()?;
    Ok((curve, scalar))
}

/// Attributes, parameters and the public key, which follow and are not needed.
fn rest<'a>(reader: &mut impl Reader<'a>) -> der::Result<()> {
    while !reader.is_finished() {
        let _passed_over: AnyRef<'_> = reader.decode()?;
    }
    Ok(())
}
