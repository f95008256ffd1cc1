//! A registry of images (OCI distribution 1.1), as far as signatures need it: manifests, blobs, what refers to a manifest.
//!
//! ```text
//! arguments ── Registry ── repository ── manifest, blob, referrers, put
//!                 │            └─ asks for a token when the registry wants one, with the credentials of Docker's configuration
//!                 └─ one HTTP request over TLS: the system's authorities, and --ca; what opens a door goes to no other authority
//! ```
//! Whatever comes back is held against its digest and is otherwise nobody's word. Never here: what a signature is worth.

mod credentials;
mod exchange;
mod options;
mod repository;
#[cfg(test)]
mod repository_tests;

pub(crate) use exchange::{Asked, Transport};
pub(crate) use options::{Registry, RegistryArguments};
pub(crate) use repository::{Fetched, Repository};
