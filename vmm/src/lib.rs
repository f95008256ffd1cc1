//! The virtual machine: its specification, its devices and, later, our own monitor on `/dev/kvm`.
//!
//! The guest is hostile here: see `docs/threat-model.md`.

pub mod inherited;
pub mod jail;
pub mod spec;
pub mod vsock;
