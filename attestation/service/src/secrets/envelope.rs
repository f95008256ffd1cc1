//! Keys that encrypt, and keys that encrypt those.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, Key, KeyInit, Nonce};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const IV_BYTES: usize = 12;

/// Length of a key's name in bytes.
pub(super) const KEK_ID_BYTES: usize = 8;

/// The key that tenants' keys are wrapped with. It is wiped when it is dropped.
pub struct KeyEncryptionKey(DataKey);

/// What is kept. It cannot be printed or serialised, and is wiped when it is dropped.
pub struct Secret(Zeroizing<Vec<u8>>);

/// A key of 32 bytes that encrypts with fresh random IVs: up to 2^32 messages.
pub(super) struct DataKey(Zeroizing<[u8; 32]>);

/// There was no randomness, or the cipher refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotEncrypted;

impl KeyEncryptionKey {
    /// Takes 32 random bytes.
    pub fn new(key: [u8; 32]) -> Self {
        Self(DataKey(Zeroizing::new(key)))
    }

    /// A name that says nothing about the key, to find the right one by.
    pub(super) fn id(&self) -> [u8; KEK_ID_BYTES] {
        let digest: [u8; 32] = Sha256::new()
            .chain_update(b"coffer kek id 1")
            .chain_update(self.0.0.as_slice())
            .finalize()
            .into();
        let mut id = [0; KEK_ID_BYTES];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        id
    }

    /// Wraps a tenant's key.
    pub(super) fn wrap(&self, key: &DataKey, tenant: &str) -> Result<Vec<u8>, NotEncrypted> {
        self.0.seal(key.0.as_slice(), &bound("data key", &[tenant.as_bytes()]))
    }

    /// Unwraps a tenant's key.
    pub(super) fn unwrap_key(&self, wrapped: &[u8], tenant: &str) -> Option<DataKey> {
        let opened = self.0.open(wrapped, &bound("data key", &[tenant.as_bytes()]))?;
        let key: [u8; 32] = opened.as_slice().try_into().ok()?;
        Some(DataKey(Zeroizing::new(key)))
    }
}

impl DataKey {
    /// A new key.
    pub(super) fn generate() -> Result<Self, NotEncrypted> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut()).map_err(|_| NotEncrypted)?;
        Ok(Self(key))
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

/// What a ciphertext is bound to: a purpose and parts, each with its length in front so that none runs into the next.
pub(super) fn bound(purpose: &str, parts: &[&[u8]]) -> Vec<u8> {
    let all = std::iter::once(purpose.as_bytes()).chain(parts.iter().copied());
    all.flat_map(|part| (part.len() as u64).to_be_bytes().into_iter().chain(part.iter().copied())).collect()
}
