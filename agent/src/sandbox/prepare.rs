//! Prepares the guest for its pod.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::unistd::sethostname;

use super::sysctls::{self, SysctlError};
use super::{RUN, SCRATCH, SHM};
use crate::attest::{AttestError, Launched};
use crate::gate::{GateError, NodePolicy};
use crate::image::{DiskError, find_disk};
use crate::network::{self, NetworkError};
use crate::scratch::{self, EncryptedError};

/// What Docker and containerd give a container without a size of its own.
const DEFAULT_SHM: u64 = 64 << 20;

/// The disk has no blocks but those that were written, so nothing is read ahead of that, and none is given back. What the host
/// spoils of the file system's own blocks ends all writing.
const ENCRYPTED_OPTIONS: &str =
    "noinit_itable,nobarrier,inode_readahead_blks=0,no_prefetch_block_bitmaps,errors=remount-ro";

/// What a pod's guest shall be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) hostname: String,
    pub(crate) network: network::Plan,
    pub(crate) sysctls: Vec<(String, String)>,
    /// 0: 64 MiB.
    pub(crate) shm_bytes: u64,
    pub(crate) scratch: Space,
    /// What the host says of the secure processor, if there is one.
    pub(crate) launched: Option<Launched>,
    /// The node's, where there is no secure processor.
    pub(crate) image_policy: Option<NodePolicy>,
}

/// What holds the writable parts of root file systems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Space {
    /// A disk with an ext4 file system, found by its serial.
    Disk(String),
    /// A disk of which an encrypted one is made, found by its serial.
    Encrypted(String),
    /// The guest's memory, at most so many bytes; 0 is half of it.
    Memory(u64),
}

/// Why the guest could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The kernel refused the name.
    #[error("host name {hostname:?} refused")]
    Hostname {
        /// The name.
        hostname: String,
        /// The kernel's answer.
        source: nix::Error,
    },
    /// A mount point could not be made.
    #[error("making {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A tmpfs could not be mounted.
    #[error("mounting a tmpfs of {bytes} bytes on {path}")]
    Memory {
        /// Where.
        path: PathBuf,
        /// Its limit; 0 is half of the guest's memory.
        bytes: u64,
        /// The kernel's answer.
        source: nix::Error,
    },
    /// The scratch disk is not there.
    #[error("scratch disk")]
    NoScratch {
        /// Why.
        source: DiskError,
    },
    /// The scratch disk could not be mounted.
    #[error("mounting scratch disk {device}; does it hold an ext4 file system?")]
    Scratch {
        /// Its node.
        device: PathBuf,
        /// The kernel's answer.
        source: nix::Error,
    },
    /// No encrypted disk could be made of the scratch disk.
    #[error("encrypted scratch")]
    Encrypted {
        /// Why.
        source: EncryptedError,
    },
    /// The network is not as it should be.
    #[error("network")]
    Network {
        /// Why.
        source: NetworkError,
    },
    /// No secrets for the pod.
    #[error("attestation")]
    Attestation {
        /// Why.
        source: AttestError,
    },
    /// The host leaves out what decides about everything else.
    #[error("the guest has a secure processor ({device}), and the host says nothing of it")]
    Unsaid {
        /// Its device.
        device: &'static str,
    },
    /// The host says that the guest has another processor than it has.
    #[error("the guest has a secure processor ({device}), and the host names {found:?} instead")]
    Misnamed {
        /// Its device.
        device: &'static str,
        /// As the host names it.
        found: String,
    },
    /// Images could not be judged.
    #[error("image policy")]
    ImagePolicy {
        /// Why.
        source: Box<GateError>,
    },
    /// A kernel setting was not made.
    #[error(transparent)]
    Sysctl(SysctlError),
}

/// Makes the guest what `settings` say.
pub(crate) async fn prepare(settings: &Settings) -> Result<(), SandboxError> {
    if !settings.hostname.is_empty() {
        sethostname(&settings.hostname)
            .map_err(|source| SandboxError::Hostname { hostname: settings.hostname.clone(), source })?;
    }
    make_dir(Path::new(RUN))?;
    let shm_bytes = if settings.shm_bytes == 0 { DEFAULT_SHM } else { settings.shm_bytes };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_memory(Path::new(SHM), "mode=1777", shm_bytes, flags)?;
    mount_scratch(&settings.scratch).await?;
    network::apply(&settings.network).map_err(|source| SandboxError::Network { source })?;
    // After the network, because a setting may be an interface's.
    settings
        .sysctls
        .iter()
        .try_for_each(|(key, value)| sysctls::set(key, value))
        .map_err(SandboxError::Sysctl)
}

async fn mount_scratch(space: &Space) -> Result<(), SandboxError> {
    let target = Path::new(SCRATCH);
    let find = async |serial| {
        make_dir(target)?;
        find_disk(serial).await.map_err(|source| SandboxError::NoScratch { source })
    };
    // What is on it dies with the pod: no write barriers, no lazy initialization in the background, and blocks that
    // become free are given back to the host.
    match space {
        Space::Memory(bytes) => mount_memory(target, "mode=0755", *bytes, MsFlags::empty()),
        Space::Disk(serial) => mount_disk(find(serial).await?, "noinit_itable,discard,nobarrier"),
        Space::Encrypted(serial) => {
            let made = scratch::make(find(serial).await?).await;
            mount_disk(made.map_err(|source| SandboxError::Encrypted { source })?, ENCRYPTED_OPTIONS)
        }
    }
}

fn mount_disk(device: PathBuf, options: &str) -> Result<(), SandboxError> {
    mount(Some(&device), Path::new(SCRATCH), Some("ext4"), MsFlags::MS_NOATIME, Some(options))
        .map_err(|source| SandboxError::Scratch { device, source })
}

fn mount_memory(path: &Path, options: &str, bytes: u64, flags: MsFlags) -> Result<(), SandboxError> {
    make_dir(path)?;
    let options = if bytes == 0 { options.to_owned() } else { format!("{options},size={bytes}") };
    mount(Some("coffer"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|source| SandboxError::Memory { path: path.to_owned(), bytes, source })
}

fn make_dir(path: &Path) -> Result<(), SandboxError> {
    fs::create_dir_all(path).map_err(|source| SandboxError::Directory { path: path.to_owned(), source })
}
