//! The envelope: written by whoever signs, and read by whoever believes some signers.

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};

use super::key::{PrivateKey, SignerKey, SignerKeyError};
use crate::handshake::{Limits, read_json};

/// The longest envelope that is read, in bytes.
pub const MAX_ENVELOPE: usize = 256 << 10;
/// Type of a document that says what guests look like: a verifier's list of references in TOML.
pub const REFERENCES: &str = "application/vnd.coffer.references+toml";
/// Signatures of one document.
const MAX_SIGNATURES: usize = 8;

/// A document whose signatures nobody has looked at yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    signatures: Vec<Vec<u8>>,
}

/// Why there is no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not JSON of this form.
    #[error("this is no DSSE envelope in JSON: {reason}")]
    Form {
        /// What is wrong.
        reason: String,
    },
    /// Bytes that are not base64.
    #[error("{what} of the envelope is not base64")]
    Base64 {
        /// Which part.
        what: &'static str,
    },
    /// More signatures than anybody needs.
    #[error("the envelope has {found} signatures, and may have {MAX_SIGNATURES}")]
    Signatures {
        /// How many.
        found: usize,
    },
    /// A key that cannot sign.
    #[error("the key cannot sign")]
    Key(#[from] SignerKeyError),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    payload_type: String,
    payload: String,
    signatures: Vec<WrittenSignature>,
}

#[derive(Serialize, Deserialize)]
struct WrittenSignature {
    #[serde(default)]
    keyid: String,
    sig: String,
}

impl Envelope {
    /// Signs a document. Answers the envelope in JSON.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn sign(payload_type: &str, payload: &[u8], key: &PrivateKey) -> Result<String, EnvelopeError> {
        let sig = Base64::encode_string(&key.sign(&signed_bytes(payload_type, payload)));
        let written = Written {
            payload_type: payload_type.to_owned(),
            payload: Base64::encode_string(payload),
            signatures: vec![WrittenSignature { keyid: key.signer()?.id().to_owned(), sig }],
        };
        serde_json::to_string(&written).map_err(|error| EnvelopeError::Form { reason: error.to_string() })
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// [`EnvelopeError`]
    pub fn parse(json: &[u8]) -> Result<Self, EnvelopeError> {
        let limits = Limits { bytes: MAX_ENVELOPE, depth: 8 };
        let read: Result<Written, _> = read_json(json, limits);
        let written = read.map_err(|error| EnvelopeError::Form { reason: error.to_string() })?;
        if written.signatures.len() > MAX_SIGNATURES {
            return Err(EnvelopeError::Signatures { found: written.signatures.len() });
        }
        let bytes = |text: &str, what| Base64::decode_vec(text).map_err(|_| EnvelopeError::Base64 { what });
        let signatures = written.signatures.iter().map(|signature| bytes(&signature.sig, "a signature"));
        Ok(Self {
            payload: bytes(&written.payload, "the payload")?,
            signatures: signatures.collect::<Result<_, _>>()?,
            payload_type: written.payload_type,
        })
    }

    /// The document, if it is of this type and `signer` signed it.
    pub fn signed_by(&self, signer: &SignerKey, payload_type: &str) -> Option<&[u8]> {
        let message = signed_bytes(&self.payload_type, &self.payload);
        let holds = |signature: &Vec<u8>| signer.verifies(&message, signature);
        (self.payload_type == payload_type && self.signatures.iter().any(holds)).then_some(&self.payload)
    }
}

/// What is signed (the protocol's pre-authentication encoding).
pub fn signed_bytes(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl genpkey`, for these tests alone.
    const P256: &str = include_str!("../../testdata/dsse/p256.pem");
    const P256_PUBLIC: &str = include_str!("../../testdata/dsse/p256.pub.pem");
    const P256_COMPRESSED: &str = include_str!("../../testdata/dsse/p256.compressed.pub.pem");
    const P384: &str = include_str!("../../testdata/dsse/p384.pem");
    const P384_PUBLIC: &str = include_str!("../../testdata/dsse/p384.pub.pem");
    const KIND: &str = "application/vnd.example";

    fn private(pem: &str) -> PrivateKey {
        PrivateKey::from_pem(pem).expect("a key")
    }

    fn public(pem: &str) -> SignerKey {
        SignerKey::from_pem(pem).expect("a key")
    }

    #[test]
    fn what_is_signed_is_what_the_protocol_says() {
        assert_eq!(
            signed_bytes("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn a_key_has_one_name_however_its_point_is_written() {
        assert_ne!(P256_COMPRESSED, P256_PUBLIC);
        assert_eq!(public(P256_COMPRESSED), public(P256_PUBLIC));
        assert_eq!(public(P256_COMPRESSED).id(), private(P256).signer().expect("a key").id());
    }

    #[test]
    fn a_document_is_read_by_whoever_believes_its_signer_on_both_curves() {
        for (key, signer, other) in [(P256, P256_PUBLIC, P384_PUBLIC), (P384, P384_PUBLIC, P256_PUBLIC)] {
            let json = Envelope::sign(KIND, b"a document", &private(key)).expect("signed");
            let envelope = Envelope::parse(json.as_bytes()).expect("an envelope");
            assert_eq!(envelope.signed_by(&public(signer), KIND), Some(b"a document".as_slice()));
            assert_eq!(envelope.signed_by(&public(other), KIND), None);
            assert_eq!(envelope.signed_by(&public(signer), "application/vnd.other"), None);
            assert_eq!(private(key).signer(), Ok(public(signer)));
        }
    }

    #[test]
    fn a_changed_document_type_or_signature_is_nobodys() {
        let json = Envelope::sign(KIND, b"a document", &private(P256)).expect("signed");
        let envelope = Envelope::parse(json.as_bytes()).expect("an envelope");
        let changed = [
            Envelope { payload: b"a documenT".to_vec(), ..envelope.clone() },
            Envelope { payload_type: "application/vnd.examplE".to_owned(), ..envelope.clone() },
            Envelope { signatures: Vec::new(), ..envelope.clone() },
            Envelope { signatures: vec![vec![0x30, 0]], ..envelope },
        ];
        for changed in changed {
            let payload_type = changed.payload_type.clone();
            assert_eq!(changed.signed_by(&public(P256_PUBLIC), &payload_type), None);
        }
    }

    #[test]
    fn what_is_no_envelope_or_no_key_says_so() {
        assert!(matches!(Envelope::parse(b"name = \"a\""), Err(EnvelopeError::Form { .. })));
        let many = format!(
            r#"{{"payloadType":"a","payload":"","signatures":[{}]}}"#,
            [r#"{"sig":""}"#; 9].join(",")
        );
        assert_eq!(Envelope::parse(many.as_bytes()), Err(EnvelopeError::Signatures { found: 9 }));
        let text = r#"{"payloadType":"a","payload":"?","signatures":[]}"#;
        assert_eq!(Envelope::parse(text.as_bytes()), Err(EnvelopeError::Base64 { what: "the payload" }));
        assert!(matches!(SignerKey::from_pem(P256), Err(SignerKeyError::Label { .. })));
        assert!(matches!(PrivateKey::from_pem(P256_PUBLIC), Err(SignerKeyError::Label { .. })));
        assert_eq!(SignerKey::from_pem("hello"), Err(SignerKeyError::Pem));
    }
}
