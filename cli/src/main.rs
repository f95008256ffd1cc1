//! `coffer`: what an operator does with Coffer on a node.
//!
//! ```text
//! check    what this node can run, and what to do about what it cannot
//! install  uninstall    artefacts in a versioned directory, containerd drop-in, RuntimeClass
//! ps  trace  report     the pods of this node, one pod's start, one pod's file for a bug report
//! layers   gc           the layer cache; what crashed pods left
//! attest   measure      what evidence of a confidential machine is worth, and what it must say; neither needs a node
//! image    whether an image may run by a policy of signatures, and which rule says so; signing; needs no node, fetch excepted
//! simulated-root     whom a verifier believes that is to believe a processor which this node simulates
//! secret   policy       a verifier's secrets and rules, what it revoked, and what it decided; none needs a node
//! reference  revoke     audit
//! ```
//! Exit code 0: done and well; 1: could not be done; 2: wrong usage; 3: done, and something is amiss.
#![forbid(unsafe_code)]

mod attest;
mod check;
mod gc;
mod image;
mod install;
mod keyless;
mod layers;
mod measure;
mod output;
mod ps;
mod registry;
mod report;
mod simulated;
mod trace;
mod trust_domain;
mod verifier;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use coffer_node::config::{Config, PATH_VARIABLE};

/// Whether everything that was looked at is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Well,
    Amiss,
}

#[derive(Parser)]
#[command(name = "coffer", version, about = "Operate Coffer, the micro-VM container runtime, on a node")]
struct Arguments {
    /// Configuration file [default: /etc/coffer/config.toml, if it exists]
    #[arg(long, global = true, env = PATH_VARIABLE)]
    config: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what this node can run, and what to do about what it cannot
    Check,
    /// Install artefacts, containerd's drop-in and the RuntimeClass manifest
    Install(install::InstallArguments),
    /// Undo `install`; versions that running pods use are kept
    Uninstall(install::PlaceArguments),
    /// List the pods of this node
    Ps,
    /// Show how long each phase of a pod's start took
    Trace {
        /// Pod (sandbox) id, or a unique beginning of it
        pod: String,
    },
    /// Write everything known about a pod into one file, for a bug report
    Report {
        /// Pod (sandbox) id, or a unique beginning of it
        pod: String,
        /// File to write [default: coffer-report-POD.json]
        #[arg(long)]
        output: Option<PathBuf>,
    },
    /// The cache of image layers
    Layers {
        #[command(subcommand)]
        command: layers::LayersCommand,
    },
    /// Judge the evidence of confidential machines
    Attest {
        #[command(subcommand)]
        command: attest::AttestCommand,
    },
    /// Judge images by a policy of signatures, sign them, and bring their signatures to this node
    Image {
        #[command(subcommand)]
        command: image::ImageCommand,
    },
    /// Print the root certificate of the processor that this node simulates; it is made when there is none
    SimulatedRoot,
    /// Compute the launch digest of a confidential machine before it is launched
    Measure(measure::MeasureArguments),
    /// A verifier's secrets
    Secret {
        #[command(subcommand)]
        command: verifier::SecretCommand,
    },
    /// A verifier's policies
    Policy {
        #[command(subcommand)]
        command: verifier::PolicyCommand,
    },
    /// A verifier's reference values
    Reference {
        #[command(subcommand)]
        command: verifier::ReferenceCommand,
    },
    /// Take back what a guest, a measurement, a signer or a token may have; without arguments, list what was revoked
    Revoke(verifier::RevokeArguments),
    /// What a verifier decided, and whether its log is whole
    Audit {
        #[command(subcommand)]
        command: verifier::AuditCommand,
    },
    /// Find, and remove, what crashed pods left
    Gc {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

fn main() -> ExitCode {
    let mut given = std::env::args_os();
    let called = given.next().map(PathBuf::from);
    if called.is_some_and(|path| path.file_name().is_some_and(|name| name == image::PROGRAM)) {
        return verify_pull(&given.collect::<Vec<_>>());
    }
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(Health::Well) => ExitCode::SUCCESS,
        Ok(Health::Amiss) => ExitCode::from(3),
        Err(err) => {
            eprintln!("coffer: {err:#}");
            ExitCode::FAILURE
        }
    }
}

/// As containerd runs it: the reason goes to standard output, either way.
fn verify_pull(arguments: &[std::ffi::OsString]) -> ExitCode {
    let named = std::env::var_os(PATH_VARIABLE).map(PathBuf::from);
    let config = Config::find(named.as_deref(), None).context("reading the configuration");
    match config.and_then(|config| image::verify_pull(arguments, &config)) {
        Ok(reason) => {
            println!("{reason}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<Health> {
    let json = arguments.json;
    // Read for those that are about this node alone: it may be the very thing that is broken.
    let config = || Config::find(arguments.config.as_deref(), None).context("reading the configuration");
    match arguments.command {
        Command::Check => check::run(&config()?, json),
        Command::Install(install) => install::install(&config()?, &install, json),
        Command::Uninstall(place) => install::uninstall(&place, json),
        Command::Ps => ps::run(&config()?, json),
        Command::Trace { pod } => trace::run(&config()?, &pod, json),
        Command::Report { pod, output } => report::run(&config()?, &pod, output),
        Command::Layers { command } => layers::run(&config()?, command, json),
        Command::Attest { command } => attest::run(command, json),
        Command::Image { command } => image::run(&command, &config, json),
        Command::SimulatedRoot => simulated::run(&config()?, json),
        Command::Measure(arguments) => measure::run(&arguments, json),
        Command::Secret { command } => command.run(),
        Command::Policy { command } => command.run(),
        Command::Reference { command } => command.run(),
        Command::Revoke(arguments) => arguments.run(),
        Command::Audit { command } => command.run(json),
        Command::Gc { dry_run } => {
            gc::run(&config()?, if dry_run { gc::Run::Dry } else { gc::Run::Wet }, json)
        }
    }
}
