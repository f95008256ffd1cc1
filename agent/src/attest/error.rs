//! Why there are no secrets.

use std::io;
use std::path::PathBuf;

use coffer_attestation::handshake::{InitDataError, OpenError, SealedSecretError};

/// Why there are no secrets.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttestError {
    /// A secure processor that nobody here knows.
    #[error("the secure processor {found:?} is not known: sim, snp and tdx are")]
    Tee {
        /// As the host names it.
        found: String,
    },
    /// No report.
    #[error("the secure processor does not answer")]
    Processor {
        /// The kernel's answer.
        source: io::Error,
    },
    /// A report that is none.
    #[error("what the secure processor answered is no evidence: {reason}")]
    Evidence {
        /// What is wrong.
        reason: String,
    },
    /// Initdata that cannot be read.
    #[error("the initdata cannot be used")]
    InitData(#[source] InitDataError),
    /// Initdata that nobody vouches for.
    #[error(
        "the host gave other initdata than the processor vouches for: digest {found}, its report says {expected}"
    )]
    InitDataDiffers {
        /// Digest in the report.
        expected: String,
        /// Digest of what was given.
        found: String,
    },
    /// A file of the initdata.
    #[error("{file} of the initdata cannot be used: {reason}")]
    Wishes {
        /// The file.
        file: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Nobody answered, or not now.
    #[error("the verifier {verifier} cannot be reached: {reason}")]
    Unreachable {
        /// Its name.
        verifier: String,
        /// Why.
        reason: String,
    },
    /// An answer outside of the protocol.
    #[error("the verifier answered {what} with what is not of the protocol: {reason}")]
    Protocol {
        /// Which request.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The verifier said no.
    #[error("the verifier refuses {what} ({status}): {reason}")]
    Refused {
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
        /// In its own words.
        reason: String,
    },
    /// What was sealed for another key.
    #[error("the secret {resource} cannot be opened")]
    Open {
        /// Which.
        resource: String,
        /// Why.
        source: OpenError,
    },
    /// A string in the environment.
    #[error("the environment variable {variable} cannot be unsealed")]
    Sealed {
        /// Its name.
        variable: String,
        /// Why.
        source: SealedSecretError,
    },
    /// The guest's own files.
    #[error("cannot keep a secret at {path}")]
    File {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}
