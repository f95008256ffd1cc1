//! Orders, and what each does.

use clap::Subcommand;

use super::collateral::{self, CollateralOrder};
use super::issue::{self, IssueOrder};
use crate::hsm::{KeyAddress, make_key};
use crate::serve::Config;

/// What can be done beside serving.
#[derive(Debug, Subcommand)]
pub enum Order {
    /// Certificates, revocation lists and statements of makers of processors, which are kept for evidence that brings none
    #[command(subcommand)]
    Collateral(CollateralOrder),
    /// Print the certificate of the verifier's own authority
    Authority,
    /// Have the verifier's own authority sign a certificate for an operator or a component
    Issue(IssueOrder),
    /// Make a key in a token that the token never gives out, to wrap the tenants' keys with
    MakeKey {
        /// pkcs11:token=…;object=…?module-path=…&pin-source=…
        address: KeyAddress,
    },
}

/// Does it.
///
/// # Errors
/// What could not be done, with its cause.
pub fn run(order: &Order, config: &Config) -> anyhow::Result<()> {
    match order {
        Order::Collateral(order) => collateral::run(order, config),
        Order::Authority => issue::authority(config),
        Order::Issue(order) => issue::run(order, config),
        Order::MakeKey { address } => Ok(make_key(address)?),
    }
}
