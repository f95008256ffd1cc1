//! `coffer image sign`: signs an image of a directory with a private key, and puts the signature beside it.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use coffer_image::artefact::{Document, Reference};
use coffer_node::images::{Added, Layout};
use serde_json::{Value, json};

use super::key::Key;
use super::signature::{Artefact, Signee, bundle, payload};
use crate::{Health, output};

#[derive(Args)]
pub(crate) struct SignArguments {
    /// Directory with the image (OCI image layout)
    layout: PathBuf,
    /// Private key: PKCS #8 in PEM, or cosign's encrypted file (its password from COSIGN_PASSWORD or the terminal)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Which image of the directory, by its tag there or its digest [default: the only one]
    #[arg(long, value_name = "TAG")]
    reference: Option<String>,
    /// Name of the image, which only the older scheme signs too
    #[arg(long, required_if_eq("tag_scheme", "true"))]
    name: Option<Reference>,
    /// Sign by cosign's older scheme: a payload under the tag sha256-….sig instead of a bundle
    #[arg(long)]
    tag_scheme: bool,
}

/// Signs, and prints what was made.
pub(crate) fn run(arguments: &SignArguments, as_json: bool) -> anyhow::Result<Health> {
    let layout = Layout::open(&arguments.layout)?;
    let signed = layout.find(arguments.reference.as_deref())?;
    let signee = signee(&signed.bytes, &signed.document);
    let key = Key::read(&arguments.key)?;
    let artefact = match &arguments.name {
        Some(name) if arguments.tag_scheme => {
            let before = layout.find(Some(&signee.digest.signature_tag())).ok();
            payload(&key, &signee, &name.to_string(), before.as_ref().map(|found| found.bytes.as_slice()))?
        }
        _ => bundle(&key, &signee)?,
    };
    let made = coffer_image::artefact::Digest::of(&artefact.manifest);
    layout.put(&added(artefact)).context("putting the signature beside the image")?;
    report(&signee, &key, made, as_json)
}

/// What `bytes` are, for a pointer to them.
fn signee(bytes: &[u8], document: &Document) -> Signee {
    let said: Option<Value> = serde_json::from_slice(bytes).ok();
    let said = said.and_then(|said| said["mediaType"].as_str().map(str::to_owned));
    let usual = match document {
        Document::Manifest(_) => "application/vnd.oci.image.manifest.v1+json",
        Document::Index(_) => "application/vnd.oci.image.index.v1+json",
    };
    Signee {
        digest: coffer_image::artefact::Digest::of(bytes),
        media_type: said.unwrap_or_else(|| usual.to_owned()),
        size: bytes.len(),
    }
}

fn added(artefact: Artefact) -> Added {
    Added {
        manifest: artefact.manifest,
        media_type: artefact.media_type.to_owned(),
        artifact_type: artefact.artifact_type.map(str::to_owned),
        blobs: artefact.blobs,
        name: artefact.tag,
    }
}

fn report(
    signee: &Signee,
    key: &Key,
    made: coffer_image::artefact::Digest,
    as_json: bool,
) -> anyhow::Result<Health> {
    let key = hex::encode(key.id()?);
    if as_json {
        output::json(&json!({"image": signee.digest, "key": key, "signature": made}))?;
    } else {
        println!("signed {} with the key {key}: {made}", signee.digest);
    }
    Ok(Health::Well)
}
