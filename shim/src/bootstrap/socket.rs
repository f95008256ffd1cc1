//! The socket on which a shim answers containerd: its address, and how a dead one is told from a living one.
//!
//! The address is a hash of containerd's address, the namespace and the pod's id, so every `start` of a pod's
//! containers computes the same one and nothing has to be stored to find the pod's shim.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Where sockets are when containerd does not ask for another place.
const DEFAULT_DIR: &str = "/run/containerd/s";

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    /// The directory or the socket could not be made.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// What [`listen`] found.
#[derive(Debug)]
pub(super) enum Listening {
    /// A new socket.
    New(UnixListener),
    /// A living shim has it already.
    Taken,
}

/// The socket's path for a pod.
pub(super) fn path(dir: Option<&Path>, containerd: &str, namespace: &str, pod: &str) -> PathBuf {
    let mut name = String::with_capacity(64);
    for byte in Sha256::digest(format!("{containerd}\0{namespace}\0{pod}")) {
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    dir.unwrap_or(Path::new(DEFAULT_DIR)).join(name)
}

/// The path in the form that containerd dials.
pub(super) fn address(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// The path in an address of ours.
pub(super) fn path_of(address: &str) -> Option<PathBuf> {
    address.strip_prefix("unix://").map(PathBuf::from)
}

/// Whether somebody listens.
pub(super) fn answers(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Listens at `path`; a socket file that nobody serves any more is replaced.
pub(super) fn listen(path: &Path) -> Result<Listening, SocketError> {
    if let Some(dir) = path.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(dir);
        made.map_err(|source| SocketError::Io { action: "make directory", path: dir.to_owned(), source })?;
    }
    match UnixListener::bind(path) {
        Err(err) if err.kind() == io::ErrorKind::AddrInUse => {
            if answers(path) {
                return Ok(Listening::Taken);
            }
            fs::remove_file(path).map_err(|source| io_error("remove the dead socket", path, source))?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
    .map_err(|source| io_error("listen on", path, source))
    .and_then(|listener| {
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(path, private).map_err(|source| io_error("restrict", path, source))?;
        Ok(Listening::New(listener))
    })
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> SocketError {
    SocketError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(listen(&path), Ok(Listening::New(_))));
    }

    #[test]
    fn a_living_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _alive = UnixListener::bind(&path).unwrap();
        assert!(matches!(listen(&path), Ok(Listening::Taken)));
    }

    #[test]
    fn two_pods_have_two_sockets() {
        assert_ne!(path(None, "a", "n", "p"), path(None, "a", "n", "q"));
    }

    #[test]
    fn a_separator_keeps_shifted_names_apart() {
        assert_ne!(path(None, "a", "bc", "d"), path(None, "a", "b", "cd"));
    }
}
