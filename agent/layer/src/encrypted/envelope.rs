//! What a layer's annotations say of its encryption:
//!
//! ```text
//! …enc.keys.provider.attestation-agent = base64 of {"kid":"kbs:///a/b/c","wrapped_data":B,"iv":B,"wrap_type":"A256GCM"}
//! …enc.pubopts = base64 of {"cipher":"AES_256_CTR_HMAC_SHA256","hmac":B,"cipheroptions":{}}            B is in base64, too
//! ```
//! The first may say `"version":"0.1.0"`, `"provider":"kbs"` and empty `provider_settings` and `annotations` besides. Everything
//! else is refused: an option that is passed over is one that somebody relied on.

use std::collections::BTreeMap;

use base64ct::{Base64, Encoding};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::EnvelopeError;
use super::{KEY_ANNOTATION, OPTIONS_ANNOTATION};

/// The longest annotation, in bytes.
const MAX_ANNOTATION: usize = 8 << 10;

/// The longest wrapped key, in bytes: it has some 250.
const MAX_WRAPPED: usize = 2 << 10;

pub(super) const CIPHER: &str = "AES_256_CTR_HMAC_SHA256";
pub(super) const WRAP: &str = "A256GCM";
pub(super) const IV_BYTES: usize = 12;

/// How a layer is encrypted, and under which key its own is wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    pub(super) key_id: String,
    pub(super) wrapped: Vec<u8>,
    pub(super) iv: [u8; IV_BYTES],
    pub(super) hmac: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Packet {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    kid: String,
    wrapped_data: String,
    iv: String,
    wrap_type: String,
    #[serde(default, skip_serializing)]
    provider_settings: Empty,
    #[serde(default, skip_serializing)]
    annotations: Empty,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    cipher: String,
    hmac: String,
    /// `null` is what a program writes that has none.
    #[serde(default)]
    cipheroptions: Option<Empty>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

impl Envelope {
    /// Reads a layer's annotations.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn parse(annotations: &BTreeMap<String, String>) -> Result<Self, EnvelopeError> {
        let packet: Packet = read(annotations, KEY_ANNOTATION)?;
        let options: Options = read(annotations, OPTIONS_ANNOTATION)?;
        // Read, so that they are held against their form.
        let Packet { provider_settings: Empty {}, annotations: Empty {}, .. } = &packet;
        if let Some(version) = packet.version {
            is("the version of the wrapped key", &version, "0.1.0")?;
        }
        if let Some(provider) = packet.provider {
            is("the provider of the wrapped key", &provider, "kbs")?;
        }
        is("wrap_type of the wrapped key", &packet.wrap_type, WRAP)?;
        is("the cipher", &options.cipher, CIPHER)?;
        let wrapped = bytes("the wrapped key", &packet.wrapped_data)?;
        if wrapped.len() > MAX_WRAPPED {
            let (found, most) = (wrapped.len(), MAX_WRAPPED);
            return Err(EnvelopeError::Long { annotation: KEY_ANNOTATION, found, most });
        }
        let (iv, hmac) = (sized("iv of the wrapped key", &packet.iv)?, sized("the HMAC", &options.hmac)?);
        Ok(Self { key_id: packet.kid, wrapped, iv, hmac })
    }

    /// Names the key to ask for, as whoever encrypted wrote it.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The annotations that say the same.
    pub fn annotations(&self) -> [(&'static str, String); 2] {
        let packet = Packet {
            version: None,
            provider: None,
            kid: self.key_id.clone(),
            wrapped_data: Base64::encode_string(&self.wrapped),
            iv: Base64::encode_string(&self.iv),
            wrap_type: WRAP.to_owned(),
            provider_settings: Empty {},
            annotations: Empty {},
        };
        let options = Options {
            cipher: CIPHER.to_owned(),
            hmac: Base64::encode_string(&self.hmac),
            cipheroptions: Some(Empty {}),
        };
        [(KEY_ANNOTATION, written(&packet)), (OPTIONS_ANNOTATION, written(&options))]
    }
}

fn written(value: &impl Serialize) -> String {
    // Strings alone, which JSON always takes.
    Base64::encode_string(serde_json::to_string(value).unwrap_or_default().as_bytes())
}

fn read<T: DeserializeOwned>(
    annotations: &BTreeMap<String, String>,
    annotation: &'static str,
) -> Result<T, EnvelopeError> {
    let text = annotations.get(annotation).ok_or(EnvelopeError::Missing { annotation })?;
    if text.len() > MAX_ANNOTATION {
        return Err(EnvelopeError::Long { annotation, found: text.len(), most: MAX_ANNOTATION });
    }
    let found = text.split(',').count();
    if found > 1 && annotation == KEY_ANNOTATION {
        return Err(EnvelopeError::Several { found });
    }
    let json = bytes(annotation, text)?;
    serde_json::from_slice(&json).map_err(|source| EnvelopeError::Form { what: annotation, source })
}

fn is(what: &'static str, found: &str, expected: &'static str) -> Result<(), EnvelopeError> {
    if found == expected {
        return Ok(());
    }
    Err(EnvelopeError::Unsupported { what, expected, found: found.chars().take(64).collect() })
}

fn bytes(what: &'static str, text: &str) -> Result<Vec<u8>, EnvelopeError> {
    Base64::decode_vec(text).map_err(|_| EnvelopeError::Base64 { what })
}

fn sized<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], EnvelopeError> {
    let bytes = bytes(what, text)?;
    let found = bytes.len();
    bytes.try_into().map_err(|_| EnvelopeError::Length { what, expected: N, found })
}
