//! `coffer image sign`: signs an image of a directory or a registry with a private key or an identity token, and puts the signature
//! beside it.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context, ensure};
use clap::Args;
use coffer_attestation::verdict::printable;
use coffer_image::artefact::{Digest, Document, Reference, Subject, media_type};
use coffer_node::images::{Added, Layout, LayoutError};
use serde_json::{Value, json};

use super::key::Key;
use super::signature::{Artefact, Signee, bundle, keyless, payload};
use super::source::{ImageArguments, wanted};
use crate::keyless::{Keyless, KeylessArguments};
use crate::{Health, output};

#[derive(Args)]
pub(crate) struct SignArguments {
    #[command(flatten)]
    image: ImageArguments,
    /// Private key: PKCS #8 in PEM, or cosign's encrypted file (its password from COSIGN_PASSWORD or the terminal)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    keyless: KeylessArguments,
    /// Name of the image, which only the older scheme signs too [default: its name in the registry]
    #[arg(long)]
    name: Option<Reference>,
    /// Sign by cosign's older scheme: a payload under the tag sha256-….sig instead of a bundle
    #[arg(long, requires = "key")]
    tag_scheme: bool,
}

/// Who signs.
enum Signer {
    Key(Key),
    Keyless(Box<Keyless>),
}

/// A signature that is not attached yet, and who made it.
struct Signature {
    artefact: Artefact,
    by: By,
}

enum By {
    /// The key's id.
    Key(String),
    Holder {
        name: String,
        issuer: String,
    },
}

/// Signs, and prints what was made.
pub(crate) fn run(arguments: &SignArguments, as_json: bool) -> anyhow::Result<Health> {
    let signer = arguments.signer()?;
    let (signee, by, made) = match arguments.image.name()? {
        Some(name) => in_registry(arguments, &signer, &name)?,
        None => in_directory(arguments, &signer)?,
    };
    report(&signee, &by, made, as_json)
}

fn in_directory(arguments: &SignArguments, signer: &Signer) -> anyhow::Result<(Signee, By, Digest)> {
    let layout = Layout::open(arguments.image.directory()?)?;
    let signed = layout.find(arguments.image.reference())?;
    let below = |digest: &Digest| Ok(layout.find(Some(&digest.to_string()))?.bytes);
    let signee = signer.signee(&signed.bytes, &signed.document, &below)?;
    let before = match layout.find(Some(&signee.digest.signature_tag())) {
        Ok(found) => Some(found),
        Err(LayoutError::Unknown { .. }) => None,
        Err(error) => return Err(error).context("reading the signatures that are there"),
    };
    let Signature { artefact, by } =
        arguments.make(signer, &signee, None, before.map(|found| found.bytes))?;
    let made = Digest::of(&artefact.manifest);
    layout.put(&added(artefact)).context("putting the signature beside the image")?;
    Ok((signee, by, made))
}

/// A registry that does not know of referrers gets the tag that stands for them.
fn in_registry(
    arguments: &SignArguments,
    signer: &Signer,
    name: &Reference,
) -> anyhow::Result<(Signee, By, Digest)> {
    let registry = arguments.image.registry.open(None)?;
    let repository = registry.repository(name);
    let signed = repository.manifest(&wanted(name))?;
    let signed = signed.with_context(|| format!("the registry has no {name}"))?;
    let below = |digest: &Digest| {
        let found = repository.manifest(&digest.to_string())?;
        Ok(found.with_context(|| format!("the registry has not the manifest {digest}"))?.bytes)
    };
    let document = Document::parse(&signed.bytes).context("reading the image")?;
    let signee = signer.signee(&signed.bytes, &document, &below)?;
    let before = repository.manifest(&signee.digest.signature_tag())?;
    let before = before.map(|found| found.bytes);
    let Signature { artefact, by } = arguments.make(signer, &signee, Some(name), before)?;
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
    Ok((signee, by, made))
}

impl SignArguments {
    fn signer(&self) -> anyhow::Result<Signer> {
        if let Some(path) = &self.key {
            return Ok(Signer::Key(Key::read(path)?));
        }
        ensure!(
            self.keyless.are_given(),
            "say who signs: --key FILE, or --identity-token FILE with the services to sign with"
        );
        let keyless = self.keyless.open(self.image.registry.transport(None)?, SystemTime::now().into())?;
        Ok(Signer::Keyless(Box::new(keyless)))
    }

    /// The signature; `before` is what stands under the tag of the older scheme.
    fn make(
        &self,
        signer: &Signer,
        signee: &Signee,
        called: Option<&Reference>,
        before: Option<Vec<u8>>,
    ) -> anyhow::Result<Signature> {
        let key = match signer {
            Signer::Key(key) => key,
            Signer::Keyless(signer) => {
                let (artefact, made) = keyless(signer, signee)?;
                return Ok(Signature { artefact, by: By::Holder { name: made.holder, issuer: made.issuer } });
            }
        };
        let by = By::Key(hex::encode(key.id()?));
        if !self.tag_scheme {
            return Ok(Signature { artefact: bundle(key, signee)?, by });
        }
        let name = self.name.as_ref().or(called).context("the older scheme signs a name too: give --name")?;
        Ok(Signature { artefact: payload(key, signee, &name.to_string(), before.as_deref())?, by })
    }
}

impl Signer {
    /// What is signed; with the image if the signature of it is to be confirmed. `below` has the manifests that an index lists.
    fn signee(
        &self,
        bytes: &[u8],
        document: &Document,
        below: &dyn Fn(&Digest) -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<Signee> {
        let image = match self {
            Signer::Keyless(keyless) if keyless.wants_image() => Some(image(bytes, document, below)?),
            _ => None,
        };
        Ok(Signee { image, ..signee(bytes, document) })
    }
}

/// The image, or one of those of an index: a signature of the index is one of each.
fn image(
    bytes: &[u8],
    document: &Document,
    below: &dyn Fn(&Digest) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<Subject> {
    // The name only has to be one: bundles say none.
    let name: Reference = "localhost/image:signed".parse()?;
    Ok(match document {
        Document::Manifest(_) => Subject::of_manifest(name, bytes.to_vec())?,
        Document::Index(index) => {
            let first =
                index.manifests.first().context("the index lists no image, so there is nothing to sign")?;
            let manifest = below(&first.digest)
                .context("reading an image of the index, to confirm the signature with")?;
            Subject::chosen_from(name, bytes.to_vec(), manifest)?
        }
    })
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
        image: None,
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

fn report(signee: &Signee, by: &By, made: Digest, as_json: bool) -> anyhow::Result<Health> {
    let image = signee.digest;
    match by {
        By::Key(key) if as_json => output::json(&json!({"image": image, "key": key, "signature": made}))?,
        By::Holder { name, issuer } if as_json => {
            output::json(&json!({"image": image, "identity": name, "issuer": issuer, "signature": made}))?;
        }
        By::Key(key) => println!("signed {image} with the key {key}: {made}"),
        By::Holder { name, issuer } => {
            println!("signed {image} as {} of {}: {made}", printable(name), printable(issuer));
        }
    }
    Ok(Health::Well)
}
