//! Makes a container's root file system of read-only disks and the pod's scratch space.
//!
//! ```text
//! gate's Permit ┬ serial ── disks (sysfs, uevents) → device ── verity, if sealed ── layers (mounted once, counted) ─┐
//!               └ digest ── delivery: archives as they come ── unpacked (once, counted, in scratch/u/<n>) ──────────┤
//!                                              scratch/<id>/{upper,work} ──────────────────────────────────────────┴─ overlay
//! ```
//!
//! It never writes to a layer once it is there, and never finds a disk by its name: names depend on the order of probing.

mod delivery;
pub(crate) mod device_mapper;
mod disks;
mod layers;
mod overlay;
mod trash;
mod uevents;
mod unpacked;
mod verity;

pub(crate) use delivery::{Delivery, DeliveryError, Unpacking};
pub(crate) use disks::{DiskError, find_disk};
pub(crate) use layers::LayerSource;
pub(crate) use overlay::{ImageError, Images, Permit, Rootfs};
pub(crate) use verity::VerityError;
