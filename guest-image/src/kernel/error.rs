//! Why there is no kernel.

use std::io;
use std::path::{Path, PathBuf};

use super::elf::ElfError;
use crate::command::CommandError;

/// Why there is no kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A program that was needed failed.
    #[error("cannot {doing}")]
    Command {
        /// What it was needed for.
        doing: String,
        /// How it failed.
        source: CommandError,
    },
    /// A file or directory could not be read or written.
    #[error("cannot use {path}; COFFER_CACHE names another directory for the cache")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No package source of this machine has the package.
    #[error(
        "apt knows no package {package}; add a Debian suite that has it, or give the image another kernel"
    )]
    NoPackage {
        /// The package.
        package: String,
    },
    /// A package does not hold what it should.
    #[error("package {package} holds no {file}")]
    NotInPackage {
        /// The package.
        package: String,
        /// What was looked for.
        file: String,
    },
    /// The kernel's rules do not let vital lines of the configuration stand.
    #[error("kernel {package} refuses options that a pod cannot do without: {options}")]
    OptionsLost {
        /// Package of the kernel's source.
        package: String,
        /// The options, and what became of them.
        options: String,
    },
    /// The linked kernel is not what a hypervisor loads.
    #[error("the kernel was built, but cannot be packed")]
    Elf {
        /// Why.
        source: ElfError,
    },
    /// A cache entry was not written by this program.
    #[error("{path} is damaged; remove it and build anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_json::Error,
    },
}

/// Makes the error of a file operation on `path`.
pub(super) fn file(path: &Path) -> impl FnOnce(io::Error) -> KernelError + use<> {
    let path = path.to_owned();
    move |source| KernelError::File { path, source }
}

/// Makes the error of a program that was needed for `doing`.
pub(super) fn command(doing: &str) -> impl FnOnce(CommandError) -> KernelError + use<> {
    let doing = doing.to_owned();
    move |source| KernelError::Command { doing, source }
}
