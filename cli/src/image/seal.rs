//! `coffer image seal`: makes an ordinary image of a directory into a sealed one, in another directory or the same.
//!
//! ```text
//! layers ── each a file .coffer/<n>.erofs, with its hash tree ──► one layer, uncompressed
//! configuration ── its layers replaced, its history dropped ──► configuration
//! manifest ── what seals the files, as an annotation ──► manifest, under its tag
//! ```
//! The same image gives the same bytes, with the same `mkfs.erofs`. What is signed is the new manifest, and not by this command.

use std::io;
use std::path::Path;

use anyhow::{Context, ensure};
use clap::Args;
use coffer_image::artefact::Digest;
use coffer_layer::sealed::{ANNOTATION, DIRECTORY, Sealed, file_name};
use coffer_layer::unpack::Compression;
use coffer_node::host::find_program;
use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::local::{LocalArguments, Source, Target, next_layer, open, progress};
use super::sealed_file::{SealedFile, seal};
use crate::{Health, output};

#[derive(Args)]
pub(crate) struct SealArguments {
    #[command(flatten)]
    local: LocalArguments,
}

/// Seals and says what was made.
pub(crate) fn run(arguments: &SealArguments, as_json: bool) -> anyhow::Result<Health> {
    let local = &arguments.local;
    let source = local.read()?;
    let mkfs = find_program(Path::new("mkfs.erofs"))
        .context("there is no mkfs.erofs: install erofs-utils 1.5 or later")?;
    ensure!(
        rustix::process::geteuid().is_root(),
        "sealing needs root: the files of an image have owners, devices and attributes"
    );
    let mut files = Vec::new();
    for (index, (descriptor, diff_id)) in source.manifest.layers.iter().zip(&source.diff_ids).enumerate() {
        next_layer(index, source.diff_ids.len(), descriptor);
        files.push(seal(descriptor, *diff_id, &local.blob(&descriptor.digest), &mkfs)?);
    }
    let sealed = Sealed::new(files.iter().map(|file| file.layer).collect())?;
    let to = local.target()?;
    progress("writing the sealed layer");
    let (layer, bytes) = write_layer(&files, &to)?;
    let tag = local.tag("sealed");
    let digest = publish(source, &sealed, (layer, bytes), &to, &tag)?;
    if as_json {
        output::json(&json!({"digest": digest, "tag": tag, "bytes": bytes, "layers": sealed.layers()}))?;
    } else {
        let row = |(index, file): (usize, &SealedFile)| {
            vec![file_name(index), output::size(file.layer.file_bytes()), file.layer.root.to_string()]
        };
        output::table(&["FILE", "SIZE", "ROOT"], &files.iter().enumerate().map(row).collect::<Vec<_>>())?;
        println!("sealed as {tag}: {digest}");
    }
    Ok(Health::Well)
}

/// Writes the archive of the files as a blob.
fn write_layer(files: &[SealedFile], to: &Target<'_>) -> anyhow::Result<(Digest, u64)> {
    let mut archive = Builder::new(to.blob()?);
    archive.append_data(&mut header(EntryType::Directory, 0o755, 0), DIRECTORY, io::empty())?;
    for (index, sealed) in files.iter().enumerate() {
        let name = file_name(index);
        let mut header = header(EntryType::Regular, 0o444, sealed.layer.file_bytes());
        let file = open(&sealed.path)?;
        archive.append_data(&mut header, &name, file).with_context(|| format!("writing {name}"))?;
    }
    to.keep(archive.into_inner()?)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Writes the image whose only layer is `layer`.
fn publish(
    mut source: Source,
    sealed: &Sealed,
    layer: (Digest, u64),
    to: &Target<'_>,
    tag: &str,
) -> anyhow::Result<Digest> {
    source.config["rootfs"] = json!({"type": "layers", "diff_ids": [layer.0]});
    if let Some(members) = source.config.as_object_mut() {
        members.remove("history");
    }
    let layers = [json!({"mediaType": Compression::Plain.media_type(), "digest": layer.0, "size": layer.1})];
    to.publish(&source, &layers, Some((ANNOTATION, sealed.to_string())), tag)
}
