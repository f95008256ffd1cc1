//! The verifier's own authority: certificates for its TLS, for components and for operators, each good for hours.
//!
//! ```text
//! directory ── key (mode 0600, made once) ── Authority ── issue ── Issued { certificate, key, until }
//!                                                          └── the service's own: anew after two thirds of its time
//! ```
//! Whoever believes this authority's certificate believes the verifier; operators' certificates say who somebody is, and the
//! configuration says what that one may do.
//!
//! Never here: roles, sockets, a clock.

mod issue;
mod keep;

pub use issue::{Issued, Subject};
pub use keep::{Authority, AuthorityError};
