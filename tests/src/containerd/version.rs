//! The versions of containerd that Coffer works with, and the runtimes that a test can ask for.

use std::path::PathBuf;

use anyhow::Result;

use crate::packages::{Unpacked, unpacked};

/// A line of containerd's releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 1.6, in Debian 12.
    V1_6,
    /// 1.7, in Debian 13.
    V1_7,
    /// 2.1 or later, in Debian's rolling release.
    V2,
}

/// What runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Coffer: the runtime under test.
    Coffer,
    /// runc: tells what the right answer is, and that a test can pass at all.
    Runc,
    /// gVisor: only measured beside the others.
    Runsc,
}

/// Directories of programs, unpacked from Debian's packages.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `containerd`, `ctr`, and runc's shim.
    pub containerd: PathBuf,
    /// `runc`.
    pub runc: PathBuf,
    /// The CNI plugins.
    pub cni: PathBuf,
}

impl Version {
    /// Fetches what this version needs, unless it is there.
    pub fn programs(self) -> Result<Programs> {
        let containerd = match self {
            Self::V1_6 => Unpacked::Containerd16,
            Self::V1_7 => Unpacked::Containerd17,
            Self::V2 => Unpacked::Containerd2,
        };
        Ok(Programs {
            containerd: unpacked(containerd)?.join("usr/bin"),
            runc: unpacked(Unpacked::Runc)?.join("usr/sbin"),
            cni: unpacked(Unpacked::CniPlugins)?.join("usr/lib/cni"),
        })
    }
}

impl Runtime {
    /// The name that containerd makes the shim's file name from.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coffer => "io.containerd.coffer.v2",
            // gVisor's own shim is not in Debian; runc's starts any program that takes runc's commands.
            Self::Runc | Self::Runsc => "io.containerd.runc.v2",
        }
    }

    /// The CRI's name for it.
    pub fn handler(self) -> &'static str {
        match self {
            Self::Coffer => "coffer",
            Self::Runc => "runc",
            Self::Runsc => "runsc",
        }
    }
}
