//! Guest kernels: our own slim one, built from Debian's kernel source, and Debian's packaged cloud kernel.
//!
//! ```text
//! slim    apt (linux-source) ── config (allnoconfig + fragment, checked) ── make ── elf (repacked vmlinux), bzImage
//! debian  apt (linux-image-cloud) ── modules (what to load, in order) ── vmlinuz, *.ko
//!         both kept in cache/<hash of all inputs>, built once per machine
//! ```
//! Never here: the initrd and the manifest.

mod apt;
mod cache;
mod config;
mod debian;
mod elf;
mod error;
mod make;
mod modules;
mod slim;

pub use cache::Cache;
pub use elf::ElfError;
pub use error::KernelError;

use std::path::PathBuf;

use crate::manifest::{FileName, KernelFacts};

/// A kernel that is ready to become part of an image.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Where it comes from.
    pub facts: KernelFacts,
    /// Which of its files is booted.
    pub boots: FileName,
    /// Its files: name in the image, and where it is now.
    pub files: Vec<(FileName, PathBuf)>,
    /// Modules in the order in which they have to be loaded.
    pub modules: Vec<PathBuf>,
    /// Its command line.
    pub cmdline: &'static str,
    /// See [`Boot::needs_acpi`](crate::manifest::Boot::needs_acpi).
    pub needs_acpi: bool,
}
