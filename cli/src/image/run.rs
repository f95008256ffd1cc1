//! Chooses the command.

use clap::Subcommand;
use coffer_node::config::Config;

use super::encrypt::{self, EncryptArguments};
use super::fetch::{self, FetchArguments};
use super::inspect::{self, InspectArguments};
use super::policy::{self, PolicyCommand};
use super::seal::{self, SealArguments};
use super::sign::{self, SignArguments};
use super::verify::{self, VerifyArguments};
use crate::Health;

/// What can be done with images.
#[derive(Subcommand)]
pub(crate) enum ImageCommand {
    /// Judge an image by a policy; exit code 0 if it may run, 3 if it is refused
    Verify(VerifyArguments),
    /// Sign an image with a private key, as cosign does with --key and without a transparency log; or without one, by an identity token
    /// and the services that are named. With an OpenPGP key sign by skopeo copy --sign-by, which writes where registries.d says
    /// (lookaside-staging); verify and fetch take it from there
    Sign(Box<SignArguments>),
    /// Bring what is attached to an image into the node's store of signature objects; what cannot be had is an error, and the store
    /// then keeps what it had
    Fetch(FetchArguments),
    /// Say what a directory of images holds, or a registry of one image, and what is attached to each
    Inspect(InspectArguments),
    /// Make a sealed image: one whose files are checked on every read, so that guests neither copy nor unpack it. Needs root
    Seal(SealArguments),
    /// Encrypt the layers of an image: only guests that a verifier gives the key to can read them
    Encrypt(EncryptArguments),
    /// Stand in for an encrypted layer, on a node that has no key: containerd's stream processor for such layers, which reads one
    /// from standard input
    Placeholder,
    /// Which rule of a policy decides about an image
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
}

/// Does what was asked for.
pub(crate) fn run(
    command: &ImageCommand,
    config: &dyn Fn() -> anyhow::Result<Config>,
    json: bool,
) -> anyhow::Result<Health> {
    match command {
        ImageCommand::Verify(arguments) => verify::run(arguments, json),
        ImageCommand::Fetch(arguments) => fetch::run(arguments, config, json),
        ImageCommand::Sign(arguments) => sign::run(arguments, json),
        ImageCommand::Inspect(arguments) => inspect::run(arguments, json),
        ImageCommand::Seal(arguments) => seal::run(arguments, json),
        ImageCommand::Encrypt(arguments) => encrypt::run(arguments, json),
        ImageCommand::Placeholder => encrypt::placeholder(),
        ImageCommand::Policy { command } => policy::run(command, json),
    }
}
