//! Secrets at rest: a database of which nothing can be read without a key that is not in it.
//!
//! ```text
//! KEK (32 bytes in a file, or a key in a token) ── wraps ── data key of each tenant ── encrypts ── secret, version by version
//! AES-256-GCM everywhere; what is authenticated with it: tenant, path, version and expiry
//! ```
//! So a ciphertext that is moved to another place of the database does not open. Replacing the KEK wraps the data keys
//! anew and touches no secret. Who wraps is a [`KeyService`]; what it wraps begins with the name of its key.
//!
//! Never here: policy. Whoever calls has decided that the secret may be had.

mod documents;
mod envelope;
mod keys;
mod path;
mod revoked;
mod store;

pub use documents::Document;
pub use envelope::{DataKey, KeyEncryptionKey, KeyId, Secret};
pub use keys::{KeyError, KeyService, TokenKek};
pub use path::{PathError, ResourcePath};
pub(crate) use revoked::canonical_serial;
pub use revoked::{Revocation, Revoked};
pub use store::{Found, Kept, Keys, MAX_SECRET_BYTES, SecretStore, StoreError};
