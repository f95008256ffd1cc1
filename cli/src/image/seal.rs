//! `coffer image seal`: makes an ordinary image of a directory into a sealed one, in another directory or the same.
//!
//! ```text
//! layers ── each a file .coffer/<n>.erofs, with its hash tree ──► one layer, uncompressed
//! configuration ── its layers replaced, its history dropped ──► configuration
//! manifest ── what seals the files, as an annotation ──► manifest, under its tag
//! ```
//! The same image gives the same bytes, with the same `mkfs.erofs`. What is signed is the new manifest, and not by this command.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use coffer_image::artefact::{Digest, Manifest, Reference};
use coffer_layer::sealed::{ANNOTATION, DIRECTORY, Sealed, file_name};
use coffer_layer::unpack::Compression;
use coffer_node::host::find_program;
use coffer_node::images::{Added, Layout};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};
use tempfile::NamedTempFile;

use super::sealed_file::{SealedFile, seal};
use crate::{Health, output};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

#[derive(Args)]
pub(crate) struct SealArguments {
    /// Directory with the image (OCI image layout)
    #[arg(value_name = "LAYOUT")]
    layout: PathBuf,
    /// Directory for the sealed image; made if it is not there
    #[arg(long, value_name = "LAYOUT")]
    to: PathBuf,
    /// Which image of the directory, by its tag there or its digest [default: the only one]
    #[arg(long, value_name = "TAG")]
    reference: Option<String>,
    /// Tag of the sealed image [default: --reference, or "sealed" if that is none]
    #[arg(long)]
    tag: Option<String>,
    /// For which machines, of an image for several
    #[arg(long, value_name = "OS/ARCH", default_value = "linux/amd64")]
    platform: String,
}

/// An image, with the diff ids of its layers.
struct Source {
    manifest: Manifest,
    config: Value,
    diff_ids: Vec<Digest>,
}

/// Seals and says what was made.
pub(crate) fn run(arguments: &SealArguments, as_json: bool) -> anyhow::Result<Health> {
    let source = read(arguments)?;
    let mkfs = find_program(Path::new("mkfs.erofs"))
        .context("there is no mkfs.erofs: install erofs-utils 1.5 or later")?;
    ensure!(
        rustix::process::geteuid().is_root(),
        "sealing needs root: the files of an image have owners, devices and attributes"
    );
    let mut files = Vec::new();
    for (index, (descriptor, diff_id)) in source.manifest.layers.iter().zip(&source.diff_ids).enumerate() {
        let size = output::size(descriptor.size);
        progress(&format!(
            "layer {} of {}: {} ({size})",
            index + 1,
            source.diff_ids.len(),
            descriptor.digest
        ));
        files.push(seal(descriptor, *diff_id, &blob_path(&arguments.layout, &descriptor.digest), &mkfs)?);
    }
    let sealed = Sealed::new(files.iter().map(|file| file.layer).collect())?;
    let to = target(&arguments.to)?;
    progress("writing the sealed layer");
    let (layer, bytes) = write_layer(&files, &arguments.to)?;
    let tag = tag(arguments);
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

/// Takes the image, and refuses what cannot be sealed before anything is unpacked.
fn read(arguments: &SealArguments) -> anyhow::Result<Source> {
    let platform = arguments.platform.split_once('/').context("--platform should be as in linux/amd64")?;
    // The name only has to be one: nothing is judged here.
    let name: Reference = "localhost/image:sealed".parse()?;
    let subject = Layout::open(&arguments.layout)?.image(arguments.reference.as_deref(), name, platform)?;
    let manifest = subject.manifest().clone();
    ensure!(
        !manifest.annotations.contains_key(ANNOTATION),
        "the image {} is sealed already",
        subject.digest()
    );
    for descriptor in &manifest.layers {
        Compression::of(&descriptor.media_type)
            .with_context(|| format!("the layer {} cannot be sealed", descriptor.digest))?;
    }
    let path = blob_path(&arguments.layout, &manifest.config.digest);
    let bytes = crate::attest::read_file(&path, "the image's configuration")?;
    let found = Digest::of(&bytes);
    ensure!(
        found == manifest.config.digest,
        "{} hashes to {found}: the directory is damaged",
        path.display()
    );
    let config: Value = serde_json::from_slice(&bytes).context("reading the image's configuration")?;
    let diff_ids: Vec<Digest> = serde_json::from_value(config["rootfs"]["diff_ids"].clone())
        .context("the image's configuration does not say the digests of its layers (rootfs.diff_ids)")?;
    if diff_ids.len() != manifest.layers.len() {
        bail!("the manifest has {} layers, the configuration {}", manifest.layers.len(), diff_ids.len());
    }
    Ok(Source { manifest, config, diff_ids })
}

fn tag(arguments: &SealArguments) -> String {
    let reference = arguments.reference.as_ref().filter(|reference| !reference.contains(':'));
    arguments.tag.as_ref().or(reference).map_or_else(|| "sealed".to_owned(), Clone::clone)
}

/// The directory of images, which is made if it is none yet.
fn target(directory: &Path) -> anyhow::Result<Layout> {
    let there = directory.join("index.json").exists();
    Ok(if there { Layout::open(directory)? } else { Layout::create(directory)? })
}

/// Writes the archive of the files as a blob.
fn write_layer(files: &[SealedFile], directory: &Path) -> anyhow::Result<(Digest, u64)> {
    let blobs = directory.join("blobs/sha256");
    let file = NamedTempFile::new_in(&blobs).with_context(|| format!("writing to {}", blobs.display()))?;
    let mut archive = Builder::new(Hashed { inner: file, hasher: Sha256::new(), bytes: 0 });
    archive.append_data(&mut header(EntryType::Directory, 0o755, 0), DIRECTORY, io::empty())?;
    for (index, sealed) in files.iter().enumerate() {
        let name = file_name(index);
        let mut header = header(EntryType::Regular, 0o444, sealed.layer.file_bytes());
        let file = File::open(&sealed.path).with_context(|| format!("reading {}", sealed.path.display()))?;
        archive.append_data(&mut header, &name, file).with_context(|| format!("writing {name}"))?;
    }
    let Hashed { inner, hasher, bytes } = archive.into_inner()?;
    let digest = Digest::from_bytes(hasher.finalize().into());
    let path = blob_path(directory, &digest);
    inner.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    inner.as_file().sync_data()?;
    inner.persist(&path).with_context(|| format!("writing {}", path.display()))?;
    Ok((digest, bytes))
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

/// Writes configuration and manifest, and names the manifest in the index.
fn publish(
    source: Source,
    sealed: &Sealed,
    layer: (Digest, u64),
    to: &Layout,
    tag: &str,
) -> anyhow::Result<Digest> {
    let mut config = source.config;
    config["rootfs"] = json!({"type": "layers", "diff_ids": [layer.0]});
    if let Some(members) = config.as_object_mut() {
        members.remove("history");
    }
    let config = config.to_string().into_bytes();
    let mut annotations = source.manifest.annotations;
    annotations.insert(ANNOTATION.to_owned(), sealed.to_string());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": Digest::of(&config), "size": config.len()},
        "layers": [{"mediaType": LAYER, "digest": layer.0, "size": layer.1}], "annotations": annotations,
    });
    let manifest = manifest.to_string().into_bytes();
    let digest = Digest::of(&manifest);
    let (media_type, name) = (MANIFEST.to_owned(), Some(tag.to_owned()));
    to.put(&Added { manifest, media_type, artifact_type: None, blobs: vec![config], name })?;
    Ok(digest)
}

fn blob_path(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join("blobs/sha256").join(digest.hex())
}

/// A line for whoever waits; one that cannot be written is not worth failing for.
fn progress(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Hashes and counts what is written.
struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
