//! Public keys as policies give them: a SubjectPublicKeyInfo, whose bytes also are the key's name.

use coffer_attestation::x509::{Algorithm, Certificate, KeyError, PublicKey, SignatureError};
use der::{Decode, Encode};
use sha2::{Digest as _, Sha256};

use crate::work::Work;

/// A key and its DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    spki: Vec<u8>,
    key: PublicKey,
}

impl Key {
    /// Reads DER, or one block of PEM.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, KeyError> {
        let key = PublicKey::from_file(bytes)?;
        let pem = std::str::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN "));
        let spki = match pem {
            Some(text) => der_of_pem(text).ok_or(KeyError::Form)?,
            None => bytes.to_vec(),
        };
        Ok(Self { spki, key })
    }

    /// The key of a certificate.
    pub(crate) fn of_certificate(certificate: &Certificate) -> Option<Self> {
        let parsed = x509_cert::Certificate::from_der(certificate.der()).ok()?;
        let spki = parsed.tbs_certificate().subject_public_key_info().to_der().ok()?;
        Some(Self { spki, key: certificate.key().clone() })
    }

    /// SHA-256 of the DER: how logs name their keys.
    pub(crate) fn id(&self) -> [u8; 32] {
        Sha256::digest(&self.spki).into()
    }

    /// The DER.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The key itself.
    pub(crate) fn public(&self) -> &PublicKey {
        &self.key
    }

    /// Verifies as cosign signs: by the kind's usual algorithm. On larger curves older versions hash with SHA-256.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8], work: &Work) -> Result<(), String> {
        verify_as_cosign(&self.key, message, signature, work)
    }

    /// Verifies as logs sign: by the kind's usual algorithm.
    pub(crate) fn verify_usual(&self, message: &[u8], signature: &[u8], work: &Work) -> Result<(), String> {
        work.spend()?;
        let verified = self.key.verify(self.key.usual_algorithm(), message, signature);
        verified.map_err(|error| error.to_string())
    }
}

/// See [`Key::verify`].
pub(crate) fn verify_as_cosign(
    key: &PublicKey,
    message: &[u8],
    signature: &[u8],
    work: &Work,
) -> Result<(), String> {
    let usual = key.usual_algorithm();
    let with = |algorithm| {
        work.spend()?;
        Ok::<_, String>(key.verify(algorithm, message, signature))
    };
    let first = with(usual)?;
    let verified = match (first, usual) {
        (Err(SignatureError::Mismatch), Algorithm::EcdsaSha384) => with(Algorithm::EcdsaSha256)?,
        // Made from a hash, as logs want it.
        (Err(SignatureError::Mismatch), Algorithm::Ed25519) => with(Algorithm::Ed25519ph)?,
        (first, _) => first,
    };
    verified.map_err(|error| error.to_string())
}

/// What one block of PEM with any label holds.
pub(crate) fn der_of_pem(text: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let whole = format!("-----BEGIN {rest}");
    der::pem::decode_vec(whole.trim_end().as_bytes()).ok().map(|(_, der)| der)
}
