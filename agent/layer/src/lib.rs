//! A layer's bytes, on their way from what somebody signed to what is checked on every read.
//!
//! ```text
//! blob ── unpack ── digest, diff id, limits ──► a directory for overlayfs
//! file ── verity ── a tree of hashes behind its data ──► the root that is signed
//! encrypted blob ── encrypted ── authenticated, then decrypted ──► what `unpack` takes
//! disk ── erofs ── whether a kernel may be asked to mount it
//! annotation of a manifest ── sealed ──► each file's size, salt and root
//! ```
//! Blocking, for guests and for the command line. Never here: mounting, devices, signatures, networks.
#![forbid(unsafe_code)]

pub mod encrypted;
pub mod erofs;
pub mod sealed;
pub mod unpack;
pub mod verity;
