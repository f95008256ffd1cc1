//! AMD SEV-SNP attestation reports.
//!
//! Never here: network, clocks, files.

mod report;

pub use report::{Generation, Policy, REPORT_BYTES, ReportError, SigningKey, Tcb, UnverifiedReport};
