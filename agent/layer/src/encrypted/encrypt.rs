//! Encrypts a layer.

use std::io::{self, Read, Write};

use aes::Aes256;
use coffer_protocol::Digest;
use ctr::Ctr128BE;
use ctr::cipher::StreamCipher;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::CHUNK;
use super::envelope::{Envelope, IV_BYTES};
use super::error::KeyError;
use super::key::{KEY_BYTES, LayerKey, NONCE_BYTES};
use super::passes::{cipher, mac};

/// What has to be random, and used for one layer alone.
pub struct Fresh {
    /// The layer's key.
    pub key: Zeroizing<[u8; KEY_BYTES]>,
    /// The counter's first value.
    pub nonce: [u8; NONCE_BYTES],
    /// What the key is wrapped with: never twice with one wrapping key.
    pub iv: [u8; IV_BYTES],
}

/// A layer that was encrypted, and whose key is still to be wrapped.
pub struct Encrypting {
    key: LayerKey,
    iv: [u8; IV_BYTES],
}

/// Encrypts the blob `from`, which should have `digest`, into `to`, of as many bytes.
///
/// # Errors
/// Of reading and writing.
pub fn encrypt(
    from: &mut impl Read,
    to: &mut impl Write,
    digest: Digest,
    fresh: Fresh,
) -> io::Result<Encrypting> {
    let mut key = LayerKey { key: fresh.key, nonce: fresh.nonce, digest: Some(digest), hmac: [0; 32] };
    let mut cipher: Ctr128BE<Aes256> = cipher(&key);
    let mut mac: Hmac<Sha256> = mac(&key).ok_or(io::ErrorKind::InvalidInput)?;
    let mut chunk = Vec::new();
    loop {
        chunk.clear();
        from.take(CHUNK).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            break;
        }
        cipher.apply_keystream(&mut chunk);
        mac.update(&chunk);
        to.write_all(&chunk)?;
    }
    key.hmac = mac.finalize().into_bytes().into();
    Ok(Encrypting { key, iv: fresh.iv })
}

impl Encrypting {
    /// Wraps the layer's key. `key_id` says where guests get the wrapping key from.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn wrap(self, key_id: &str, wrapping_key: &[u8]) -> Result<Envelope, KeyError> {
        let wrapped = self.key.wrap(wrapping_key, self.iv)?;
        Ok(Envelope { key_id: key_id.to_owned(), wrapped, iv: self.iv, hmac: self.key.hmac })
    }
}
