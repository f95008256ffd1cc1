//! Sealed secrets of Confidential Containers: strings that stand in a pod's environment for a secret of the verifier.
//!
//! ```text
//! sealed.<header>.<payload>.<signature>     each in base64 for URLs
//! payload {"version":"0.1.0","type":"vault","provider":"kbs","name":"kbs:///tenant/kind/tag", ..}
//! header  {"alg":"ES256","kid":"kbs:///tenant/kind/tag" of the public key, a JSON Web Key}
//! ```
//! A string names a secret and holds none: what it names is released or not, whoever wrote the name. The signature says that
//! the pod's author chose it. A string without one, as most are written, has words in place of header and signature.

use base64ct::{Base64UrlUnpadded, Encoding};
use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use serde::Deserialize;

use super::key::verifying_key;
use super::strict::{self, Limits};
use crate::base64;

/// How every one begins.
pub const SEALED_PREFIX: &str = "sealed.";

/// The longest string that is read, in bytes.
const MAX_BYTES: usize = 16 << 10;
const LIMITS: Limits = Limits { bytes: MAX_BYTES, depth: 6 };
const SCHEME: &str = "kbs:///";

/// Path of a secret at the verifier: `tenant/kind/tag`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(String);

/// A sealed secret whose form is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedString {
    resource: ResourceName,
    signed: Option<Signed>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Signed {
    key: ResourceName,
    text: String,
    signature: Vec<u8>,
}

/// Why a string is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealedSecretError {
    /// Not four parts with a payload in JSON.
    #[error("this is no sealed secret: {reason}")]
    Form {
        /// What is wrong.
        reason: &'static str,
    },
    /// A secret of a kind or of a place that is not spoken here.
    #[error(
        "sealed secrets of type {kind:?} from {provider:?} are not understood: \"vault\" from \"kbs\" is"
    )]
    Kind {
        /// Its type, cut to 32 characters.
        kind: String,
        /// Who keeps it, cut to 32 characters.
        provider: String,
    },
    /// Not a name of a secret.
    #[error("{found:?} names no secret: kbs:///tenant/kind/tag does")]
    Name {
        /// What was found, cut to 128 characters.
        found: String,
    },
    /// A signature of another kind.
    #[error("the sealed secret is signed with {found:?}, ES256 is understood")]
    Algorithm {
        /// What its header names, cut to 32 characters.
        found: String,
    },
    /// Signed by another key, or changed.
    #[error("the sealed secret's signature does not match the key {key}")]
    Signature {
        /// The key that its header names.
        key: String,
    },
}

#[derive(Deserialize)]
struct Payload {
    version: String,
    #[serde(rename = "type")]
    kind: String,
    provider: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

impl ResourceName {
    /// Reads `kbs:///tenant/kind/tag`. A host in it is not looked at, as a guest has one verifier.
    ///
    /// # Errors
    /// [`SealedSecretError::Name`]
    pub fn parse(uri: &str) -> Result<Self, SealedSecretError> {
        let refused = || SealedSecretError::Name { found: uri.chars().take(128).collect() };
        let path = uri.strip_prefix(SCHEME).ok_or_else(refused)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let sound = |part: &str| (1..=64).contains(&part.len()) && part.bytes().all(plain);
        let parts: Vec<&str> = path.split('/').collect();
        let whole = parts.len() == 3 && parts.iter().all(|part| sound(part) && !part.starts_with('.'));
        if whole { Ok(Self(path.to_owned())) } else { Err(refused()) }
    }

    /// Without the scheme: `tenant/kind/tag`.
    pub fn path(&self) -> &str {
        &self.0
    }
}

impl SealedString {
    /// Reads a string that begins with [`SEALED_PREFIX`].
    ///
    /// # Errors
    /// [`SealedSecretError`]
    pub fn parse(text: &str) -> Result<Self, SealedSecretError> {
        let form = |reason| SealedSecretError::Form { reason };
        let rest = text.strip_prefix(SEALED_PREFIX).ok_or(form("it does not begin with \"sealed.\""))?;
        if rest.len() > MAX_BYTES {
            return Err(form("it is longer than 16 KiB"));
        }
        let parts: Vec<&str> = rest.split('.').collect();
        let [header, payload, signature] = parts.as_slice() else {
            return Err(form("it has not four parts"));
        };
        let read = base64::url(payload).ok_or(form("its payload is not base64 for URLs"))?;
        let read = strict::read::<Payload>(&read, LIMITS);
        let read = read.map_err(|_| form("its payload is no JSON with version, type, provider and name"))?;
        if read.version != "0.1.0" {
            return Err(form("its version is not 0.1.0"));
        }
        let cut = |text: &str| text.chars().take(32).collect();
        if (read.kind.as_str(), read.provider.as_str()) != ("vault", "kbs") {
            return Err(SealedSecretError::Kind { kind: cut(&read.kind), provider: cut(&read.provider) });
        }
        let signed = match Self::header(header) {
            None => None,
            Some(found) if found.alg != "ES256" => {
                return Err(SealedSecretError::Algorithm { found: cut(&found.alg) });
            }
            Some(found) => Some(Signed {
                key: ResourceName::parse(&found.kid)?,
                text: format!("{header}.{payload}"),
                signature: Base64UrlUnpadded::decode_vec(signature)
                    .map_err(|_| form("its signature is not base64 for URLs"))?,
            }),
        };
        Ok(Self { resource: ResourceName::parse(&read.name)?, signed })
    }

    /// `None` for words in place of a header.
    fn header(text: &str) -> Option<Header> {
        let json = base64::url(text)?;
        strict::read(&json, LIMITS).ok()
    }

    /// The secret that it stands for.
    pub fn resource(&self) -> &ResourceName {
        &self.resource
    }

    /// The key that it is signed with, if it is signed.
    pub fn signed_with(&self) -> Option<&ResourceName> {
        self.signed.as_ref().map(|signed| &signed.key)
    }

    /// Checks its signature with `key`, the JSON Web Key that [`Self::signed_with`] names.
    ///
    /// # Errors
    /// [`SealedSecretError::Signature`], also for a string that is not signed.
    pub fn verify(&self, key: &[u8]) -> Result<(), SealedSecretError> {
        let Some(signed) = &self.signed else {
            return Err(SealedSecretError::Signature { key: "of nobody".to_owned() });
        };
        let refused = || SealedSecretError::Signature { key: signed.key.path().to_owned() };
        let key: VerifyingKey = verifying_key(key).ok_or_else(refused)?;
        let signature = Signature::from_slice(&signed.signature).map_err(|_| refused())?;
        key.verify(signed.text.as_bytes(), &signature).map_err(|_| refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::Signer;
    use serde_json::{Value, json};

    fn encoded(json: &Value) -> String {
        Base64UrlUnpadded::encode_string(json.to_string().as_bytes())
    }

    fn payload() -> Value {
        json!({
            "version": "0.1.0", "type": "vault", "provider": "kbs", "name": "kbs:///acme/key/1",
            "provider_settings": {}, "annotations": {},
        })
    }

    fn with(member: &str, value: &str) -> Result<SealedString, SealedSecretError> {
        let mut payload = payload();
        payload[member] = value.into();
        SealedString::parse(&format!("sealed.fakejwsheader.{}.fakesignature", encoded(&payload)))
    }

    /// A signed string, and its key.
    fn signed() -> (String, Vec<u8>) {
        let key = SigningKey::from_slice(&[5; 32]).expect("a key");
        let header = encoded(&json!({"alg": "ES256", "kid": "kbs:///acme/signers/1"}));
        let text = format!("{header}.{}", encoded(&payload()));
        let signature: Signature = key.sign(text.as_bytes());
        let signature = Base64UrlUnpadded::encode_string(&signature.to_bytes());
        let point = key.verifying_key().to_sec1_point(false);
        let coordinate = |from: usize| Base64UrlUnpadded::encode_string(&point.as_bytes()[from..from + 32]);
        let jwk =
            json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "x": coordinate(1), "y": coordinate(33)});
        (format!("sealed.{text}.{signature}"), jwk.to_string().into_bytes())
    }

    #[test]
    fn a_string_without_a_signature_names_its_secret() {
        let sealed = with("version", "0.1.0").expect("a sealed secret");
        assert_eq!((sealed.resource().path(), sealed.signed_with()), ("acme/key/1", None));
        assert!(sealed.verify(b"{}").is_err());
    }

    #[test]
    fn a_signed_string_is_verified_with_the_key_that_it_names() {
        let (text, key) = signed();
        let sealed = SealedString::parse(&text).expect("a sealed secret");
        assert_eq!(sealed.signed_with().map(ResourceName::path), Some("acme/signers/1"));
        assert_eq!(sealed.verify(&key), Ok(()));
    }

    #[test]
    fn a_signed_string_with_another_payload_is_refused() {
        let (text, key) = signed();
        let other = payload().to_string().replace("key/1", "key/2");
        let other = text.replace(&encoded(&payload()), &Base64UrlUnpadded::encode_string(other.as_bytes()));
        let sealed = SealedString::parse(&other).expect("a sealed secret");
        assert!(matches!(sealed.verify(&key), Err(SealedSecretError::Signature { .. })));
    }

    #[test]
    fn other_types_and_providers_are_refused() {
        assert!(matches!(with("type", "envelope"), Err(SealedSecretError::Kind { .. })));
        assert!(matches!(with("provider", "aliyun"), Err(SealedSecretError::Kind { .. })));
    }

    #[test]
    fn a_name_that_is_a_way_elsewhere_is_refused() {
        let names =
            ["kbs:///acme/../1", "kbs:///acme/key", "kbs:///acme/key/1?x", "kbs://host/a/b/c", "/a/b/c"];
        assert!(names.iter().all(|name| matches!(with("name", name), Err(SealedSecretError::Name { .. }))));
    }

    #[test]
    fn what_has_not_four_parts_is_refused() {
        assert!(matches!(SealedString::parse("sealed.a.b"), Err(SealedSecretError::Form { .. })));
    }
}
