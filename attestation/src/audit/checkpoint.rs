//! A signed statement of how long the log is and what is in it.

use std::fmt::{self, Display};

use base64ct::{Base64, Encoding};
use p256::ecdsa::signature::{Signer, Verifier};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};

use super::merkle::Hash;
use crate::time::UnixTime;

const FIRST_LINE: &str = "coffer audit checkpoint 1";

/// What a log was at one time, as five lines of text and a signature over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number of entries.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
    /// When it was made.
    pub at: UnixTime,
}

/// Why a checkpoint is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not of this form.
    #[error("this is no checkpoint of an audit log")]
    Form,
    /// Not a key at all.
    #[error("the key is no point on P-256")]
    Key,
    /// Another key, or changed.
    #[error("the checkpoint's signature does not match")]
    Signature,
}

impl Checkpoint {
    /// Signs it with ECDSA on P-256 and SHA-256.
    pub fn sign(&self, key: &SigningKey) -> String {
        let text = self.to_string();
        let signature: Signature = key.sign(text.as_bytes());
        format!("{text}{}\n", Base64::encode_string(&signature.to_bytes()))
    }

    /// Reads a signed checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn verify(signed: &str, key: &VerifyingKey) -> Result<Self, CheckpointError> {
        let (text, signature) =
            signed.strip_suffix('\n').and_then(|all| all.rsplit_once('\n')).ok_or(CheckpointError::Form)?;
        let text = format!("{text}\n");
        let signature = Base64::decode_vec(signature).map_err(|_| CheckpointError::Form)?;
        let signature = Signature::from_slice(&signature).map_err(|_| CheckpointError::Form)?;
        key.verify(text.as_bytes(), &signature).map_err(|_| CheckpointError::Signature)?;
        let read = Self::read(&text).ok_or(CheckpointError::Form)?;
        // One text for one checkpoint.
        if read.to_string() == text { Ok(read) } else { Err(CheckpointError::Form) }
    }

    /// The same with the key as a point on P-256 in one of SEC 1's forms, which is how the verifier says it.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn verify_by(signed: &str, key: &[u8]) -> Result<Self, CheckpointError> {
        let key = VerifyingKey::from_sec1_bytes(key).map_err(|_| CheckpointError::Key)?;
        Self::verify(signed, &key)
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip(1);
        let size = lines.next()?.parse().ok()?;
        let root = hex::decode(lines.next()?).ok()?.try_into().ok()?;
        let at = lines.next()?.parse().ok()?;
        Some(Self { size, root, at })
    }
}

impl Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}\n{}\n{}\n{}", self.size, hex::encode(self.root), self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_slice(&[number; 32]).expect("a scalar")
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { size: 7, root: [9; 32], at: UnixTime(1_800_000_000) }
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_signed() {
        let signed = checkpoint().sign(&key(1));
        assert_eq!(Checkpoint::verify(&signed, key(1).verifying_key()), Ok(checkpoint()));
    }

    #[test]
    fn another_key_or_another_size_is_refused() {
        let signed = checkpoint().sign(&key(1));
        let shorter = signed.replacen("\n7\n", "\n6\n", 1);
        assert_eq!(Checkpoint::verify(&signed, key(2).verifying_key()), Err(CheckpointError::Signature));
        assert_eq!(Checkpoint::verify(&shorter, key(1).verifying_key()), Err(CheckpointError::Signature));
    }
}
