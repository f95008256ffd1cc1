//! Tokens of an identity provider (OpenID Connect): a JWT, signed with ES256 or RS256 and nothing else.
//!
//! ```text
//! token ── size ── header ── key by its id, of the algorithm's kind ── signature ── issuer, audience, time ── Who
//! ```
//! Claims are read only after the signature held. There is no way to have one accepted without a signature.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64ct::{Base64UrlUnpadded, Encoding};
use coffer_attestation::handshake::{Limits, read_json};
use coffer_attestation::time::UnixTime;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::sync::Notify;

use super::who::Who;

/// The longest token, in bytes.
const MAX_TOKEN: usize = 16 << 10;
/// Keys of a provider, and the longest set of them in bytes.
const MAX_KEYS: usize = 64;
/// The longest key set, in bytes.
pub const MAX_KEY_SET: usize = 256 << 10;
/// How far apart the clocks may be, in seconds.
const SKEW: u64 = 60;
/// Groups in a token, and the longest subject.
const MAX_GROUPS: usize = 256;
const MAX_SUBJECT: usize = 120;

/// Checks tokens of one provider.
#[derive(Debug)]
pub struct Oidc {
    issuer: String,
    audience: String,
    /// Which claim lists groups.
    claim: String,
    keys: RwLock<Keys>,
    /// How old they may be, in seconds.
    most_age: u64,
    /// Told when a token names a key that is not there.
    unknown: Notify,
}

#[derive(Debug)]
struct Keys {
    all: Vec<Key>,
    /// When the provider last said that these are its keys.
    read: UnixTime,
}

#[derive(Debug, Clone)]
struct Key {
    id: Option<String>,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    /// An uncompressed point of P-256.
    Es256(Vec<u8>),
    /// Modulus and exponent.
    Rs256(Vec<u8>, Vec<u8>),
}

/// Why a token is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OidcError {
    /// Not a signed JWT.
    #[error("the token is no signed JWT")]
    Form,
    /// Another algorithm.
    #[error("the token is signed with {found:?}: ES256 and RS256 are taken")]
    Algorithm {
        /// What it says, cut.
        found: String,
    },
    /// No such key.
    #[error("the provider has no key {id:?} for this algorithm")]
    Key {
        /// Its id, cut.
        id: Option<String>,
    },
    /// The provider has not said for too long which keys it has: one of these may have been taken back.
    #[error("the provider's keys were last read at {read}, which is too long ago")]
    OldKeys {
        /// When.
        read: UnixTime,
    },
    /// The signature.
    #[error("the token's signature does not hold")]
    Signature,
    /// Of another provider.
    #[error("the token is not of {expected:?}")]
    Issuer {
        /// Who is taken.
        expected: String,
    },
    /// For somebody else.
    #[error("the token is not for {expected:?}")]
    Audience {
        /// For whom it must be.
        expected: String,
    },
    /// Over, or not begun.
    #[error("the token is not good at {at}")]
    Time {
        /// Now.
        at: UnixTime,
    },
    /// Of nobody.
    #[error("the token names nobody")]
    Subject,
    /// Not a key set.
    #[error("this is no set of keys with one for ES256 or RS256 in it")]
    KeySet,
}

/// How large a token's header or claims may be; with groups in it, it may have some thousands of bytes.
const PART: Limits = Limits { bytes: 64 << 10, depth: 16 };

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood: none is.
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Value,
    exp: u64,
    nbf: Option<u64>,
    iat: Option<u64>,
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Jwk>,
}

/// Parameters that are not there are empty.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Jwk {
    kty: String,
    crv: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    x: String,
    y: String,
    n: String,
    e: String,
}

impl Oidc {
    /// Without keys nothing is accepted yet, and nothing any more when they have not been read for `most_age`.
    pub fn new(issuer: &str, audience: &str, claim: &str, most_age: Duration) -> Self {
        let [issuer, audience, claim] = [issuer, audience, claim].map(str::to_owned);
        let most_age = most_age.as_secs();
        let keys = RwLock::new(Keys { all: Vec::new(), read: UnixTime(0) });
        Self { issuer, audience, claim, keys, most_age, unknown: Notify::new() }
    }

    /// Ends when a token has named a key that is not there: the provider may have a new one.
    pub async fn unknown_key(&self) {
        self.unknown.notified().await;
    }

    /// Replaces the provider's keys by those of a JSON Web Key Set, which was read at the time `now`; on an error they stay.
    ///
    /// # Errors
    /// [`OidcError::KeySet`]
    pub fn set_keys(&self, json: &[u8], now: UnixTime) -> Result<(), OidcError> {
        let set: KeySet = match json.len() {
            0..=MAX_KEY_SET => serde_json::from_slice(json).map_err(|_| OidcError::KeySet)?,
            _ => return Err(OidcError::KeySet),
        };
        let keys: Vec<Key> = set.keys.iter().take(MAX_KEYS).filter_map(Jwk::read).collect();
        if keys.is_empty() {
            return Err(OidcError::KeySet);
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Keys { all: keys, read: now };
        Ok(())
    }

    /// Checks a token as of `now`.
    ///
    /// # Errors
    /// [`OidcError`]
    pub fn check(&self, token: &str, now: UnixTime) -> Result<Who, OidcError> {
        if token.len() > MAX_TOKEN {
            return Err(OidcError::Form);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(OidcError::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(OidcError::Form)?;
        let header: Header = read_json(&decoded(header)?, PART).map_err(|_| OidcError::Form)?;
        if header.crit.is_some() {
            return Err(OidcError::Form);
        }
        self.verify(&header, signed.as_bytes(), &decoded(signature)?, now)?;
        let claims: Claims = read_json(&decoded(claims)?, PART).map_err(|_| OidcError::Form)?;
        self.accept(&claims, now)
    }

    fn verify(
        &self,
        header: &Header,
        signed: &[u8],
        signature: &[u8],
        now: UnixTime,
    ) -> Result<(), OidcError> {
        let cut = |text: &str| text.chars().take(64).collect::<String>();
        let fits: fn(&Material) -> bool = match header.alg.as_str() {
            "ES256" => |material: &Material| matches!(material, Material::Es256(_)),
            "RS256" => |material: &Material| matches!(material, Material::Rs256(..)),
            other => return Err(OidcError::Algorithm { found: cut(other) }),
        };
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        if now.0 > keys.read.0.saturating_add(self.most_age) {
            return Err(OidcError::OldKeys { read: keys.read });
        }
        // A token without a key's id may be of any of them.
        let named = |key: &&Key| header.kid.is_none() || key.id == header.kid;
        let mut candidates = keys.all.iter().filter(named).filter(|key| fits(&key.material)).peekable();
        if candidates.peek().is_none() {
            self.unknown.notify_one();
            return Err(OidcError::Key { id: header.kid.as_deref().map(cut) });
        }
        let holds = candidates.any(|key| key.material.verifies(signed, signature));
        if holds { Ok(()) } else { Err(OidcError::Signature) }
    }

    fn accept(&self, claims: &Claims, now: UnixTime) -> Result<Who, OidcError> {
        if claims.iss != self.issuer {
            return Err(OidcError::Issuer { expected: self.issuer.clone() });
        }
        if !texts(&claims.aud).any(|audience| audience == self.audience) {
            return Err(OidcError::Audience { expected: self.audience.clone() });
        }
        let begins = claims.nbf.max(claims.iat).unwrap_or(0);
        if now.0 >= claims.exp.saturating_add(SKEW) || now.0.saturating_add(SKEW) < begins {
            return Err(OidcError::Time { at: now });
        }
        if claims.sub.is_empty() || claims.sub.len() > MAX_SUBJECT {
            return Err(OidcError::Subject);
        }
        let groups = claims.others.get(&self.claim).into_iter().flat_map(texts);
        let groups = groups.take(MAX_GROUPS).map(str::to_owned).collect();
        Ok(Who::Token { name: format!("oidc:{}", claims.sub), groups })
    }
}

impl Material {
    fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        match self {
            Material::Es256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature).is_ok()
            }
            Material::Rs256(n, e) => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature).is_ok()
            }
        }
    }
}

impl Jwk {
    /// `None`: a key for something else, which sets may hold too.
    fn read(&self) -> Option<Key> {
        if self.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let bytes = |text: &str| decoded(text).ok().filter(|bytes| !bytes.is_empty());
        let material = match (self.kty.as_str(), self.crv.as_str()) {
            ("EC", "P-256") => Material::Es256([vec![4], bytes(&self.x)?, bytes(&self.y)?].concat()),
            ("RSA", _) => Material::Rs256(bytes(&self.n)?, bytes(&self.e)?),
            _ => return None,
        };
        Some(Key { id: self.kid.clone(), material })
    }
}

/// A text, or each text of a list.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    value.as_str().into_iter().chain(list.iter().filter_map(Value::as_str))
}

fn decoded(text: &str) -> Result<Vec<u8>, OidcError> {
    Base64UrlUnpadded::decode_vec(text).map_err(|_| OidcError::Form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaEncoding,
    };
    use serde_json::json;
    use std::sync::LazyLock;

    const NOW: UnixTime = UnixTime(1_795_262_400);
    const DAY: Duration = Duration::from_secs(86_400);

    static EC: LazyLock<EcdsaKeyPair> =
        LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"));
    static RSA: LazyLock<RsaKeyPair> =
        LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"));

    fn text(bytes: &[u8]) -> String {
        Base64UrlUnpadded::encode_string(bytes)
    }

    fn keys() -> Value {
        let point = EC.public_key().as_ref();
        // RSAPublicKey in DER: two headers and a zero before the modulus, and the exponent at the end.
        let public = RSA.public_key().as_ref();
        let (modulus, exponent) = (&public[9..265], &public[public.len() - 3..]);
        json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig",
              "x": text(&point[1..33]), "y": text(&point[33..]) },
            { "kty": "RSA", "kid": "rsa", "n": text(modulus), "e": text(exponent) },
            { "kty": "oct", "kid": "other" },
        ] })
    }

    fn oidc() -> Oidc {
        let oidc = Oidc::new("https://idp.example", "coffer", "roles", DAY);
        oidc.set_keys(keys().to_string().as_bytes(), NOW).expect("keys");
        oidc
    }

    fn claims() -> Value {
        json!({ "iss": "https://idp.example", "aud": ["other", "coffer"], "sub": "alice", "iat": NOW.0,
                "exp": NOW.0 + 300, "roles": ["admins", "staff"] })
    }

    fn signed_part(alg: &str, kid: &str, claims: &Value) -> String {
        let header = json!({ "alg": alg, "kid": kid, "typ": "JWT" });
        format!("{}.{}", text(header.to_string().as_bytes()), text(claims.to_string().as_bytes()))
    }

    fn es256(kid: &str, claims: &Value) -> String {
        let part = signed_part("ES256", kid, claims);
        let signature = EC.sign(&SystemRandom::new(), part.as_bytes()).expect("a signature");
        format!("{part}.{}", text(signature.as_ref()))
    }

    fn rs256(alg: &str, claims: &Value) -> String {
        let part = signed_part(alg, "rsa", claims);
        let mut signature = vec![0; RSA.public_modulus_len()];
        let padding: &'static dyn RsaEncoding = &RSA_PKCS1_SHA256;
        RSA.sign(padding, &SystemRandom::new(), part.as_bytes(), &mut signature).expect("a signature");
        format!("{part}.{}", text(&signature))
    }

    fn changed(name: &str, value: Value) -> Value {
        let mut all = claims();
        all[name] = value;
        all
    }

    #[test]
    fn tokens_of_both_algorithms_say_who_somebody_is() {
        let groups = vec!["admins".to_owned(), "staff".to_owned()];
        let expected = Ok(Who::Token { name: "oidc:alice".to_owned(), groups });
        assert_eq!(oidc().check(&es256("ec", &claims()), NOW), expected);
        assert_eq!(oidc().check(&rs256("RS256", &claims()), NOW), expected);
    }

    #[test]
    fn a_token_is_good_for_its_time_and_a_minute_of_skew() {
        let token = es256("ec", &claims());
        let at = |seconds: u64| oidc().check(&token, UnixTime(seconds)).is_ok();
        assert!(at(NOW.0 - 60) && at(NOW.0 + 359));
        assert!(!at(NOW.0 - 61) && !at(NOW.0 + 360));
    }

    #[test]
    fn other_issuers_audiences_and_subjects_are_refused() {
        let refused = |name, value| oidc().check(&es256("ec", &changed(name, value)), NOW).expect_err(name);
        assert!(matches!(refused("iss", json!("https://idp.example/")), OidcError::Issuer { .. }));
        assert!(matches!(refused("aud", json!("other")), OidcError::Audience { .. }));
        assert!(matches!(refused("aud", json!(["cof", "fer"])), OidcError::Audience { .. }));
        assert_eq!(refused("sub", json!("")), OidcError::Subject);
        assert_eq!(refused("exp", json!("never")), OidcError::Form);
        assert_eq!(refused("exp", Value::Null), OidcError::Form);
    }

    #[test]
    fn other_algorithms_and_keys_are_refused() {
        let unsigned = format!("{}.", signed_part("none", "ec", &claims()));
        let found = oidc().check(&unsigned, NOW).expect_err("none");
        assert_eq!(found, OidcError::Algorithm { found: "none".to_owned() });
        // A key of one kind does not verify what names the other.
        let mixed = es256("rsa", &claims());
        assert!(matches!(oidc().check(&mixed, NOW), Err(OidcError::Key { .. })));
        let hmac = rs256("HS256", &claims());
        assert!(matches!(oidc().check(&hmac, NOW), Err(OidcError::Algorithm { .. })));
        assert!(matches!(oidc().check(&es256("else", &claims()), NOW), Err(OidcError::Key { .. })));
    }

    #[test]
    fn a_token_with_any_changed_byte_is_refused() {
        let (oidc, token) = (oidc(), es256("ec", &claims()));
        let accepted = (0..token.len()).filter(|place| {
            let mut bytes = token.clone().into_bytes();
            bytes[*place] = if bytes[*place] == b'A' { b'B' } else { b'A' };
            String::from_utf8(bytes).is_ok_and(|text| oidc.check(&text, NOW).is_ok())
        });
        // The last letter has bits that stand for nothing, and they must be zero.
        assert_eq!(accepted.count(), 0);
    }

    #[test]
    fn a_set_without_a_usable_key_leaves_the_old_ones() {
        let oidc = oidc();
        for set in ["{}", "{\"keys\":[]}", "{\"keys\":[{\"kty\":\"oct\"}]}", "["] {
            assert_eq!(oidc.set_keys(set.as_bytes(), NOW), Err(OidcError::KeySet));
        }
        assert!(oidc.check(&es256("ec", &claims()), NOW).is_ok());
    }

    #[test]
    fn keys_are_believed_for_as_long_as_the_provider_was_heard_of_and_a_day() {
        let oidc = oidc();
        let good = |seconds: u64| {
            let claims = changed("exp", json!(NOW.0 + 200_000));
            oidc.check(&es256("ec", &claims), UnixTime(NOW.0 + seconds)).map(|_| ())
        };
        assert_eq!(good(86_400), Ok(()));
        assert_eq!(good(86_401), Err(OidcError::OldKeys { read: NOW }));
        // A set that cannot be used is no word of the provider.
        assert_eq!(oidc.set_keys(b"{}", UnixTime(NOW.0 + 86_400)), Err(OidcError::KeySet));
        assert_eq!(good(86_401), Err(OidcError::OldKeys { read: NOW }));
        oidc.set_keys(keys().to_string().as_bytes(), UnixTime(NOW.0 + 86_400)).expect("keys");
        assert_eq!(good(86_401), Ok(()));
    }

    #[tokio::test]
    async fn a_token_that_names_an_unknown_key_has_them_read_again_and_no_other_token_has() {
        let oidc = oidc();
        let asked = || {
            let waiting = std::pin::pin!(oidc.unknown_key());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            waiting.poll(&mut context).is_ready()
        };
        let _ = (oidc.check(&es256("ec", &claims()), NOW), oidc.check("a.b.c", NOW));
        let other = es256("ec", &claims()).replace('.', ".e");
        let _ = oidc.check(&other, NOW);
        assert!(!asked());
        assert!(oidc.check(&es256("else", &claims()), NOW).is_err());
        assert!(asked() && !asked());
    }

    #[test]
    fn a_new_set_replaces_the_old_keys() {
        let oidc = oidc();
        let mut set = keys();
        set["keys"].as_array_mut().expect("a list").remove(0);
        oidc.set_keys(set.to_string().as_bytes(), NOW).expect("keys");
        assert!(matches!(oidc.check(&es256("ec", &claims()), NOW), Err(OidcError::Key { .. })));
    }
}
