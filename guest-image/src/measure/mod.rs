//! The launch digest of a confidential machine, computed before it starts.
//!
//! ```text
//! firmware ── pages ────────────────┐
//!    └─ its own table of sections ──┤
//! kernel, initrd, command line ─ hashes in a page ─┤── LaunchDigest ── 48 bytes, MEASUREMENT of the report
//! one VMSA page per vCPU ───────────┘
//! ```
//! Follows AMD's SNP ABI (publication 56860, SNP_LAUNCH_UPDATE), the tables that OVMF carries at its end, and the state in
//! which QEMU with KVM starts a vCPU. Another monitor starts vCPUs otherwise and needs other VMSA pages.
//!
//! Never here: anything that runs a guest, and the question whether a digest is a wanted one.

mod firmware;
mod hashes;
mod launch;
mod sim;
mod snp;
mod vcpu;
mod vmsa;

pub use firmware::{Firmware, FirmwareError, Section, SectionKind};
pub(crate) use firmware::{guid, table_entry};
pub use hashes::DirectBoot;
pub use launch::{DIGEST_BYTES, LaunchDigest, PAGE_BYTES};
pub use sim::simulated_launch_digest;
pub use snp::{MeasureError, SnpMachine, snp_launch_digest};
pub use vcpu::{UnknownVcpu, VcpuSignature};
pub use vmsa::Vmsa;
