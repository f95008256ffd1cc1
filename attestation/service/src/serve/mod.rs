//! The verifier on the network: HTTP/1.1 over TLS 1.3, and no other way in.
//!
//! ```text
//! listen ── clients: connections, rates, bytes, each client its share ── TLS, with an operator's certificate or token or without
//!   └── routes (guests), manage (operators) ── exchange
//! ```
//! Never here: decisions. A route reads, asks [`crate::exchange::Verifier`], and writes what it said.

mod answer;
mod body;
mod clients;
mod config;
mod identity;
mod listen;
mod manage;
mod provider;
mod routes;
mod sources;
mod stores;
mod tls;
mod traced;
mod turns;

pub use clients::Limits;
pub use config::{Config, ConfigError};
pub use listen::{Clock, Listening, serve};
pub use provider::{Provider, ProviderError};
pub use routes::{Door, router};
pub use sources::{Sources, SourcesError};
pub use stores::StoresError;
pub use tls::{Certificates, TlsError};
pub use traced::{Collector, traced};
