//! `coffer install` and `uninstall`: artefacts in a versioned directory, containerd's drop-in, RuntimeClass manifest.
//!
//! ```text
//! <prefix>/<version>-<digest>/   containerd-shim-coffer-v2 coffer-vmm coffer guest/ runtimeclass.yaml
//! <prefix>/current               symlink to one of them, swapped by rename
//! <prefix>/guest                 symlink to current/guest
//! <bin>/containerd-shim-coffer-v2, <bin>/coffer    symlinks through `current`
//! <containerd>/conf.d/coffer.toml                  containerd's drop-in
//! ```
//! A version that a running pod uses is never overwritten and never removed. containerd is never restarted from here:
//! what is left to do is printed.

mod containerd;
mod place;
mod version;

use std::path::{Path, PathBuf};

use clap::Args;

pub(crate) use containerd::DECODER;
pub(crate) use place::{install, uninstall};

/// Where things go.
#[derive(Args, Debug, Clone)]
pub(crate) struct PlaceArguments {
    /// Directory of the versioned artefacts
    #[arg(long, default_value = "/usr/lib/coffer")]
    pub(crate) prefix: PathBuf,
    /// Directory in containerd's PATH
    #[arg(long, default_value = "/usr/local/bin")]
    pub(crate) bin: PathBuf,
    /// Directory of containerd's config.toml
    #[arg(long, default_value = "/etc/containerd")]
    pub(crate) containerd: PathBuf,
}

/// What to install, and where.
#[derive(Args, Debug, Clone)]
pub(crate) struct InstallArguments {
    #[command(flatten)]
    pub(crate) place: PlaceArguments,
    /// Directory with the built binaries [default: the one this command is in]
    #[arg(long)]
    pub(crate) from: Option<PathBuf>,
    /// Directory with the guest image: manifest.json, kernel, initrd
    #[arg(long)]
    pub(crate) guest: PathBuf,
    /// containerd's major version [default: ask `containerd --version`]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) containerd_major: Option<u8>,
}

impl PlaceArguments {
    fn current(&self) -> PathBuf {
        self.prefix.join("current")
    }

    fn drop_in(&self) -> PathBuf {
        self.containerd.join("conf.d/coffer.toml")
    }

    /// This command, as everybody finds it.
    fn command(&self) -> PathBuf {
        self.bin.join(version::CLI)
    }

    /// Each symlink that is made, and what it points to.
    fn links(&self) -> Vec<(PathBuf, PathBuf)> {
        let current = self.current();
        let through = |name: &str| (self.bin.join(name), current.join(name));
        let guest = (self.prefix.join("guest"), Path::new("current").join("guest"));
        vec![guest, through(version::SHIM), through(version::CLI)]
    }
}
