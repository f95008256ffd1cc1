//! Builds the guest image (kernel, initrd with the agent as PID 1, manifest), and lets others read and verify one.
//!
//! ```text
//! kernel/coffer.config ─┐
//! linux-source (Debian) ┴─ kernel ── vmlinux, bzImage ─┐
//! coffer-agent (static) ─── initrd ── initrd.img ──────┴─ image ── OUT/ + manifest.json ── manifest (shim, CLI)
//! ```
//! Equal inputs give equal bytes, so the digest of a guest can be known before it starts. Shim and CLI use only
//! [`manifest`]. Never here: anything that runs a guest.
#![forbid(unsafe_code)]

pub mod digest;
pub mod image;
pub mod initrd;
pub mod inspect;
pub mod kernel;
pub mod manifest;
pub mod measure;
pub mod tdx;

mod agent;
mod command;
mod progress;
