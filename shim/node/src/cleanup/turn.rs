//! One cleanup of a pod at a time.
//!
//! containerd deletes all containers of a dead shim at once, each with a process of its own, and each of these cleans
//! the whole pod; `coffer gc` may come along, too. The right to clean is an exclusive `flock` on the pod's run
//! directory, which the kernel takes back from whoever ends. Who waited finds the directory gone, or the rest of the
//! work.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Pause between two tries: `flock` cannot wait until a deadline.
const PAUSE: Duration = Duration::from_millis(5);

/// The right to clean a pod, until it is dropped.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nobody else cleans the pod.
    Ours {
        /// The locked directory.
        _dir: File,
    },
    /// There is no run directory: nobody has anything left to clean by it.
    NoDirectory,
}

/// Waits until nobody else cleans the pod with this run directory.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] at the deadline, or what the file system says.
pub(super) fn take(run_dir: &Path, deadline: Instant) -> io::Result<Turn> {
    loop {
        let dir = match File::open(run_dir) {
            Ok(dir) => dir,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Turn::NoDirectory),
            Err(err) => return Err(err),
        };
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            // Removed, and perhaps made anew, while we waited: that lock keeps nobody away.
            Ok(()) if !is_at(&dir, run_dir)? => {}
            Ok(()) => return Ok(Turn::Ours { _dir: dir }),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Err(Errno::WOULDBLOCK) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "another process cleans this pod and has not ended",
                ));
            }
            Err(err) => return Err(err.into()),
        }
    }
}

fn is_at(dir: &File, path: &Path) -> io::Result<bool> {
    let opened = dir.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (opened.dev(), opened.ino())),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}
