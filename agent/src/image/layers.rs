//! Layers that are mounted: each disk once, however many containers use it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::device_mapper::Mapped;
use super::verity::{self, VerityError};
use coffer_layer::erofs::{ErofsError, Superblock};
use coffer_layer::sealed::SealedLayer;
use coffer_layer::verity::{Root, Salt};

const EROFS: &str = "erofs";

/// A layer as the shim names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerSource {
    pub(crate) serial: String,
    pub(crate) fs_type: String,
}

/// Why a layer could not be mounted.
#[derive(Debug)]
pub(super) enum LayerRefused {
    /// The directory for it could not be made.
    Directory { path: PathBuf, source: io::Error },
    /// It could not be mounted.
    Mount { source: MountRefused },
    /// The disk is not the sealed layer that it should be.
    Sealed { source: VerityError },
}

/// Why a disk could not be mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountRefused {
    /// The kernel's answer.
    #[error(transparent)]
    Kernel(io::Error),
    /// It says of itself what cannot be, and the kernel was not asked.
    #[error(transparent)]
    Erofs(ErofsError),
}

/// What is mounted. A sealed layer is another one than the same disk unsealed, or under another root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Disk(String),
    Sealed { serial: String, data_bytes: u64, root: Root, salt: Salt },
}

/// The table of mounted layers.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    directory: PathBuf,
    next: u64,
    mounted: HashMap<Key, Mounted>,
}

#[derive(Debug)]
struct Mounted {
    path: PathBuf,
    users: usize,
    /// Removed after it is unmounted.
    _mapped: Option<Mapped>,
}

/// One user's hold on a mounted layer; the last one to be dropped unmounts it.
#[derive(Debug)]
pub(super) struct Layer {
    key: Key,
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Layers {
    /// Layers will be mounted below `directory`, whose path should be short: all of a container's layers must be named
    /// within one page of mount options.
    pub(super) fn below(directory: &Path) -> Self {
        let state = State { directory: directory.to_owned(), next: 0, mounted: HashMap::new() };
        Layers { state: Arc::new(Mutex::new(state)) }
    }

    /// Mounts the layer, which is on `device`, unless it is mounted already.
    pub(super) fn hold(&self, source: &LayerSource, device: &Path) -> Result<Layer, LayerRefused> {
        self.hold_as(Key::Disk(source.serial.clone()), |path, _| {
            mount_layer(device, path, &source.fs_type)?;
            Ok(None)
        })
    }

    /// Mounts a sealed layer, which is on `disk` with its tree, unless it is mounted already.
    pub(super) fn hold_sealed(
        &self,
        serial: &str,
        disk: &Path,
        layer: &SealedLayer,
    ) -> Result<Layer, LayerRefused> {
        let SealedLayer { data_bytes, root, salt } = *layer;
        let key = Key::Sealed { serial: serial.to_owned(), data_bytes, root, salt };
        self.hold_as(key, |path, number| {
            let mapped = verity::open(&format!("coffer-{number}"), disk, layer);
            let mapped = mapped.map_err(|source| LayerRefused::Sealed { source })?;
            mount_layer(mapped.node(), path, EROFS)?;
            Ok(Some(mapped))
        })
    }

    fn hold_as(
        &self,
        key: Key,
        mount: impl FnOnce(&Path, u64) -> Result<Option<Mapped>, LayerRefused>,
    ) -> Result<Layer, LayerRefused> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mounted) = state.mounted.get_mut(&key) {
            mounted.users += 1;
            return Ok(Layer { path: mounted.path.clone(), key, state: self.state.clone() });
        }
        let number = state.next;
        // Also when it fails: what is left of a device by that name must not be in the next one's way.
        state.next += 1;
        let path = state.directory.join(number.to_string());
        fs::create_dir_all(&path).map_err(|source| LayerRefused::Directory { path: path.clone(), source })?;
        let mapped = mount(&path, number).inspect_err(|_| {
            let _ = fs::remove_dir(&path);
        })?;
        state.mounted.insert(key.clone(), Mounted { path: path.clone(), users: 1, _mapped: mapped });
        Ok(Layer { path, key, state: self.state.clone() })
    }

    /// How many layers are mounted.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).mounted.len()
    }
}

impl Layer {
    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mounted) = state.mounted.get_mut(&self.key) else { return };
        mounted.users -= 1;
        if mounted.users == 0 {
            let mounted = state.mounted.remove(&self.key);
            release(&self.path, &self.key);
            drop(mounted);
        }
    }
}

fn mount_layer(device: &Path, path: &Path, fs_type: &str) -> Result<(), LayerRefused> {
    let refused = |source| LayerRefused::Mount { source };
    if fs_type == EROFS {
        let disk = File::open(device).map_err(|source| refused(MountRefused::Kernel(source)))?;
        Superblock::read(disk).map_err(|source| refused(MountRefused::Erofs(source)))?;
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOATIME;
    let mounted = mount(Some(device), path, Some(fs_type), flags, None::<&str>);
    mounted.map_err(|errno| refused(MountRefused::Kernel(errno.into())))
}

fn release(path: &Path, key: &Key) {
    if let Err(errno) = umount2(path, MntFlags::empty()) {
        tracing::warn!(?key, %errno, "layer still in use, detached");
        let _ = umount2(path, MntFlags::MNT_DETACH);
    }
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_failed_leaves_its_number_and_its_name_to_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let layers = Layers::below(directory.path());
        let mut numbers = Vec::new();
        for _ in 0..2 {
            let refused = layers.hold_as(Key::Disk("a".to_owned()), |_, number| {
                numbers.push(number);
                let source = MountRefused::Kernel(io::ErrorKind::InvalidData.into());
                Err(LayerRefused::Mount { source })
            });
            assert!(refused.is_err());
        }
        assert_eq!((numbers, layers.count()), (vec![0, 1], 0));
    }
}
