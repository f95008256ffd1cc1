//! Azure's confidential machines: a paravisor (HCL) asks the processor for a report once, and a virtual TPM that it guards
//! answers challenges from then on.
//!
//! ```text
//! challenge ── in ── TPM quote ── signed by ── attestation key ── named in ── variable data ── hashed into ── SNP report, TDX quote
//!                       └── digest of the PCRs
//! ```
//! All of this is the paravisor's word, and the guest's owner runs below it: whoever launches a guest without one can write
//! every part of it, a virtual TPM included. So the launch digest, or the key that vouches for it, must be the paravisor's.
//!
//! So the challenge is in the quote and not in the report, and a verdict needs every link. The key must come from the
//! variable data that the report covers: one that the evidence brings in another way proves nothing.
//!
//! Never here: network, clocks, files.

mod appraise;
mod evidence;
mod hcl;
mod paravisor;
mod quote;
mod tdx;
mod vtpm;

pub use appraise::{SnpEvidence, appraise_snp};
pub use evidence::{EvidenceError, MAX_JSON_BYTES, parse_snp};
pub use hcl::{HardwareReport, HclError, HclReport, RuntimeData, RuntimeDataError};
pub use quote::{PCR_COUNT, Quote, QuoteError, TpmQuote};
pub use tdx::{TdxEvidence, appraise_tdx, parse_tdx};
pub use vtpm::VtpmExpectations;
