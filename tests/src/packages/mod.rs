//! What Debian has and we need: some installed on the machine, most only unpacked into a cache of ours.
//!
//! ```text
//! install   what must be at its own place: QEMU with its firmware, mkfs.erofs, ip, nft
//! unpack    everything else, several versions side by side: containerd, runc, CNI plugins, busybox, runsc
//! ```
//!
//! The mirror is the one that the machine itself is configured with. Nothing here adds a source to the machine, and nothing
//! unpacked runs a maintainer script.

mod install;
mod list;
mod mirror;
mod unpack;

pub use install::install;
pub use list::{Suite, Unpacked};
pub use unpack::{cache, unpacked};
