//! An image of a directory that is taken apart, to be written as another one into a directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use coffer_image::artefact::media_type::{CONFIG, MANIFEST};
use coffer_image::artefact::{Descriptor, Digest, Manifest, Reference};
use coffer_layer::sealed::ANNOTATION;
use coffer_layer::unpack::Compression;
use coffer_node::images::{Added, Layout};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::output;

#[derive(Args)]
pub(super) struct LocalArguments {
    /// Directory with the image (OCI image layout)
    #[arg(value_name = "LAYOUT")]
    layout: PathBuf,
    /// Directory for the image that is made; made if it is not there
    #[arg(long, value_name = "LAYOUT")]
    to: PathBuf,
    /// Which image of the directory, by its tag there or its digest [default: the only one]
    #[arg(long, value_name = "TAG")]
    reference: Option<String>,
    /// Tag of the image that is made [default: --reference, or what was made of it if that is none]
    #[arg(long)]
    tag: Option<String>,
    /// For which machines, of an image for several
    #[arg(long, value_name = "OS/ARCH", default_value = "linux/amd64")]
    platform: String,
}

/// An image, with the diff ids of its layers.
pub(super) struct Source {
    pub(super) manifest: Manifest,
    pub(super) config: Value,
    pub(super) diff_ids: Vec<Digest>,
}

impl LocalArguments {
    /// Takes the image, and refuses one whose layers nobody could unpack.
    pub(super) fn read(&self) -> anyhow::Result<Source> {
        let platform = self.platform.split_once('/').context("--platform should be as in linux/amd64")?;
        // The name only has to be one: nothing is judged here.
        let name: Reference = "localhost/image:local".parse()?;
        let subject = Layout::open(&self.layout)?.image(self.reference.as_deref(), name, platform)?;
        let manifest = subject.manifest().clone();
        let sealed = manifest.annotations.contains_key(ANNOTATION);
        ensure!(
            !sealed,
            "the image {} is sealed already: take the one that it was made of",
            subject.digest()
        );
        for descriptor in &manifest.layers {
            Compression::of(&descriptor.media_type)
                .with_context(|| format!("the layer {} cannot be taken", descriptor.digest))?;
        }
        let path = self.blob(&manifest.config.digest);
        let bytes = crate::attest::read_file(&path, "the image's configuration")?;
        let (found, damaged) = (Digest::of(&bytes), "the directory is damaged");
        ensure!(found == manifest.config.digest, "{} hashes to {found}: {damaged}", path.display());
        let config: Value = serde_json::from_slice(&bytes).context("reading the image's configuration")?;
        let diff_ids: Vec<Digest> = serde_json::from_value(config["rootfs"]["diff_ids"].clone())
            .context("the image's configuration does not say the digests of its layers (rootfs.diff_ids)")?;
        if diff_ids.len() != manifest.layers.len() {
            bail!("the manifest has {} layers, the configuration {}", manifest.layers.len(), diff_ids.len());
        }
        Ok(Source { manifest, config, diff_ids })
    }

    /// Where a blob of the image is.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        blob_path(&self.layout, digest)
    }

    /// The tag of an image that was `made` of another.
    pub(super) fn tag(&self, made: &str) -> String {
        let reference = self.reference.as_ref().filter(|reference| !reference.contains(':'));
        self.tag.as_ref().or(reference).map_or_else(|| made.to_owned(), Clone::clone)
    }

    /// The directory that is written to, which is made if it is none yet.
    pub(super) fn target(&self) -> anyhow::Result<Target<'_>> {
        let there = self.to.join("index.json").exists();
        let layout = if there { Layout::open(&self.to)? } else { Layout::create(&self.to)? };
        Ok(Target { directory: &self.to, layout })
    }
}

/// Where an image is written.
pub(super) struct Target<'a> {
    directory: &'a Path,
    layout: Layout,
}

impl Target<'_> {
    /// A blob of which nothing is known before it was written.
    pub(super) fn blob(&self) -> anyhow::Result<BlobWriter> {
        let blobs = self.directory.join("blobs/sha256");
        let file =
            NamedTempFile::new_in(&blobs).with_context(|| format!("writing to {}", blobs.display()))?;
        Ok(BlobWriter { inner: file, hasher: Sha256::new(), bytes: 0 })
    }

    /// Keeps a blob that was written to its end. Answers its digest and its length.
    pub(super) fn keep(&self, blob: BlobWriter) -> anyhow::Result<(Digest, u64)> {
        let BlobWriter { inner, hasher, bytes } = blob;
        let digest = Digest::from_bytes(hasher.finalize().into());
        let path = blob_path(self.directory, &digest);
        inner.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        inner.as_file().sync_data()?;
        inner.persist(&path).with_context(|| format!("writing {}", path.display()))?;
        Ok((digest, bytes))
    }

    /// Writes configuration and manifest, and names the manifest in the index.
    pub(super) fn publish(
        &self,
        source: &Source,
        layers: &[Value],
        annotation: Option<(&str, String)>,
        tag: &str,
    ) -> anyhow::Result<Digest> {
        let config = source.config.to_string().into_bytes();
        let mut annotations = source.manifest.annotations.clone();
        annotations.extend(annotation.map(|(name, text)| (name.to_owned(), text)));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": Digest::of(&config), "size": config.len()},
            "layers": layers, "annotations": annotations,
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = Digest::of(&manifest);
        let (media_type, name) = (MANIFEST.to_owned(), Some(tag.to_owned()));
        self.layout.put(&Added { manifest, media_type, artifact_type: None, blobs: vec![config], name })?;
        Ok(digest)
    }
}

fn blob_path(directory: &Path, digest: &Digest) -> PathBuf {
    directory.join("blobs/sha256").join(digest.hex())
}

/// Opens a file of an image.
pub(super) fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("reading {}", path.display()))
}

/// Says which of the image's layers is next.
pub(super) fn next_layer(index: usize, of: usize, layer: &Descriptor) {
    progress(&format!("layer {} of {of}: {} ({})", index + 1, layer.digest, output::size(layer.size)));
}

/// A line for whoever waits; one that cannot be written is not worth failing for.
pub(super) fn progress(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Hashes and counts what is written.
pub(super) struct BlobWriter {
    inner: NamedTempFile,
    hasher: Sha256,
    bytes: u64,
}

impl Write for BlobWriter {
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
