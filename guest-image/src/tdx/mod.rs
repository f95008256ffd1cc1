//! What a trust domain of Intel's will report of its start, computed before it starts.
//!
//! ```text
//! firmware ── its own table of sections ── pages in order ───────────────── MRTD
//!    ├─ variables ──────────────────────┐
//! memory ── list of its ranges ─────────┴─ first two events of ──────────── RTMR0   (the others: a recorded log)
//! kernel ── its Authenticode digest, then what firmware says of a start ─── RTMR1
//! command line, initrd ── as Linux measures them before it starts ───────── RTMR2
//! ```
//! Follows Intel's TDX module specification (TDH.MEM.PAGE.ADD, TDH.MR.EXTEND), its TDX Virtual Firmware Design Guide, and
//! what QEMU 10.1 with KVM and OVMF do: pages one by one, each with its content, and the kernel's file as it was given.
//!
//! Never here: a value that depends on something that was not given, anything that runs a guest, and the question whether a
//! value is a wanted one.

mod hob;
mod kernel;
mod mrtd;
mod registers;
mod tdvf;

pub use hob::{HobError, td_hob_digest};
pub use kernel::{EfiKernel, KernelError};
pub use mrtd::mrtd;
pub use registers::{
    BootError, CALLING, EXITED, EXITING, EfiBoot, OldFirmware, Register, Release, SEPARATOR,
};
pub use tdvf::{Tdvf, TdvfError, TdvfKind, TdvfSection};
