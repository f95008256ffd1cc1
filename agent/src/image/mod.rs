//! Makes a container's root file system of read-only disks and the pod's scratch space.
//!
//! ```text
//! gate's Permit ── serial ── disks (sysfs, uevents) → device ── verity, if sealed ── layers (mounted once, counted) ─┐
//!                                              scratch/<id>/{upper,work} ───────────────────────────────────────────┴─ overlay
//! ```
//!
//! It never writes to a layer, and never finds a disk by its name: names depend on the order of probing.

mod device_mapper;
mod disks;
mod layers;
mod overlay;
mod trash;
mod uevents;
mod verity;

pub(crate) use disks::{DiskError, find_disk};
pub(crate) use layers::LayerSource;
pub(crate) use overlay::{ImageError, Images, Permit, Rootfs};
pub(crate) use verity::VerityError;
