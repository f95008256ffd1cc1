//! What whoever runs the verifier does on its host: `coffer-verifier --config FILE collateral import …`.
//!
//! Never here: what operators do from elsewhere, by their role.

mod collateral;
mod issue;
mod order;

pub use order::{Order, run};
