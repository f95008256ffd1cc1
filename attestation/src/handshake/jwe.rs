//! Sealing for a guest's key: JSON Web Encryption in its flattened form (RFC 7516), A256GCM inside.
//!
//! ```text
//! content key (32 random bytes) ── wrapped for ── EC:  AES-KW with Concat-KDF(ephemeral key × guest's key)
//!                                                 RSA: OAEP with SHA-256
//! ciphertext = A256GCM(content key, iv, secret; AAD = the `protected` text)
//! ```
//! Confidential Containers' client writes `protected` anew to compute the AAD, so its members come in exactly the order
//! alg, enc, epk {crv, kty, x, y}, without spaces.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, Key, KeyInit, Nonce};
use aes_kw::KwAes256;
use base64ct::{Base64UrlUnpadded, Encoding};
use p521::elliptic_curve::Generate;
use p521::elliptic_curve::sec1::ToSec1Point;
use rand_core::TryCryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::key::{ECDH, Kind, OAEP, TeeKey};
use crate::curves::{self, Agreed};

/// The one content encryption.
pub(super) const CONTENT: &str = "A256GCM";

const TAG_BYTES: usize = 16;

/// A sealed secret, as it travels: every member in base64 for URLs without padding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// The header; its text is what is authenticated.
    pub protected: String,
    /// The content key, wrapped.
    pub encrypted_key: String,
    /// 12 bytes.
    pub iv: String,
    /// As long as the secret.
    pub ciphertext: String,
    /// 16 bytes.
    pub tag: String,
}

/// Why nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The source of randomness.
    #[error("there is no randomness to make a key of")]
    Randomness,
    /// The ciphers refused, which they do for secrets of many gigabytes only.
    #[error("the secret could not be encrypted")]
    Cipher,
}

/// The header, in the order in which it is written.
#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) enc: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) epk: Option<Ephemeral>,
}

/// The sender's key of one message.
#[derive(Serialize, Deserialize)]
pub(super) struct Ephemeral {
    pub(super) crv: String,
    pub(super) kty: String,
    pub(super) x: String,
    pub(super) y: String,
}

impl Sealed {
    /// Seals `secret` so that only the holder of `key` opens it.
    ///
    /// # Errors
    /// [`SealError`]
    pub fn seal<R: TryCryptoRng>(key: &TeeKey, secret: &[u8], random: &mut R) -> Result<Self, SealError> {
        let mut content_key = Zeroizing::new([0; 32]);
        let mut iv = [0; 12];
        random.try_fill_bytes(content_key.as_mut()).map_err(|_| SealError::Randomness)?;
        random.try_fill_bytes(&mut iv).map_err(|_| SealError::Randomness)?;
        let (header, encrypted_key) = wrap(key, &content_key, random)?;
        let header = serde_json::to_string(&header).map_err(|_| SealError::Cipher)?;
        let protected = Base64UrlUnpadded::encode_string(header.as_bytes());
        let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(*content_key));
        let payload = Payload { msg: secret, aad: protected.as_bytes() };
        let both = cipher.encrypt(&Nonce::from(iv), payload).map_err(|_| SealError::Cipher)?;
        let (ciphertext, tag) =
            both.split_at_checked(both.len().saturating_sub(TAG_BYTES)).ok_or(SealError::Cipher)?;
        Ok(Self {
            encrypted_key: Base64UrlUnpadded::encode_string(&encrypted_key),
            iv: Base64UrlUnpadded::encode_string(&iv),
            ciphertext: Base64UrlUnpadded::encode_string(ciphertext),
            tag: Base64UrlUnpadded::encode_string(tag),
            protected,
        })
    }
}

/// Wraps a content key. Answers the header that says how.
fn wrap<R: TryCryptoRng>(
    key: &TeeKey,
    content_key: &[u8; 32],
    random: &mut R,
) -> Result<(Header, Vec<u8>), SealError> {
    match &key.0 {
        Kind::P256(guest) => {
            let Agreed { point, shared } = curves::agree_p256(guest, random).ok_or(SealError::Randomness)?;
            agreed("P-256", &point, shared.as_slice(), content_key)
        }
        Kind::P521(guest) => {
            let own = p521::SecretKey::try_generate_from_rng(random).map_err(|_| SealError::Randomness)?;
            let point = own.public_key().to_sec1_point(false);
            let shared = own.diffie_hellman(guest);
            agreed("P-521", point.as_bytes(), shared.raw_secret_bytes(), content_key)
        }
        Kind::Rsa(guest) => {
            let mut seed = Zeroizing::new([0; 32]);
            random.try_fill_bytes(seed.as_mut()).map_err(|_| SealError::Randomness)?;
            let header = Header { alg: OAEP.to_owned(), enc: CONTENT.to_owned(), epk: None };
            Ok((header, guest.encrypt_oaep_sha256(content_key, &seed).ok_or(SealError::Cipher)?))
        }
    }
}

/// Wraps with what two keys agreed on.
fn agreed(
    curve: &str,
    point: &[u8],
    shared: &[u8],
    content_key: &[u8; 32],
) -> Result<(Header, Vec<u8>), SealError> {
    // An uncompressed point: the byte 4, then both coordinates.
    let (_, coordinates) = point.split_first().ok_or(SealError::Cipher)?;
    let (x, y) = coordinates.split_at_checked(coordinates.len() / 2).ok_or(SealError::Cipher)?;
    let epk = Ephemeral {
        crv: curve.to_owned(),
        kty: "EC".to_owned(),
        x: Base64UrlUnpadded::encode_string(x),
        y: Base64UrlUnpadded::encode_string(y),
    };
    let wrapping = derive(shared, ECDH, ["", ""], 256);
    let mut wrapped = vec![0; content_key.len() + 8];
    let cipher = KwAes256::new(&(*wrapping).into());
    cipher.wrap_key(content_key, &mut wrapped).map_err(|_| SealError::Cipher)?;
    Ok((Header { alg: ECDH.to_owned(), enc: CONTENT.to_owned(), epk: Some(epk) }, wrapped))
}

/// Concat KDF with SHA-256 for at most 256 bits (RFC 7518, section 4.6.2; NIST SP 800-56A, section 5.8.1): one round.
pub(super) fn derive(shared: &[u8], algorithm: &str, parties: [&str; 2], bits: u32) -> Zeroizing<[u8; 32]> {
    let mut hash = Sha256::new();
    hash.update(1_u32.to_be_bytes());
    hash.update(shared);
    let [from, to] = parties;
    for text in [algorithm, from, to] {
        // Names are a few bytes long.
        hash.update(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hash.update(bits.to_be_bytes());
    Zeroizing::new(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_agreed_on_as_appendix_c_of_rfc_7518_shows() {
        let alice =
            Base64UrlUnpadded::decode_vec("0_NxaRPUMQoAJt50Gz8YiTr8gRTwyEaCumd-MToTmIo").expect("base64");
        let alice = p256::SecretKey::from_slice(&alice).expect("a key");
        let bob = serde_json::json!({
            "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
            "x": "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ", "y": "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck",
        });
        let Ok(TeeKey(Kind::P256(bob))) = TeeKey::parse(&bob) else { panic!("a key") };
        let shared = alice.diffie_hellman(&bob);
        let derived = derive(shared.raw_secret_bytes(), "A128GCM", ["Alice", "Bob"], 128);
        assert_eq!(Base64UrlUnpadded::encode_string(&derived[..16]), "VqqN6vgjbSBcIijNcacQGg");
    }

    #[test]
    fn a_key_of_256_bits_is_wrapped_as_section_4_6_of_rfc_3394_shows() {
        let key =
            hex::decode("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F").expect("hex");
        let with: [u8; 32] = std::array::from_fn(|index| index as u8);
        let mut wrapped = [0; 40];
        KwAes256::new(&with.into()).wrap_key(&key, &mut wrapped).expect("wrapped");
        let expected = "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21";
        assert_eq!(hex::encode(wrapped), expected);
    }
}
