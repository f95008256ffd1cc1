//! `coffer image sign`: signs an image of a directory or a registry with a private key, and puts the signature beside it.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use coffer_image::artefact::{Digest, Document, Reference, media_type};
use coffer_node::images::{Added, Layout, LayoutError};
use serde_json::{Value, json};

use super::key::Key;
use super::signature::{Artefact, Signee, bundle, payload};
use super::source::{ImageArguments, wanted};
use crate::{Health, output};

#[derive(Args)]
pub(crate) struct SignArguments {
    #[command(flatten)]
    image: ImageArguments,
    /// Private key: PKCS #8 in PEM, or cosign's encrypted file (its password from COSIGN_PASSWORD or the terminal)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Name of the image, which only the older scheme signs too [default: its name in the registry]
    #[arg(long)]
    name: Option<Reference>,
    /// Sign by cosign's older scheme: a payload under the tag sha256-….sig instead of a bundle
    #[arg(long)]
    tag_scheme: bool,
}

/// Signs, and prints what was made.
pub(crate) fn run(arguments: &SignArguments, as_json: bool) -> anyhow::Result<Health> {
    let key = Key::read(&arguments.key)?;
    let (signee, made) = match arguments.image.name()? {
        Some(name) => in_registry(arguments, &key, &name)?,
        None => in_directory(arguments, &key)?,
    };
    report(&signee, &key, made, as_json)
}

fn in_directory(arguments: &SignArguments, key: &Key) -> anyhow::Result<(Signee, Digest)> {
    let layout = Layout::open(arguments.image.directory()?)?;
    let signed = layout.find(arguments.image.reference())?;
    let signee = signee(&signed.bytes, &signed.document);
    let before = match layout.find(Some(&signee.digest.signature_tag())) {
        Ok(found) => Some(found),
        Err(LayoutError::Unknown { .. }) => None,
        Err(error) => return Err(error).context("reading the signatures that are there"),
    };
    let artefact = arguments.make(key, &signee, None, before.map(|found| found.bytes))?;
    let made = Digest::of(&artefact.manifest);
    layout.put(&added(artefact)).context("putting the signature beside the image")?;
    Ok((signee, made))
}

/// A registry that does not know of referrers gets the tag that stands for them.
fn in_registry(arguments: &SignArguments, key: &Key, name: &Reference) -> anyhow::Result<(Signee, Digest)> {
    let registry = arguments.image.registry.open(None)?;
    let repository = registry.repository(name);
    let signed = repository.manifest(&wanted(name))?;
    let signed = signed.with_context(|| format!("the registry has no {name}"))?;
    let signee = signee(&signed.bytes, &Document::parse(&signed.bytes).context("reading the image")?);
    let before = repository.manifest(&signee.digest.signature_tag())?;
    let artefact = arguments.make(key, &signee, Some(name), before.map(|found| found.bytes))?;
    for blob in &artefact.blobs {
        repository.put_blob(blob).context("putting the signature into the registry")?;
    }
    let made = Digest::of(&artefact.manifest);
    let place = artefact.tag.clone().unwrap_or_else(|| made.to_string());
    let known = repository.put_manifest(&place, artefact.media_type, &artefact.manifest)?;
    if artefact.tag.is_none() && !known {
        let entry = json!({
            "mediaType": artefact.media_type,
            "digest": made,
            "size": artefact.manifest.len(),
            "artifactType": artefact.artifact_type,
        });
        repository.refer_by_tag(&signee.digest, &entry).context("saying what the signature refers to")?;
    }
    Ok((signee, made))
}

impl SignArguments {
    /// The signature; `before` is what stands under the tag of the older scheme.
    fn make(
        &self,
        key: &Key,
        signee: &Signee,
        called: Option<&Reference>,
        before: Option<Vec<u8>>,
    ) -> anyhow::Result<Artefact> {
        if !self.tag_scheme {
            return bundle(key, signee);
        }
        let name = self.name.as_ref().or(called).context("the older scheme signs a name too: give --name")?;
        payload(key, signee, &name.to_string(), before.as_deref())
    }
}

/// What `bytes` are, for a pointer to them.
fn signee(bytes: &[u8], document: &Document) -> Signee {
    let said: Option<Value> = serde_json::from_slice(bytes).ok();
    let said = said.and_then(|said| said["mediaType"].as_str().map(str::to_owned));
    let usual = match document {
        Document::Manifest(_) => media_type::MANIFEST,
        Document::Index(_) => media_type::INDEX,
    };
    Signee {
        digest: Digest::of(bytes),
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

fn report(signee: &Signee, key: &Key, made: Digest, as_json: bool) -> anyhow::Result<Health> {
    let key = hex::encode(key.id()?);
    if as_json {
        output::json(&json!({"image": signee.digest, "key": key, "signature": made}))?;
    } else {
        println!("signed {} with the key {key}: {made}", signee.digest);
    }
    Ok(Health::Well)
}
