//! The verifier on the network: HTTP/1.1 over TLS 1.3, and no other way in.
//!
//! ```text
//! listen  connections counted, TLS and headers given a time limit ── routes  bodies bounded, rates held ── exchange
//! ```
//! Never here: decisions. A route reads, asks [`crate::exchange::Verifier`], and writes what it said.

mod config;
mod listen;
mod routes;
mod tls;

pub use config::{Config, ConfigError};
pub use listen::serve;
pub use routes::{Door, Limits, router};
pub use tls::{Certificates, TlsError};
