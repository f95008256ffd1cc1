//! The verifier: challenges guests, judges what they answer, and keeps what only judged guests may have.
//!
//! ```text
//! challenge  nonces that any replica can check and that are good once
//! collateral what makers of processors publish, kept and fetched
//! appraisal  what evidence is worth, and whether it is that of a guest that its owner knows
//! authority  certificates of the verifier's own for its TLS, components and operators
//! policy     what operators ask for beyond that
//! secrets    what such guests may have, encrypted at rest
//! hsm        keys that never leave a security module
//! database   where all of it is kept: a file, or a PostgreSQL that several replicas share
//! operators  who may change any of it
//! exchange   what each message is answered with
//! serve      the same on the network, over TLS
//! source     which client something comes from
//! traces     how long requests took, for a collector
//! upkeep     what is done on the verifier's own host, while it serves or not
//! audit      what was decided, in a log whose every byte is vouched for
//! curves     fast arithmetic for signatures
//! chain      an error and its causes in a line
//! durable    files that are there whole or not at all
//! ```
//! Evidence, messages, sealing and tokens are in `coffer-attestation`, which guests use too; here is what only the service
//! needs. Time is always given by the caller.
#![forbid(unsafe_code)]

pub mod appraisal;
pub mod audit;
pub mod authority;
mod chain;
pub mod challenge;
pub mod collateral;
pub mod curves;
pub mod database;
mod durable;
pub mod exchange;
pub mod hsm;
pub mod operators;
pub mod policy;
pub mod secrets;
pub mod serve;
pub mod source;
pub mod traces;
pub mod upkeep;
