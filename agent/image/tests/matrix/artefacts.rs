//! Images, and signatures of them in cosign's two schemes.

use coffer_image::UnixTime;
use coffer_image::artefact::{Attached, Digest, SignatureNotes};
use p256::ecdsa::SigningKey;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::authority::{Asked, Authority, base64, pem, sign, spki};

pub(crate) const SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";
pub(crate) const PROVENANCE: &str = "https://slsa.dev/provenance/v1";

pub(crate) const CONFIG: &[u8] =
    br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// The manifest of an image that differs from others by `mark`.
pub(crate) fn manifest(mark: &str) -> Vec<u8> {
    let config = json!({
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": Digest::of(CONFIG).to_string(),
        "size": CONFIG.len(),
    });
    json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": [], "annotations": {"mark": mark}})
        .to_string()
        .into_bytes()
}

/// An index that lists one manifest.
pub(crate) fn index(manifest: &[u8]) -> Vec<u8> {
    let entry = json!({
        "mediaType": MANIFEST_TYPE,
        "digest": Digest::of(manifest).to_string(),
        "size": manifest.len(),
        "platform": {"os": "linux", "architecture": "amd64"},
    });
    json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}).to_string().into_bytes()
}

/// cosign's payload for the image `digest` under the name `name`.
pub(crate) fn payload(digest: &Digest, name: &str) -> Vec<u8> {
    json!({
        "critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": digest.to_string()},
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
    .into_bytes()
}

/// The older scheme: a payload signed with a key.
pub(crate) fn simple(key: &SigningKey, payload: Vec<u8>) -> Attached {
    let notes = SignatureNotes { signature: base64(&sign(key, &payload)), ..SignatureNotes::default() };
    Attached::SimpleSigning { payload, notes: Box::new(notes) }
}

/// The older scheme, keyless: certificate and the log's word in annotations.
pub(crate) fn simple_keyless(authority: &Authority, asked: &Asked<'_>, payload: Vec<u8>) -> Attached {
    let certificate = pem("CERTIFICATE", &authority.certificate(asked));
    let signature = sign(asked.key, &payload);
    let body = json!({
        "apiVersion": "0.0.1",
        "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": hex::encode(Sha256::digest(&payload))}},
            "signature": {"content": base64(&signature), "publicKey": {"content": base64(certificate.as_bytes())}},
        },
    });
    let notes = SignatureNotes {
        signature: base64(&signature),
        log: Some(authority.log_annotation(&body, asked.at)),
        certificate: Some(certificate),
        timestamp: None,
    };
    Attached::SimpleSigning { payload, notes: Box::new(notes) }
}

/// A statement of a type about `digest`, in the envelope's three parts.
pub(crate) struct Statement {
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl Statement {
    pub(crate) fn sign(key: &SigningKey, digest: &Digest, predicate: &str) -> Self {
        let payload = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": digest.hex()}, "annotations": {}}],
            "predicateType": predicate,
            "predicate": {},
        })
        .to_string()
        .into_bytes();
        let signature = sign(key, &covered(&payload));
        Self { payload, signature }
    }

    pub(crate) fn signature(&self) -> &[u8] {
        &self.signature
    }

    fn envelope(&self) -> Value {
        json!({
            "payload": base64(&self.payload),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": base64(&self.signature)}],
        })
    }

    /// The first log's entry of it.
    pub(crate) fn body(&self, verifier_pem: &str) -> Value {
        let digest =
            |bytes: &[u8]| json!({"algorithm": "sha256", "value": hex::encode(Sha256::digest(bytes))});
        let verifier = base64(verifier_pem.as_bytes());
        json!({
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": digest(self.envelope().to_string().as_bytes()),
                "payloadHash": digest(&self.payload),
                "signatures": [{"signature": base64(&self.signature), "verifier": verifier}],
            },
        })
    }

    /// The second log's entry of it: the hash of what was signed.
    pub(crate) fn body_v2(&self, certificate: &[u8]) -> Value {
        let verifier = json!({
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "x509Certificate": {"rawBytes": base64(certificate)},
        });
        json!({
            "apiVersion": "0.0.2",
            "kind": "hashedrekord",
            "spec": {"hashedRekordV002": {
                "data": {"algorithm": "SHA2_256", "digest": base64(&Sha256::digest(covered(&self.payload)))},
                "signature": {"content": base64(&self.signature), "verifier": verifier},
            }},
        })
    }

    pub(crate) fn bundle(&self, material: Value) -> Value {
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": material,
            "dsseEnvelope": self.envelope(),
        })
    }
}

/// An envelope's payload with its type and both lengths.
fn covered(payload: &[u8]) -> Vec<u8> {
    let kind = "application/vnd.in-toto+json";
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// A bundle signed with a key, in no log.
pub(crate) fn keyed(key: &SigningKey, digest: &Digest, predicate: &str) -> Value {
    let hint = base64(&Sha256::digest(spki(key)));
    Statement::sign(key, digest, predicate).bundle(json!({"publicKey": {"hint": hint}}))
}

/// A bundle signed with a key, in the first log.
pub(crate) fn keyed_logged(authority: &Authority, key: &SigningKey, digest: &Digest, at: UnixTime) -> Value {
    let statement = Statement::sign(key, digest, SIGNATURE);
    let entry = authority.entry(&statement.body(&pem("PUBLIC KEY", &spki(key))), at);
    let hint = base64(&Sha256::digest(spki(key)));
    statement.bundle(json!({"publicKey": {"hint": hint}, "tlogEntries": [entry]}))
}

/// A keyless bundle, with an entry of the first log and a time stamp.
pub(crate) fn keyless(authority: &Authority, asked: &Asked<'_>, digest: &Digest, predicate: &str) -> Value {
    let statement = Statement::sign(asked.key, digest, predicate);
    let certificate = authority.certificate(asked);
    let entry = authority.entry(&statement.body(&pem("CERTIFICATE", &certificate)), asked.at);
    let stamp = authority.stamp(statement.signature(), asked.at);
    statement.bundle(json!({
        "certificate": {"rawBytes": base64(&certificate)},
        "tlogEntries": [entry],
        "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": base64(&stamp)}]},
    }))
}

/// A keyless bundle in the second log, whose time only the clock knows.
pub(crate) fn keyless_v2(authority: &Authority, asked: &Asked<'_>, digest: &Digest) -> Value {
    let statement = Statement::sign(asked.key, digest, SIGNATURE);
    let certificate = authority.certificate(asked);
    let stamp = authority.stamp(statement.signature(), asked.at);
    statement.bundle(json!({
        "certificate": {"rawBytes": base64(&certificate)},
        "tlogEntries": [authority.entry_v2(&statement.body_v2(&certificate))],
        "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": base64(&stamp)}]},
    }))
}

pub(crate) fn bundle(document: &Value) -> Attached {
    Attached::Bundle(document.to_string().into_bytes())
}
