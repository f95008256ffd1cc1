//! Attestation: what a guest's evidence says, and what it is worth.
//!
//! ```text
//! snp      AMD SEV-SNP reports
//! audit    checking a verifier's log
//! curves   arithmetic on P-256 and P-384, built in or brought along
//! dsse     documents that somebody signed
//! azure    an SNP report behind the virtual TPM of an Azure machine
//! handshake  what guest and verifier say to each other
//! sim      a simulated processor's reports, for machines without one
//! tdx      Intel TDX quotes, Intel's collateral, event logs
//! x509     certificates and revocation lists, and the signatures beneath them
//! verdict  named checks, and the verdict that follows from them
//! ```
//! Offline and without a clock: bytes and a time go in, an [`verdict::Appraisal`] comes out. A type named `Unverified…`
//! was parsed and no more.
#![forbid(unsafe_code)]

pub mod audit;
pub mod azure;
mod base64;
mod cursor;
pub mod curves;
pub mod dsse;
pub mod handshake;
pub mod sim;
pub mod snp;
pub mod tdx;
pub mod time;
pub mod verdict;
pub mod x509;
