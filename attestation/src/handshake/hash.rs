//! What binds evidence to a conversation: a hash over nonce, guest key and further evidence.

use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::canonical::{CanonicalError, canonical};

/// Hash functions of the protocol that are spoken here; SM3 is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashAlgorithm {
    /// 32 bytes.
    Sha256,
    /// 48 bytes: what is used when nobody says otherwise.
    Sha384,
    /// 64 bytes.
    Sha512,
}

/// The hash that evidence must carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportData(Vec<u8>);

impl HashAlgorithm {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            HashAlgorithm::Sha256 => "sha256",
            HashAlgorithm::Sha384 => "sha384",
            HashAlgorithm::Sha512 => "sha512",
        }
    }

    /// By its name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// Hashes.
    pub fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            HashAlgorithm::Sha256 => Sha256::digest(bytes).to_vec(),
            HashAlgorithm::Sha384 => Sha384::digest(bytes).to_vec(),
            HashAlgorithm::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }
}

impl ReportData {
    /// `H(JCS({"additional-evidence": additional, "nonce": nonce, "tee-pubkey": key}))`, each as it was sent.
    ///
    /// # Errors
    /// A number in `key` without a canonical form.
    pub fn compute(
        algorithm: HashAlgorithm,
        nonce: &str,
        key: &Value,
        additional: &str,
    ) -> Result<Self, CanonicalError> {
        let bound = json!({ "additional-evidence": additional, "nonce": nonce, "tee-pubkey": key });
        Ok(Self(algorithm.digest(canonical(&bound)?.as_bytes())))
    }

    /// The hash itself: 32, 48 or 64 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As the 64 bytes of REPORT_DATA of SEV-SNP and TDX: the hash, then zeros.
    pub fn as_report_field(&self) -> [u8; 64] {
        let mut field = [0; 64];
        field.iter_mut().zip(&self.0).for_each(|(to, from)| *to = *from);
        field
    }
}
