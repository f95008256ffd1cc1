//! Makes a container's root file system of read-only disks and the pod's scratch space.
//!
//! ```text
//! serial ── disks (sysfs, uevents) → device ── layers (mounted once, counted) ─┐
//!                                              scratch/<id>/{upper,work} ──────┴─ overlay → <id>/rootfs
//! ```
//!
//! It never writes to a layer, and never finds a disk by its name: names depend on the order of probing.

mod disks;
mod layers;
mod overlay;
mod trash;
mod uevents;

pub(crate) use disks::{DiskError, find_disk};
pub(crate) use layers::LayerSource;
pub(crate) use overlay::{ImageError, Images, Rootfs};
