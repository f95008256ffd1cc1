//! A signature of an image as an artefact that can be put beside it, in the two forms that cosign has.
//!
//! ```text
//! bundle   a statement in an envelope, inside Sigstore's bundle 0.3; a referrer of the image, whatever it is called
//! payload  simple signing: the image's digest and name; a layer of the manifest under the tag sha256-<hex>.sig
//! ```

use anyhow::Context;
use base64ct::{Base64, Encoding};
use coffer_attestation::dsse::signed_bytes;
use coffer_image::artefact::media_type::{CONFIG, EMPTY, MANIFEST};
use coffer_image::artefact::{Digest, Subject};
use serde_json::{Value, json};

use super::key::Key;
use crate::keyless::{Keyless, Made, envelope};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const STATEMENT: &str = "application/vnd.in-toto+json";
const PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";

/// The manifest or index that is signed.
pub(crate) struct Signee {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    /// Bytes of the manifest.
    pub(crate) size: usize,
    /// The image itself, for a signature that has to be confirmed before it is attached.
    pub(crate) image: Option<Subject>,
}

/// A manifest and its blobs.
pub(crate) struct Artefact {
    pub(crate) manifest: Vec<u8>,
    pub(crate) media_type: &'static str,
    pub(crate) artifact_type: Option<&'static str>,
    pub(crate) blobs: Vec<Vec<u8>>,
    /// Under which it stands, if it is no referrer.
    pub(crate) tag: Option<String>,
}

/// What is signed by its digest alone, attached as a referrer.
pub(crate) fn bundle(key: &Key, signee: &Signee) -> anyhow::Result<Artefact> {
    let statement = statement(signee);
    let signature = key.sign(&signed_bytes(STATEMENT, &statement))?;
    let material = json!({"publicKey": {"hint": Base64::encode_string(&key.id()?)}});
    Ok(referrer(signee, put_together(&envelope(STATEMENT, &statement, &signature), &material)))
}

/// The same with a certificate of minutes, whose holder and issuer come with it.
pub(crate) fn keyless(keyless: &Keyless, signee: &Signee) -> anyhow::Result<(Artefact, Made)> {
    let made = keyless.sign((STATEMENT, &statement(signee)), signee.image.as_ref(), put_together)?;
    Ok((referrer(signee, made.bundle.clone()), made))
}

fn statement(signee: &Signee) -> Vec<u8> {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": signee.digest.hex()}}],
        "predicateType": PREDICATE,
        "predicate": {},
    });
    statement.to_string().into_bytes()
}

fn put_together(envelope: &Value, material: &Value) -> Vec<u8> {
    let bundle = json!({"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope});
    bundle.to_string().into_bytes()
}

fn referrer(signee: &Signee, bundle: Vec<u8>) -> Artefact {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": BUNDLE,
        "config": descriptor(EMPTY, b"{}"),
        "layers": [descriptor(BUNDLE, &bundle)],
        "subject": {"mediaType": signee.media_type, "digest": signee.digest, "size": signee.size},
        "annotations": {
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": PREDICATE,
        },
    });
    Artefact {
        manifest: manifest.to_string().into_bytes(),
        media_type: MANIFEST,
        artifact_type: Some(BUNDLE),
        blobs: vec![b"{}".to_vec(), bundle],
        tag: None,
    }
}

/// What is signed by digest and name, under the older tag; behind what `before`, the manifest under that tag, already holds.
pub(crate) fn payload(
    key: &Key,
    signee: &Signee,
    name: &str,
    before: Option<&[u8]>,
) -> anyhow::Result<Artefact> {
    let payload = json!({
        "critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": signee.digest},
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
    .into_bytes();
    let mut layer = descriptor(SIMPLE_SIGNING, &payload);
    let signature = Base64::encode_string(&key.sign(&payload)?);
    layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
    let mut layers = match before {
        Some(bytes) => {
            let before: Value =
                serde_json::from_slice(bytes).context("reading the signatures that are there")?;
            before["layers"].as_array().cloned().unwrap_or_default()
        }
        None => Vec::new(),
    };
    layers.push(layer);
    let ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    let config = json!({
        "architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids},
    })
    .to_string()
    .into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config), "layers": layers,
    });
    Ok(Artefact {
        manifest: manifest.to_string().into_bytes(),
        media_type: MANIFEST,
        artifact_type: None,
        blobs: vec![config, payload],
        tag: Some(signee.digest.signature_tag()),
    })
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}
