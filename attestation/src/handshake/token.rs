//! Tokens: JSON Web Tokens signed with ES256 (RFC 7515, RFC 7518 section 3.4), and nothing else.
//!
//! The header carries the key, as clients of Confidential Containers expect. A verifier of tokens never believes that copy:
//! it has keys of its own and looks for the one with the same point.

use base64ct::{Base64UrlUnpadded, Encoding};
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::claims::Ear;
use super::strict::{JsonError, Limits, read};
use crate::curves;
use crate::time::UnixTime;

/// The longest token that is read, in characters.
const MAX_TOKEN: usize = 64 << 10;

const HEADER_LIMITS: Limits = Limits { bytes: 8 << 10, depth: 4 };
const CLAIM_LIMITS: Limits = Limits { bytes: MAX_TOKEN, depth: 24 };

/// The key that signs tokens. It is wiped when it is dropped.
#[derive(Clone)]
pub struct TokenKey(SigningKey);

/// A key that tokens are verified with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicTokenKey(VerifyingKey);

/// Claims whose signature and dates hold. Only [`PublicTokenKey::verify`] makes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified(Ear);

/// Why a token is refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Longer than any that is given out.
    #[error("the token has {found} characters, at most {MAX_TOKEN} are read")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// Not three parts in base64.
    #[error("this is no token: it has not three parts in base64 for URLs")]
    Form,
    /// Header or claims.
    #[error("the token's header or claims cannot be read")]
    Json(#[from] JsonError),
    /// Another algorithm, among them none.
    #[error("the token names the algorithm {found:?}, only ES256 is taken")]
    Algorithm {
        /// What it names, cut to 32 characters.
        found: String,
    },
    /// A header member that would have to be understood.
    #[error("the token's header says that extensions are critical, and none is understood")]
    Critical,
    /// Not signed by this key.
    #[error("the token's signature does not match")]
    Signature,
    /// Too early or too late.
    #[error("the token is valid from {from} to {to}, it is {at}")]
    Expired {
        /// When it was made.
        from: UnixTime,
        /// From when on it is not valid.
        to: UnixTime,
        /// The time it was held against.
        at: UnixTime,
    },
}

#[derive(Serialize)]
struct Header {
    typ: &'static str,
    alg: &'static str,
    jwk: Value,
}

#[derive(Deserialize)]
struct ReadHeader {
    alg: String,
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

impl TokenKey {
    /// Takes a private scalar of 32 bytes, big endian; `None` if it is none.
    pub fn from_scalar(scalar: &[u8]) -> Option<Self> {
        SigningKey::from_slice(scalar).ok().map(Self)
    }

    /// The public half.
    pub fn public(&self) -> PublicTokenKey {
        PublicTokenKey(*self.0.verifying_key())
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Ear) -> String {
        let header = Header { typ: "JWT", alg: "ES256", jwk: self.public().jwk() };
        // Plain data: both have a JSON form.
        let part =
            |json: serde_json::Result<Vec<u8>>| Base64UrlUnpadded::encode_string(&json.unwrap_or_default());
        let signed = format!("{}.{}", part(serde_json::to_vec(&header)), part(serde_json::to_vec(claims)));
        let signature: Signature = self.0.sign(signed.as_bytes());
        format!("{signed}.{}", Base64UrlUnpadded::encode_string(&signature.to_bytes()))
    }
}

impl PublicTokenKey {
    /// As a JSON Web Key.
    pub fn jwk(&self) -> Value {
        let point = self.0.to_sec1_point(false);
        let coordinate = |bytes: Option<&[u8]>| Base64UrlUnpadded::encode_string(bytes.unwrap_or_default());
        json!({
            "kty": "EC",
            "crv": "P-256",
            "alg": "ES256",
            "x": coordinate(point.x().map(|x| x.as_slice())),
            "y": coordinate(point.y().map(|y| y.as_slice())),
        })
    }

    /// Verifies signature and dates as of `at`.
    ///
    /// # Errors
    /// [`TokenError`]
    pub fn verify(&self, token: &str, at: UnixTime) -> Result<Verified, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong { found: token.len() });
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Form)?;
        let decoded = |part: &str| Base64UrlUnpadded::decode_vec(part).map_err(|_| TokenError::Form);
        let header: ReadHeader = read(&decoded(header)?, HEADER_LIMITS)?;
        if header.alg != "ES256" {
            return Err(TokenError::Algorithm { found: header.alg.chars().take(32).collect() });
        }
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let signature = Signature::from_slice(&decoded(signature)?).map_err(|_| TokenError::Signature)?;
        if !curves::verifies_p256(&self.0, signed.as_bytes(), &signature) {
            return Err(TokenError::Signature);
        }
        let ear: Ear = read(&decoded(claims)?, CLAIM_LIMITS)?;
        if !(ear.iat..ear.exp).contains(&at.0) {
            return Err(TokenError::Expired { from: UnixTime(ear.iat), to: UnixTime(ear.exp), at });
        }
        Ok(Verified(ear))
    }
}

impl Verified {
    /// The claims.
    pub fn claims(&self) -> &Ear {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::{Submodule, TrustVector};
    use crate::verdict::Verdict;

    const MADE: u64 = 1_800_000_000;

    fn key(number: u8) -> TokenKey {
        TokenKey::from_scalar(&[number; 32]).expect("a scalar")
    }

    fn ear() -> Ear {
        let submodule = Submodule {
            status: Submodule::status_of(Verdict::Affirming).to_owned(),
            vector: TrustVector::new(Verdict::Affirming, Verdict::Affirming, Verdict::Affirming),
            policy: "default".to_owned(),
            evidence: json!({"snp": {"measurement": "00"}}),
        };
        Ear::of_processor(&submodule, "ab".to_owned(), MADE, 300)
    }

    fn refused(token: &str, at: u64) -> String {
        key(1).public().verify(token, UnixTime(at)).expect_err("refused").to_string()
    }

    #[test]
    fn a_token_says_what_was_signed() {
        let token = key(1).sign(&ear());
        let verified = key(1).public().verify(&token, UnixTime(MADE)).expect("a token");
        assert_eq!(verified.claims(), &ear());
        assert_eq!(verified.claims().processor().expect("cpu0").status, "affirming");
    }

    #[test]
    fn the_status_is_where_relying_parties_look_for_it() {
        let claims = serde_json::to_value(ear()).expect("JSON");
        let processor = &claims["submods"]["cpu0"];
        assert_eq!(processor["ear.status"], "affirming");
        assert_eq!(processor["ear.trustworthiness-vector"]["hardware"], 2);
        assert_eq!(processor["ear.trustworthiness-vector"]["runtime-opaque"], 0);
        assert_eq!(claims["eat_profile"], "tag:github.com,2024:confidential-containers/Trustee");
    }

    #[test]
    fn a_token_of_another_key_is_refused_although_it_brings_that_key() {
        assert_eq!(refused(&key(2).sign(&ear()), MADE), "the token's signature does not match");
    }

    #[test]
    fn a_token_ends_on_its_second() {
        let token = key(1).sign(&ear());
        assert!(key(1).public().verify(&token, UnixTime(MADE + 299)).is_ok());
        assert!(refused(&token, MADE + 300).contains("valid from"));
        assert!(refused(&token, MADE - 1).contains("valid from"));
    }

    #[test]
    fn a_token_without_a_signature_is_refused() {
        let claims = Base64UrlUnpadded::encode_string(&serde_json::to_vec(&ear()).expect("JSON"));
        let header = Base64UrlUnpadded::encode_string(br#"{"alg":"none"}"#);
        assert!(refused(&format!("{header}.{claims}."), MADE).contains("only ES256"));
    }

    #[test]
    fn claims_that_were_changed_are_refused() {
        let mut worse = ear();
        worse.iss = "somebody".to_owned();
        let (one, other) = (key(1).sign(&ear()), key(1).sign(&worse));
        let (_, signature) = one.rsplit_once('.').expect("parts");
        let (signed, _) = other.rsplit_once('.').expect("parts");
        assert!(refused(&format!("{signed}.{signature}"), MADE).contains("does not match"));
    }
}
