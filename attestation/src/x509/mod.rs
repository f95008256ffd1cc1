//! Certificates and revocation lists as makers of secure processors write them, and the signatures beneath both.
//!
//! ```text
//! bytes (DER or PEM, bounded) -> Certificate -> check_issued_by(issuer) -> check_valid_at(time) -> RevocationList
//! ```
//! A parsed certificate is a claim. Each check is its own call with its own error, so that a verdict can name it; chains
//! are put together by the evidence's own module, which knows its roots.
//!
//! Never here: a clock, a list of trusted roots, a private key.

mod certificate;
mod edition;
mod issued;
mod key;
mod revocation;
pub(crate) mod rsa;

pub use certificate::{
    Certificate, CertificateError, IssueError, MAX_BUNDLE, MAX_CERTIFICATE_BYTES, ValidityError,
};
pub use edition::Edition;
pub use key::{Algorithm, KeyError, PublicKey, SignatureError};
pub use revocation::{MAX_LIST_BYTES, RevocationError, RevocationList};
