//! `manifest.json`: what a guest image consists of, and the proof that the files beside it are those files.
//!
//! ```text
//! manifest.json ── format (strict JSON) ── check (size, SHA-256 of what is booted) ── GuestImage
//!                                            └─ seen (device, inode, size, ctime of files already hashed)
//! ```
//! A [`GuestImage`] is the only way to a kernel and an initrd, and only a check makes one. Never here: building.

mod check;
mod format;
mod seen;

pub use check::{GuestImage, ManifestError};
pub use format::{
    AgentFacts, Boot, FORMAT, FileFacts, FileName, KernelFacts, KernelKind, MANIFEST_FILE, Manifest,
};
