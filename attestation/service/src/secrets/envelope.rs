//! Keys that encrypt, and keys that encrypt those.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, Key, KeyInit, Nonce};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const IV_BYTES: usize = 12;

/// The name of a key-encryption key, which stands before everything that it wraps. It says nothing about the key.
pub type KeyId = [u8; 8];

/// The key that tenants' keys are wrapped with. It is wiped when it is dropped.
pub struct KeyEncryptionKey(DataKey);

/// What is kept. It cannot be printed or serialised, and is wiped when it is dropped.
pub struct Secret(Zeroizing<Vec<u8>>);

/// A tenant's key: 32 bytes that encrypt with fresh random IVs, up to 2^32 messages. It is wiped when it is dropped.
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; 32]>);

/// There was no randomness, or the cipher refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotEncrypted;

impl KeyEncryptionKey {
    /// Takes 32 random bytes.
    pub fn new(key: [u8; 32]) -> Self {
        Self(DataKey(Zeroizing::new(key)))
    }

    /// A few bytes that only this key gives, for `purpose`, and that say nothing about it.
    pub(super) fn digest(&self, purpose: &[u8]) -> KeyId {
        first_bytes(&Zeroizing::new([purpose, self.0.0.as_slice()].concat()))
    }

    pub(super) fn key(&self) -> &DataKey {
        &self.0
    }
}

impl DataKey {
    /// A new key.
    pub(super) fn generate() -> Result<Self, NotEncrypted> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut()).map_err(|_| NotEncrypted)?;
        Ok(Self(key))
    }

    /// Takes 32 bytes, and no other number.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|key: [u8; 32]| Self(Zeroizing::new(key)))
    }

    /// The bytes themselves, for whoever wraps it.
    pub(super) fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// IV ‖ ciphertext ‖ tag.
    pub(super) fn seal(&self, plain: &[u8], aad: &[u8]) -> Result<Vec<u8>, NotEncrypted> {
        let mut iv = [0; IV_BYTES];
        getrandom::fill(&mut iv).map_err(|_| NotEncrypted)?;
        let both = self.cipher().encrypt(&Nonce::from(iv), Payload { msg: plain, aad });
        Ok([iv.to_vec(), both.map_err(|_| NotEncrypted)?].concat())
    }

    /// `None` if the bytes are not what this key made for this place.
    pub(super) fn open(&self, sealed: &[u8], aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (iv, both) = sealed.split_first_chunk::<IV_BYTES>()?;
        self.cipher().decrypt(&Nonce::from(*iv), Payload { msg: both, aad }).ok().map(Zeroizing::new)
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(&Key::<Aes256Gcm>::from(*self.0))
    }
}

impl Secret {
    pub(super) fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// The first bytes of a SHA-256.
pub(super) fn first_bytes(of: &[u8]) -> KeyId {
    let digest: [u8; 32] = Sha256::digest(of).into();
    let mut id = KeyId::default();
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    id
}

/// What a ciphertext is bound to: a purpose and parts, each with its length in front so that none runs into the next.
pub(super) fn bound(purpose: &str, parts: &[&[u8]]) -> Vec<u8> {
    let all = std::iter::once(purpose.as_bytes()).chain(parts.iter().copied());
    all.flat_map(|part| (part.len() as u64).to_be_bytes().into_iter().chain(part.iter().copied())).collect()
}
