//! AMD SEV-SNP: attestation reports, the keys that sign them, and what both together are worth.
//!
//! ```text
//! report ── signed by ── VCEK or VLEK ── ASK or ASVK ── ARK, pinned by digest
//!    │                        │
//!    └── chip, firmware ──────┘ must be the same
//! ```
//! [`appraise()`] makes every check and concludes. `coco` reads and writes the JSON form of Confidential
//! Containers, `table` the certificates that a host hands to a guest.
//!
//! Never here: network, clocks, files; the question whether a measurement is a wanted one.

mod appraise;
mod binding;
mod chain;
mod claims;
pub mod coco;
mod endorsement;
mod expectations;
mod flags;
mod platform;
mod report;
mod roots;
pub mod table;
mod tcb;

pub use appraise::{Evidence, appraise};
pub use endorsement::{Endorsement, EndorsementError};
pub use expectations::Expectations;
pub use flags::{PlatformInfo, Policy};
pub use report::{REPORT_BYTES, ReportBytes, ReportError, SIGNED_BYTES, SigningKey, UnverifiedReport};
pub(crate) use roots::digest;
pub use roots::{Root, TrustedRoots, amd_authorities};
pub use tcb::{FirmwareVersion, Generation, Tcb};
