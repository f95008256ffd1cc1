//! The virtual machine: its specification, its devices, and our own monitor on `/dev/kvm`.
//!
//! The guest is hostile here: see `docs/threat-model.md`.

pub mod boot;
pub mod bus;
pub mod control;
pub mod devices;
pub mod event;
pub mod inherited;
pub mod jail;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod options;
pub mod spec;
pub mod virtio;
pub mod vsock;
