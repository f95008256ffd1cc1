//! One layer's file of a sealed image: the layer unpacked, packed again as EROFS, with its hash tree behind.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use coffer_image::artefact::{Descriptor, Digest};
use coffer_layer::sealed::{SealedLayer, salt};
use coffer_layer::unpack::{Content, Expected, Limits, unpack};
use coffer_layer::verity::{BLOCK, append};
use coffer_node::layers::convert;
use tempfile::TempDir;

/// A file that vanishes with this value.
pub(super) struct SealedFile {
    pub(super) layer: SealedLayer,
    pub(super) path: PathBuf,
    _place: TempDir,
}

/// Makes the file of the layer that `descriptor` names and that lies at `blob`.
pub(super) fn seal(
    descriptor: &Descriptor,
    diff_id: Digest,
    blob: &Path,
    mkfs: &Path,
) -> anyhow::Result<SealedFile> {
    let place = tempfile::Builder::new()
        .prefix("coffer-seal-")
        .tempdir()
        .context("making a directory to unpack into")?;
    let tree = place.path().join("tree");
    fs::create_dir(&tree).with_context(|| format!("making {}", tree.display()))?;
    let expected = Expected {
        content: Content::Both { digest: descriptor.digest, diff_id },
        size: descriptor.size,
        media_type: descriptor.media_type.clone(),
    };
    let bytes = File::open(blob).with_context(|| format!("reading the layer {}", blob.display()))?;
    let target = File::open(&tree).with_context(|| format!("opening {}", tree.display()))?;
    unpack(bytes, &expected, target.as_fd(), &Limits::default())
        .with_context(|| format!("unpacking the layer {}", descriptor.digest))?;
    let path = place.path().join("layer.erofs");
    File::create_new(&path).with_context(|| format!("making {}", path.display()))?;
    convert(mkfs, &tree, &path)?;
    // Two copies are enough: the tree is not needed while the next layer is unpacked.
    fs::remove_dir_all(&tree).with_context(|| format!("removing {}", tree.display()))?;
    let layer =
        with_tree(&path, &diff_id).with_context(|| format!("adding a hash tree to {}", path.display()))?;
    Ok(SealedFile { layer, path, _place: place })
}

/// Pads the image to whole blocks and puts its hash tree behind. The kernel takes the file system's size from its superblock, so
/// what follows does not disturb it.
fn with_tree(path: &Path, diff_id: &Digest) -> anyhow::Result<SealedLayer> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let data_bytes = file.metadata()?.len().max(1).next_multiple_of(BLOCK);
    file.set_len(data_bytes)?;
    let salt = salt(diff_id);
    let root = append(&mut file, data_bytes, &salt)?;
    Ok(SealedLayer { data_bytes, root, salt })
}
