//! The types of `manifest.json`. Every key is known and required; a key that is not known here is refused.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Name of the manifest in an image's directory.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The format this program writes and reads.
pub const FORMAT: u32 = 1;

/// What a guest image consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// What a hypervisor loads.
    pub boot: Boot,
    /// Every file of the image but this one.
    pub files: BTreeMap<FileName, FileFacts>,
    /// Where the kernel comes from.
    pub kernel: KernelFacts,
    /// The agent inside the initrd.
    pub agent: AgentFacts,
}

/// What a hypervisor loads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The kernel to boot, one of the image's files: an ELF with a PVH note, or a bzImage.
    pub kernel: FileName,
    /// The initrd, one of the image's files.
    pub initrd: FileName,
    /// The kernel's command line, before the machine's own devices are added to it.
    pub cmdline: String,
    /// Whether this kernel finds devices only through ACPI (and PCI), and so needs a machine that has it: it does not
    /// read `virtio_mmio.device=` from its command line.
    pub needs_acpi: bool,
}

/// Size and digest of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFacts {
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub digest: Digest,
}

/// Where the kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelFacts {
    /// Which of the two ways it was made.
    pub kind: KernelKind,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The Debian package it was made from, `name=version`.
    pub package: String,
    /// Digest of the kernel's full configuration.
    pub config: Digest,
}

/// How a kernel was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KernelKind {
    /// Built from Debian's kernel source with Coffer's own configuration.
    Slim,
    /// Debian's own cloud kernel, with its modules in the initrd.
    Debian,
}

/// The agent inside the initrd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentFacts {
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the binary.
    pub digest: Digest,
}

impl FileFacts {
    /// The facts of a file that holds `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { size: bytes.len() as u64, digest: Digest::of(bytes) }
    }
}

impl AgentFacts {
    /// The facts of the agent `binary`.
    pub fn of(binary: &[u8]) -> Self {
        Self { size: binary.len() as u64, digest: Digest::of(binary) }
    }
}

/// The plain name of a file in the image's directory: it leads nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileName(Cow<'static, str>);

/// A string that is not a plain file name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no plain file name: expected 1 to 64 of A-Z a-z 0-9 . - _, and no dot in front")]
pub struct NotAFileName(String);

impl FileName {
    /// A name that this program gives.
    pub(crate) const fn ours(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FileName {
    type Error = NotAFileName;

    fn try_from(name: String) -> Result<Self, NotAFileName> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if (1..=64).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain) {
            Ok(Self(name.into()))
        } else {
            Err(NotAFileName(name))
        }
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> String {
        name.0.into_owned()
    }
}

impl Borrow<str> for FileName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for KernelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slim => "slim",
            Self::Debian => "debian",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_that_leads_elsewhere_is_refused() {
        assert!(FileName::try_from("../vmlinux".to_owned()).is_err());
        assert!(FileName::try_from("/vmlinux".to_owned()).is_err());
        assert!(FileName::try_from("..".to_owned()).is_err());
        assert!(FileName::try_from(String::new()).is_err());
        assert!(FileName::try_from("vmlinux".to_owned()).is_ok());
    }
}
