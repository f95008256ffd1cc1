//! OCI digests: SHA-256 and nothing weaker or rarer.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The name of bytes by their SHA-256, written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is no digest that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Another algorithm.
    #[error("digests by {algorithm:?} are not supported: sha256 is")]
    Algorithm {
        /// What stands before the colon, cut to 16 characters.
        algorithm: String,
    },
    /// Not 64 lower-case digits.
    #[error("{found:?} is no digest: write sha256: and 64 lower-case hexadecimal digits")]
    Form {
        /// The text, cut to 80 characters.
        found: String,
    },
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest whose 32 bytes are known.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its 64 digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Serial of a disk with these bytes: `l-` and the first 16 digits, within virtio's 20 bytes.
    pub fn serial(&self) -> String {
        let mut serial = format!("l-{}", self.hex());
        serial.truncate(18);
        serial
    }

    /// The tag under which cosign's older scheme keeps the signatures of an image with this digest.
    pub fn signature_tag(&self) -> String {
        format!("sha256-{}.sig", self.hex())
    }

    /// The tag that plays the referrers API on a registry without one (OCI distribution 1.1).
    pub fn referrers_tag(&self) -> String {
        format!("sha256-{}", self.hex())
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let form = || DigestError::Form { found: text.chars().take(80).collect() };
        let (algorithm, digits) = text.split_once(':').ok_or_else(form)?;
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm { algorithm: algorithm.chars().take(16).collect() });
        }
        if digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(form());
        }
        let bytes = hex::decode(digits).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.map(Self).ok_or_else(form)
    }
}

impl Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_and_written_alike() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn a_serial_fits_a_virtio_disk() {
        assert_eq!(Digest::of(b"").serial(), "l-e3b0c44298fc1c14");
    }

    #[test]
    fn upper_case_digits_are_refused() {
        let text = format!("sha256:{}", "A".repeat(64));
        assert!(matches!(text.parse::<Digest>(), Err(DigestError::Form { .. })));
    }

    #[test]
    fn another_algorithm_is_named() {
        let refused = format!("sha512:{}", "a".repeat(128)).parse::<Digest>();
        assert_eq!(refused, Err(DigestError::Algorithm { algorithm: "sha512".to_owned() }));
    }

    #[test]
    fn a_digit_less_is_refused() {
        assert!(format!("sha256:{}", "a".repeat(63)).parse::<Digest>().is_err());
    }
}
