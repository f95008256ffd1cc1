//! `coffer image fetch`: brings what is attached to an image into the node's store, from where the shim hands it to guests.

use std::path::PathBuf;

use clap::Args;
use coffer_image::artefact::{Digest, Document, Evidence, Reference, Subject};
use coffer_node::config::Config;
use coffer_node::images::{Added, SignatureStore};
use serde_json::json;

use super::source::{ImageArguments, Source};
use crate::{Health, output};

#[derive(Args)]
pub(crate) struct FetchArguments {
    #[command(flatten)]
    image: ImageArguments,
    /// Store of signature objects [default: the node's, by its configuration]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Fetches, and prints how many objects there are of each manifest. What the store had of them before is gone.
pub(crate) fn run(
    arguments: &FetchArguments,
    config: &dyn Fn() -> anyhow::Result<Config>,
    as_json: bool,
) -> anyhow::Result<Health> {
    let store = match &arguments.store {
        Some(directory) => SignatureStore::new(directory),
        None => SignatureStore::new(&config()?.images.signatures),
    };
    let source = arguments.image.open()?;
    let name = source.name.clone().map_or_else(|| "directory/image".parse::<Reference>(), Ok)?;
    let subject = source.layout.image(source.wanted.as_deref(), name, arguments.image.platform())?;
    let counts = bring(&source, &subject, &store)?;
    if as_json {
        let all = counts.iter().map(|(digest, count)| json!({"image": digest, "objects": count}));
        output::json(&all.collect::<Vec<_>>())?;
        return Ok(Health::Well);
    }
    let rows: Vec<Vec<String>> =
        counts.iter().map(|(digest, count)| vec![digest.to_string(), count.to_string()]).collect();
    output::table(&["IMAGE", "OBJECTS"], &rows)?;
    Ok(Health::Well)
}

/// Puts what is attached to the image's manifest and index into `store`. Answers how many objects there are of each.
pub(super) fn bring(
    source: &Source,
    subject: &Subject,
    store: &SignatureStore,
) -> anyhow::Result<Vec<(Digest, usize)>> {
    let each = subject.digests().map(|digest| {
        let objects = objects(source, digest)?;
        store.replace(digest, &objects)?;
        Ok((*digest, objects.len()))
    });
    each.collect()
}

/// Manifests with signature objects that are attached to `digest`, each with its blobs.
fn objects(source: &Source, digest: &Digest) -> anyhow::Result<Vec<Added>> {
    let mut all = Vec::new();
    for stored in source.layout.attached_to(std::slice::from_ref(digest))? {
        let Document::Manifest(manifest) = &stored.document else { continue };
        if source.layout.add(&mut Evidence::default(), manifest).unwrap_or(0) == 0 {
            continue;
        }
        let blobs = manifest.layers.iter().map(|layer| source.layout.object(&layer.digest));
        all.push(Added {
            blobs: blobs.collect::<Result<_, _>>()?,
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            artifact_type: Some(manifest.artifact_type.clone()),
            name: stored.name,
            manifest: stored.bytes,
        });
    }
    Ok(all)
}
