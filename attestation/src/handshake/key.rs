//! The key that a guest wants its secrets sealed for: a JSON Web Key (RFC 7517) of one of three kinds.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::Deserialize;
use serde_json::Value;

use super::strict::{JsonError, typed};
use crate::x509::rsa::RsaKey;

/// `alg` of keys on a curve.
pub(super) const ECDH: &str = "ECDH-ES+A256KW";
/// `alg` of RSA keys.
pub(super) const OAEP: &str = "RSA-OAEP-256";

const P256_BYTES: usize = 32;
const P521_BYTES: usize = 66;

/// A public key: EC P-256 or P-521 with `ECDH-ES+A256KW`, or RSA of 2048 to 4096 bits with `RSA-OAEP-256`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeeKey(pub(super) Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    P256(p256::PublicKey),
    P521(Box<p521::PublicKey>),
    Rsa(Box<RsaKey>),
}

/// Why a key is refused.
#[derive(Debug, thiserror::Error)]
pub enum TeeKeyError {
    /// Not a JSON Web Key of a kind that is understood, or with members that do not belong there.
    #[error("this is no key of kind EC (ECDH-ES+A256KW on P-256 or P-521) or RSA (RSA-OAEP-256)")]
    Form(#[from] JsonError),
    /// A way to agree on a key that is not spoken here.
    #[error("keys for {found:?} cannot be used: ECDH-ES+A256KW and RSA-OAEP-256 can")]
    Algorithm {
        /// What the key is for, cut to 32 characters.
        found: String,
    },
    /// A curve that is not spoken here.
    #[error("keys on {found:?} cannot be used: P-256 and P-521 can")]
    Curve {
        /// The curve, cut to 32 characters.
        found: String,
    },
    /// A number that is not encoded as it should be.
    #[error("{member} is not base64 for URLs without padding, of the length that the key asks for")]
    Number {
        /// Its name.
        member: &'static str,
    },
    /// Not a point on the curve.
    #[error("the coordinates are no point on {curve}")]
    Point {
        /// The curve.
        curve: &'static str,
    },
    /// An RSA key outside what is allowed.
    #[error("the RSA key cannot be used: 2048 to 4096 bits and an odd exponent from 3 to 2^32 can")]
    Rsa,
}

#[derive(Deserialize)]
#[serde(tag = "kty", deny_unknown_fields)]
enum Wire {
    #[serde(rename = "EC")]
    Ec { crv: String, alg: String, x: String, y: String },
    #[serde(rename = "RSA")]
    Rsa { alg: String, n: String, e: String },
}

impl TeeKey {
    /// Reads a key as it was sent. Unknown members are refused: one might be a private key.
    ///
    /// # Errors
    /// [`TeeKeyError`]
    pub fn parse(sent: &Value) -> Result<Self, TeeKeyError> {
        match typed(sent.clone())? {
            Wire::Ec { crv, alg, x, y } => {
                expect_algorithm(&alg, ECDH)?;
                match crv.as_str() {
                    "P-256" => {
                        let key = p256::PublicKey::from_sec1_bytes(&point(&x, &y, P256_BYTES)?);
                        Ok(Self(Kind::P256(key.map_err(|_| TeeKeyError::Point { curve: "P-256" })?)))
                    }
                    "P-521" => {
                        let key = p521::PublicKey::from_sec1_bytes(&point(&x, &y, P521_BYTES)?);
                        let key = key.map_err(|_| TeeKeyError::Point { curve: "P-521" })?;
                        Ok(Self(Kind::P521(Box::new(key))))
                    }
                    other => Err(TeeKeyError::Curve { found: cut(other) }),
                }
            }
            Wire::Rsa { alg, n, e } => {
                expect_algorithm(&alg, OAEP)?;
                let key = RsaKey::new(&number("n", &n)?, &number("e", &e)?);
                Ok(Self(Kind::Rsa(Box::new(key.ok_or(TeeKeyError::Rsa)?))))
            }
        }
    }

    /// What kind of key it is: `P-256`, `P-521` or `RSA`.
    pub fn describe(&self) -> &'static str {
        match self.0 {
            Kind::P256(_) => "P-256",
            Kind::P521(_) => "P-521",
            Kind::Rsa(_) => "RSA",
        }
    }
}

/// A key on P-256 that verifies signatures: a JSON Web Key of which only the point is looked at.
pub(super) fn verifying_key(jwk: &[u8]) -> Option<p256::ecdsa::VerifyingKey> {
    #[derive(Deserialize)]
    struct Point {
        kty: String,
        crv: String,
        x: String,
        y: String,
    }
    let Point { kty, crv, x, y } = serde_json::from_slice(jwk).ok()?;
    let point = point(&x, &y, P256_BYTES).ok().filter(|_| kty == "EC" && crv == "P-256")?;
    p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).ok()
}

fn cut(text: &str) -> String {
    text.chars().take(32).collect()
}

fn expect_algorithm(found: &str, expected: &str) -> Result<(), TeeKeyError> {
    if found == expected { Ok(()) } else { Err(TeeKeyError::Algorithm { found: cut(found) }) }
}

fn number(member: &'static str, text: &str) -> Result<Vec<u8>, TeeKeyError> {
    Base64UrlUnpadded::decode_vec(text).map_err(|_| TeeKeyError::Number { member })
}

/// An uncompressed point in SEC 1 form. Coordinates have all of the field's bytes (RFC 7518, section 6.2.1.2).
fn point(x: &str, y: &str, length: usize) -> Result<Vec<u8>, TeeKeyError> {
    let coordinate = |member, text| {
        let bytes = number(member, text)?;
        if bytes.len() == length { Ok(bytes) } else { Err(TeeKeyError::Number { member }) }
    };
    Ok([vec![4], coordinate("x", x)?, coordinate("y", y)?].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn valid() -> Value {
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
            "x": "hKNU0_R2SgvuHV3Q1wf_CjNhnMRguW9k_b_EkxXTu0s", "y": "ENjUdSdQ4ZhrfWx6wjquwO79VoeLeQkO8EIB0rhaly4",
        })
    }

    fn with(member: &str, value: &str) -> Result<TeeKey, TeeKeyError> {
        let mut key = valid();
        key[member] = value.into();
        TeeKey::parse(&key)
    }

    #[test]
    fn a_key_of_the_recorded_client_is_read() {
        assert_eq!(TeeKey::parse(&valid()).expect("a key").describe(), "P-256");
    }

    #[test]
    fn a_point_that_is_not_on_the_curve_is_refused() {
        let other = "hKNU0_R2SgvuHV3Q1wf_CjNhnMRguW9k_b_EkxXTu0s";
        assert!(matches!(with("y", other), Err(TeeKeyError::Point { curve: "P-256" })));
    }

    #[test]
    fn a_coordinate_of_another_length_is_refused() {
        assert!(matches!(with("x", "AAAA"), Err(TeeKeyError::Number { member: "x" })));
    }

    #[test]
    fn a_private_key_is_refused() {
        assert!(matches!(with("d", "AAAA"), Err(TeeKeyError::Form(_))));
    }

    #[test]
    fn rsa_with_the_old_padding_is_refused() {
        let old = json!({"kty": "RSA", "alg": "RSA1_5", "n": "AQAB", "e": "AQAB"});
        assert!(matches!(TeeKey::parse(&old), Err(TeeKeyError::Algorithm { found }) if found == "RSA1_5"));
    }

    #[test]
    fn a_short_rsa_key_is_refused() {
        let short = json!({"kty": "RSA", "alg": "RSA-OAEP-256", "n": "AQAB", "e": "AQAB"});
        assert!(matches!(TeeKey::parse(&short), Err(TeeKeyError::Rsa)));
    }

    #[test]
    fn another_curve_is_refused() {
        assert!(matches!(with("crv", "P-384"), Err(TeeKeyError::Curve { found }) if found == "P-384"));
    }
}
