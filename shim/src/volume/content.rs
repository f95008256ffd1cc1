//! What a volume of the pod is made of.

use std::path::PathBuf;

/// Name of the one file in a volume of a single file.
pub(crate) const SINGLE_FILE: &str = "file";

/// A volume of the pod. Two containers with the same host source get the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumePlan {
    /// Its id.
    pub(crate) id: String,
    /// What it is.
    pub(crate) content: Content,
}

/// What a volume is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// A copy of a directory of the host.
    SyncedDirectory {
        /// The directory.
        source: PathBuf,
        /// Whether later changes follow.
        live: bool,
    },
    /// A copy of one file, under the name [`SINGLE_FILE`].
    SyncedFile {
        /// The file.
        source: PathBuf,
        /// Which way later changes go.
        changes: Changes,
    },
    /// Memory of the guest.
    Tmpfs {
        /// Its limit.
        bytes: u64,
        /// What its root looks like.
        root: Root,
    },
    /// A directory on the pod's scratch.
    Scratch {
        /// What its root looks like.
        root: Root,
    },
    /// A directory or file (then under the name [`SINGLE_FILE`]) that the host serves.
    Share {
        /// The directory or file.
        source: PathBuf,
        /// Whether the host refuses writes.
        read_only: bool,
        /// Whether what is mounted below it is seen.
        recursive: bool,
    },
    /// A block device of the host.
    Disk {
        /// The device.
        device: BlockDevice,
        /// Whether the guest may only read.
        read_only: bool,
        /// What the node looks like.
        node: Root,
    },
}

/// Which way changes of a synced file go after the first copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changes {
    /// None do.
    Stay,
    /// The guest follows the host.
    ToGuest,
    /// The host gets what the guest wrote when the container has ended.
    ToHost,
}

/// A block device by its numbers on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockDevice {
    /// Major number.
    pub(crate) major: u32,
    /// Minor number.
    pub(crate) minor: u32,
}

/// Mode and owner of a volume's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Root {
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
}
