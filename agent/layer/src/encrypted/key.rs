//! A layer's key, wrapped by AES-256 in Galois/counter mode under a key of the verifier's:
//!
//! ```text
//! {"symkey":B,"digest":"sha256:…","cipheroptions":{"nonce":B}}           B in base64: 32 and 16 bytes
//! ```
//! `digest` is that of the blob before it was encrypted; whoever did not know it may have left it empty.

use std::fmt;

use aes_gcm::aead::Aead;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use base64ct::{Base64, Encoding};
use coffer_protocol::Digest;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::WRAPPING_KEY_BYTES;
use super::envelope::Envelope;
use super::error::KeyError;

pub(super) const KEY_BYTES: usize = 32;
pub(super) const NONCE_BYTES: usize = 16;

/// What a layer is decrypted with. It says nothing of itself, and is wiped when it is dropped.
pub struct LayerKey {
    pub(super) key: Zeroizing<[u8; KEY_BYTES]>,
    pub(super) nonce: [u8; NONCE_BYTES],
    pub(super) digest: Option<Digest>,
    pub(super) hmac: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options<'a> {
    symkey: &'a str,
    digest: &'a str,
    #[serde(borrow)]
    cipheroptions: CipherOptions<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CipherOptions<'a> {
    nonce: &'a str,
}

impl Envelope {
    /// Unwraps the layer's key.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn open(&self, wrapping_key: &[u8]) -> Result<LayerKey, KeyError> {
        let cipher = cipher(wrapping_key)?;
        let opened = cipher.decrypt(&Nonce::from(self.iv), self.wrapped.as_slice());
        let opened = Zeroizing::new(opened.map_err(|_| KeyError::Another)?);
        // What the parser has to say could quote the key.
        let form = |reason| KeyError::Form { reason };
        let options: Options<'_> = serde_json::from_slice(&opened)
            .map_err(|_| form("it is not JSON with symkey, digest and cipheroptions.nonce alone"))?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        decode(options.symkey, &mut *key).ok_or_else(|| form("symkey is not 32 bytes in base64"))?;
        let mut nonce = [0; NONCE_BYTES];
        decode(options.cipheroptions.nonce, &mut nonce)
            .ok_or_else(|| form("the nonce is not 16 bytes in base64"))?;
        let digest = match options.digest {
            "" => None,
            text => Some(text.parse().map_err(|_| form("digest is not a SHA-256 digest"))?),
        };
        Ok(LayerKey { key, nonce, digest, hmac: self.hmac })
    }
}

impl fmt::Debug for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerKey").finish_non_exhaustive()
    }
}

impl LayerKey {
    /// Of the blob before it was encrypted, if whoever encrypted it said so.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Wraps it.
    pub(super) fn wrap(&self, wrapping_key: &[u8], iv: [u8; 12]) -> Result<Vec<u8>, KeyError> {
        let symkey = Zeroizing::new(Base64::encode_string(&*self.key));
        let (nonce, digest) = (Base64::encode_string(&self.nonce), self.digest);
        let digest = digest.map(|digest| digest.to_string()).unwrap_or_default();
        let options =
            Options { symkey: &symkey, digest: &digest, cipheroptions: CipherOptions { nonce: &nonce } };
        let form = KeyError::Form { reason: "it cannot be written" };
        let options = Zeroizing::new(serde_json::to_vec(&options).map_err(|_| form.clone())?);
        cipher(wrapping_key)?.encrypt(&Nonce::from(iv), options.as_slice()).map_err(|_| form)
    }
}

fn cipher(wrapping_key: &[u8]) -> Result<Aes256Gcm, KeyError> {
    if wrapping_key.len() != WRAPPING_KEY_BYTES {
        return Err(KeyError::Length);
    }
    Aes256Gcm::new_from_slice(wrapping_key).map_err(|_| KeyError::Length)
}

/// Fills `target` exactly.
fn decode(text: &str, target: &mut [u8]) -> Option<()> {
    // Longer text is refused before it is decoded: the target would not hold it.
    let length = target.len();
    Base64::decode(text, target).ok().filter(|bytes| bytes.len() == length).map(drop)
}
