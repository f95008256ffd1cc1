//! Layers that were unpacked into the pod's scratch space: each once, however many containers use it.
//!
//! ```text
//! turn ── Arriving: one unpacks, who comes meanwhile waits ── There: counted ── the last user throws it away
//!                └─ failed: thrown away, the next one's turn
//! ```
//! A layer is named by the digests of its archive, packed and unpacked, so it is the same for every image that has it; one that was
//! encrypted is the same for containers of one image alone. Else an image would have another's plaintext without the verifier's word.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coffer_protocol::Digest;
use tokio::sync::watch;

use super::trash::Trash;
use crate::gate::{Blob, Identity};

/// Digest of the archive, and of what says what is in it.
type Key = (Digest, Identity);

/// The table of unpacked layers.
#[derive(Debug, Clone)]
pub(super) struct UnpackedLayers {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    directory: PathBuf,
    trash: Trash,
    next: u64,
    layers: BTreeMap<Key, Entry>,
}

#[derive(Debug)]
enum Entry {
    /// The sender goes when it has arrived, or failed.
    Arriving(watch::Receiver<()>),
    There {
        path: PathBuf,
        users: usize,
    },
}

/// One user's hold on an unpacked layer; the last one to be dropped throws it away.
#[derive(Debug)]
pub(super) struct UnpackedLayer {
    key: Key,
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

/// What somebody with a layer's archive is to do.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nothing: it is there.
    There(UnpackedLayer),
    /// Unpack it here.
    Mine(Room),
}

/// An empty directory for a layer. Dropped before it is full, it is thrown away.
#[derive(Debug)]
pub(super) struct Room {
    key: Key,
    path: PathBuf,
    state: Arc<Mutex<State>>,
    full: bool,
    /// Gone with this: who waits looks again.
    _ended: watch::Sender<()>,
}

impl UnpackedLayers {
    /// Layers will be unpacked below `directory`, whose path should be short: all of a container's layers must be named
    /// within one page of mount options.
    pub(super) fn below(directory: &Path, trash: Trash) -> Self {
        let state = State { directory: directory.to_owned(), trash, next: 0, layers: BTreeMap::new() };
        UnpackedLayers { state: Arc::new(Mutex::new(state)) }
    }

    /// A layer that is there already.
    pub(super) fn held(&self, blob: &Blob) -> Option<UnpackedLayer> {
        hold(&self.state, &mut lock(&self.state), &key(blob))
    }

    /// Says what is to be done with a layer's archive; waits while somebody else unpacks the same.
    pub(super) async fn turn(&self, blob: &Blob) -> io::Result<Turn> {
        loop {
            let mut arriving = match self.look(key(blob)) {
                Ok(turn) => return turn,
                Err(arriving) => arriving,
            };
            // It never says anything but that it is gone.
            let _ = arriving.changed().await;
        }
    }

    fn look(&self, key: Key) -> Result<io::Result<Turn>, watch::Receiver<()>> {
        let mut state = lock(&self.state);
        if let Some(layer) = hold(&self.state, &mut state, &key) {
            return Ok(Ok(Turn::There(layer)));
        }
        if let Some(Entry::Arriving(arriving)) = state.layers.get(&key) {
            return Err(arriving.clone());
        }
        let path = state.directory.join(state.next.to_string());
        state.next += 1;
        if let Err(error) = make(&path) {
            return Ok(Err(error));
        }
        let (ended, arriving) = watch::channel(());
        state.layers.insert(key.clone(), Entry::Arriving(arriving));
        Ok(Ok(Turn::Mine(Room { key, path, state: self.state.clone(), full: false, _ended: ended })))
    }

    /// Where layers are.
    pub(super) fn directory(&self) -> PathBuf {
        lock(&self.state).directory.clone()
    }
}

/// One that is there already holds what nobody checked: the scratch disk was not fresh.
fn make(path: &Path) -> io::Result<()> {
    if let Some(place) = path.parent() {
        fs::create_dir_all(place)?;
    }
    DirBuilder::new().mode(0o755).create(path)
}

fn key(blob: &Blob) -> Key {
    (*blob.digest(), blob.identity())
}

fn hold(shared: &Arc<Mutex<State>>, state: &mut State, key: &Key) -> Option<UnpackedLayer> {
    let Some(Entry::There { path, users }) = state.layers.get_mut(key) else { return None };
    *users += 1;
    Some(UnpackedLayer { key: key.clone(), path: path.clone(), state: shared.clone() })
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Room {
    /// Where to unpack.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it was found to be the layer.
    pub(super) fn filled(mut self) -> UnpackedLayer {
        self.full = true;
        let entry = Entry::There { path: self.path.clone(), users: 1 };
        lock(&self.state).layers.insert(self.key.clone(), entry);
        UnpackedLayer { key: self.key.clone(), path: self.path.clone(), state: self.state.clone() }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if !self.full {
            let mut state = lock(&self.state);
            state.layers.remove(&self.key);
            state.trash.throw_away(&self.path);
        }
    }
}

impl UnpackedLayer {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Clone for UnpackedLayer {
    fn clone(&self) -> Self {
        let mut state = lock(&self.state);
        if let Some(Entry::There { users, .. }) = state.layers.get_mut(&self.key) {
            *users += 1;
        }
        UnpackedLayer { key: self.key.clone(), path: self.path.clone(), state: self.state.clone() }
    }
}

impl Drop for UnpackedLayer {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        let Some(Entry::There { users, .. }) = state.layers.get_mut(&self.key) else { return };
        *users -= 1;
        if *users == 0 {
            state.layers.remove(&self.key);
            state.trash.throw_away(&self.path);
        }
    }
}
