//! The guest's side: its key, and opening what was sealed for it.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, Key, KeyInit, Nonce};
use aes_kw::KwAes256;
use base64ct::{Base64UrlUnpadded, Encoding};
use p256::elliptic_curve::Generate;
use p256::elliptic_curve::sec1::ToSec1Point;
use rand_core::TryCryptoRng;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::jwe::{CONTENT, Header, Sealed, derive};
use super::key::{ECDH, Kind, TeeKey};

/// A guest's key pair on P-256. It is wiped when it is dropped.
pub struct GuestKey(p256::SecretKey);

/// Why something sealed was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not base64, or not of the length that it must have.
    #[error("{member} of the sealed secret is not well formed")]
    Form {
        /// The member.
        member: &'static str,
    },
    /// Sealed in another way than this key opens.
    #[error("the secret is sealed with {found}, this key opens ECDH-ES+A256KW with A256GCM on P-256")]
    Algorithm {
        /// How it is sealed, cut to 64 characters.
        found: String,
    },
    /// For another key, or changed on the way.
    #[error("the secret is sealed for another key, or was changed")]
    Mismatch,
}

impl GuestKey {
    /// Makes a key.
    ///
    /// # Errors
    /// When `random` has none.
    pub fn generate<R: TryCryptoRng>(random: &mut R) -> Result<Self, R::Error> {
        p256::SecretKey::try_generate_from_rng(random).map(Self)
    }

    /// The public half as the protocol sends it.
    pub fn public(&self) -> Value {
        let point = self.0.public_key().to_sec1_point(false);
        let coordinate = |bytes: Option<&[u8]>| Base64UrlUnpadded::encode_string(bytes.unwrap_or_default());
        json!({
            "kty": "EC",
            "crv": "P-256",
            "alg": ECDH,
            "x": coordinate(point.x().map(|x| x.as_slice())),
            "y": coordinate(point.y().map(|y| y.as_slice())),
        })
    }

    /// Opens what was sealed for this key. The header's text as it was received is what is authenticated.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(&self, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let header = decoded("protected", &sealed.protected)?;
        let header: Header =
            serde_json::from_slice(&header).map_err(|_| OpenError::Form { member: "protected" })?;
        let epk = match header.epk {
            Some(epk) if header.alg == ECDH && header.enc == CONTENT => epk,
            _ => {
                let found = format!("{} and {}", header.alg, header.enc).chars().take(64).collect();
                return Err(OpenError::Algorithm { found });
            }
        };
        let epk = json!({ "kty": epk.kty, "crv": epk.crv, "alg": ECDH, "x": epk.x, "y": epk.y });
        let Ok(TeeKey(Kind::P256(sender))) = TeeKey::parse(&epk) else {
            return Err(OpenError::Form { member: "epk" });
        };
        let shared = self.0.diffie_hellman(&sender);
        let wrapping = derive(shared.raw_secret_bytes(), ECDH, ["", ""], 256);
        let wrapped: [u8; 40] = exactly("encrypted_key", &sealed.encrypted_key)?;
        let mut content_key = Zeroizing::new([0; 32]);
        let unwrapped = KwAes256::new(&(*wrapping).into()).unwrap_key(&wrapped, content_key.as_mut());
        unwrapped.map_err(|_| OpenError::Mismatch)?;
        let iv: [u8; 12] = exactly("iv", &sealed.iv)?;
        let tag: [u8; 16] = exactly("tag", &sealed.tag)?;
        let mut both = decoded("ciphertext", &sealed.ciphertext)?;
        both.extend(tag);
        let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(*content_key));
        let payload = Payload { msg: &both, aad: sealed.protected.as_bytes() };
        cipher.decrypt(&Nonce::from(iv), payload).map(Zeroizing::new).map_err(|_| OpenError::Mismatch)
    }
}

fn decoded(member: &'static str, text: &str) -> Result<Vec<u8>, OpenError> {
    Base64UrlUnpadded::decode_vec(text).map_err(|_| OpenError::Form { member })
}

fn exactly<const N: usize>(member: &'static str, text: &str) -> Result<[u8; N], OpenError> {
    decoded(member, text)?.try_into().map_err(|_| OpenError::Form { member })
}

#[cfg(test)]
mod tests {
    use super::*;
    use getrandom::SysRng;

    fn pair() -> (GuestKey, Sealed) {
        let key = GuestKey::generate(&mut SysRng).expect("randomness");
        let public = TeeKey::parse(&key.public()).expect("a key");
        let sealed = Sealed::seal(&public, b"a secret", &mut SysRng).expect("sealed");
        (key, sealed)
    }

    #[test]
    fn what_was_sealed_is_opened() {
        let (key, sealed) = pair();
        assert_eq!(key.open(&sealed).expect("opened").as_slice(), b"a secret");
    }

    #[test]
    fn the_header_is_written_in_the_order_that_other_clients_write_it_again() {
        let (_, sealed) = pair();
        let header =
            String::from_utf8(decoded("protected", &sealed.protected).expect("base64")).expect("text");
        let shape: String = header.split('"').step_by(2).collect();
        assert_eq!(shape, "{:,:,:{:,:,:,:}}");
        let places = [
            "{\"alg\":\"ECDH-ES+A256KW\",\"enc\":\"A256GCM\",\"epk\":{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"",
            "\",\"y\":\"",
            "\"}}",
        ];
        assert!(
            header.starts_with(places[0]) && header.contains(places[1]) && header.ends_with(places[2]),
            "{header}"
        );
    }

    #[test]
    fn a_header_that_is_written_otherwise_does_not_open_although_it_means_the_same() {
        let (key, mut sealed) = pair();
        let header =
            String::from_utf8(decoded("protected", &sealed.protected).expect("base64")).expect("text");
        sealed.protected =
            Base64UrlUnpadded::encode_string(header.replace("\"enc\":", "\"enc\": ").as_bytes());
        assert_eq!(key.open(&sealed).map(|_| ()), Err(OpenError::Mismatch));
    }

    #[test]
    fn another_key_does_not_open_it() {
        let (_, sealed) = pair();
        let (other, _) = pair();
        assert_eq!(other.open(&sealed).map(|_| ()), Err(OpenError::Mismatch));
    }

    #[test]
    fn a_changed_ciphertext_or_tag_does_not_open() {
        let (key, sealed) = pair();
        let tag = Sealed { tag: Base64UrlUnpadded::encode_string(&[0; 16]), ..sealed.clone() };
        let ciphertext = Sealed { ciphertext: Base64UrlUnpadded::encode_string(&[0; 8]), ..sealed };
        assert_eq!(key.open(&tag).map(|_| ()), Err(OpenError::Mismatch));
        assert_eq!(key.open(&ciphertext).map(|_| ()), Err(OpenError::Mismatch));
    }

    #[test]
    fn a_tag_of_four_bytes_is_refused() {
        let (key, mut sealed) = pair();
        sealed.tag = "AAAAAA".to_owned();
        assert_eq!(key.open(&sealed).map(|_| ()), Err(OpenError::Form { member: "tag" }));
    }
}
