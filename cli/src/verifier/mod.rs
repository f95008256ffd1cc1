//! What an operator asks of a verifier, with a certificate that says who it is; and checking its audit log without asking it.
//!
//! ```text
//! secret     put, list, delete                      policy     put, get, delete, test
//! reference  make, sign, signer, put, list, delete  revoke, revoked
//! audit      query, prove, checkpoint               audit verify: a file, offline
//! ```
//! Never here: what is allowed. The verifier decides that, and says no in words that are printed as they are.

mod audit;
mod connection;
mod made;
mod orders;

pub(crate) use audit::AuditCommand;
pub(crate) use connection::escaped;
pub(crate) use orders::{PolicyCommand, ReferenceCommand, RevokeArguments, SecretCommand};
