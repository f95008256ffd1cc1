//! Who may administer the verifier: operators, known by the certificate that they connect with or by a token of their identity
//! provider, and what their roles allow.
//!
//! ```text
//! certificate's common name ──┐
//! token's groups ── Oidc ─────┴── Who ── Directory ── role and tenants ── verb × kind × tenant ── Permit
//! ```
//! Only [`Directory::permit`] makes a [`Permit`], and what changes something takes one. There is no token of ours that stands
//! for an operator, and nobody may read a secret: there is no call for it.
//!
//! Never here: certificates. TLS has checked them before a name comes here.

mod directory;
mod oidc;
mod role;
mod who;

pub use directory::{Directory, DirectoryError, NotPermitted, Operator, Permit};
pub use oidc::{MAX_KEY_SET, Oidc, OidcError};
pub use role::{CustomRole, Kind, Role, Rule, Verb};
pub use who::Who;
