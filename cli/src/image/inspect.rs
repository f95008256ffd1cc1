//! `coffer image inspect`: what a directory of images holds, or what a registry has of one image.

use anyhow::ensure;
use clap::Args;
use coffer_attestation::verdict::printable;
use coffer_image::artefact::{Document, Evidence};
use coffer_node::images::{Layout, Stored};
use serde_json::{Value, json};

use super::source::ImageArguments;
use crate::{Health, output};

#[derive(Args)]
pub(crate) struct InspectArguments {
    #[command(flatten)]
    image: ImageArguments,
}

/// Prints each manifest.
pub(crate) fn run(arguments: &InspectArguments, as_json: bool) -> anyhow::Result<Health> {
    let source = arguments.image.open()?;
    let layout = &source.layout;
    let all = layout.all()?;
    let described =
        all.iter().map(|stored| describe(layout, stored)).collect::<anyhow::Result<Vec<Value>>>()?;
    if as_json {
        output::json(&described)?;
    } else {
        table(&described)?;
    }
    ensure!(source.left_out.is_empty(), "not all could be had: {}", source.left_out.join("; "));
    Ok(Health::Well)
}

fn table(described: &[Value]) -> anyhow::Result<()> {
    let cell = |one: &Value, member: &str| match &one[member] {
        Value::String(text) => printable(text),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let columns = ["digest", "name", "kind", "entries", "signatures", "attachedTo"];
    let rows: Vec<Vec<String>> =
        described.iter().map(|one| columns.iter().map(|member| cell(one, member)).collect()).collect();
    output::table(&["DIGEST", "NAME", "KIND", "ENTRIES", "SIGNATURES", "ATTACHED TO"], &rows)
}

fn describe(layout: &Layout, stored: &Stored) -> anyhow::Result<Value> {
    let (kind, entries, signatures, subject) = match &stored.document {
        Document::Index(index) => ("index", index.manifests.len(), 0, None),
        Document::Manifest(manifest) => {
            let signatures = layout.add(&mut Evidence::default(), manifest)?;
            (manifest.artifact_type.as_str(), manifest.layers.len(), signatures, manifest.subject.as_ref())
        }
    };
    Ok(json!({
        "digest": stored.digest,
        "name": stored.name,
        "kind": kind,
        "entries": entries,
        "signatures": signatures,
        "attachedTo": subject.map(|subject| subject.digest),
    }))
}
