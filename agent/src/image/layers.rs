//! Layers that are mounted: each disk once, however many containers use it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

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
    /// The kernel refused the mount.
    Mount { source: io::Error },
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
    mounted: HashMap<String, Mounted>,
}

#[derive(Debug)]
struct Mounted {
    path: PathBuf,
    users: usize,
}

/// One user's hold on a mounted layer; the last one to be dropped unmounts it.
#[derive(Debug)]
pub(super) struct Layer {
    serial: String,
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
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |path: PathBuf| Layer { serial: source.serial.clone(), path, state: self.state.clone() };
        if let Some(mounted) = state.mounted.get_mut(&source.serial) {
            mounted.users += 1;
            return Ok(held(mounted.path.clone()));
        }
        let path = state.directory.join(state.next.to_string());
        fs::create_dir_all(&path).map_err(|source| LayerRefused::Directory { path: path.clone(), source })?;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOATIME;
        if let Err(errno) = mount(Some(device), &path, Some(source.fs_type.as_str()), flags, None::<&str>) {
            let _ = fs::remove_dir(&path);
            return Err(LayerRefused::Mount { source: errno.into() });
        }
        state.next += 1;
        state.mounted.insert(source.serial.clone(), Mounted { path: path.clone(), users: 1 });
        Ok(held(path))
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
        let Some(mounted) = state.mounted.get_mut(&self.serial) else { return };
        mounted.users -= 1;
        if mounted.users == 0 {
            state.mounted.remove(&self.serial);
            release(&self.path, &self.serial);
        }
    }
}

fn release(path: &Path, serial: &str) {
    if let Err(errno) = umount2(path, MntFlags::empty()) {
        tracing::warn!(serial, %errno, "layer still in use, detached");
        let _ = umount2(path, MntFlags::MNT_DETACH);
    }
    let _ = fs::remove_dir(path);
}
