//! `coffer-guest-image`: builds a guest image, or describes one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use coffer_guest_image::image::{Recipe, build};
use coffer_guest_image::inspect::Inspection;
use coffer_guest_image::kernel::Cache;
use coffer_guest_image::manifest::KernelKind;

/// Builds and describes the guest image that pods boot.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build kernel, initrd and manifest. Missing Debian packages are installed; a kernel is built once per machine.
    Build {
        /// Directory that becomes the image.
        #[arg(long, default_value = "target/guest-image")]
        out: PathBuf,
        /// Our own small kernel, or Debian's.
        #[arg(long, value_enum, default_value_t = KernelKind::Slim)]
        kernel: KernelKind,
        /// Version of the kernel's Debian package [default: the newest].
        #[arg(long)]
        kernel_version: Option<String>,
        /// A static agent, instead of building one.
        #[arg(long)]
        agent: Option<PathBuf>,
    },
    /// Describe an image and verify its files.
    Inspect {
        /// Directory of the image.
        dir: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coffer-guest-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Build { out, kernel, kernel_version, agent } => {
            let recipe = Recipe { out, kernel, kernel_version, agent };
            build(&recipe, &Cache::from_env())?;
            inspect(&recipe.out, false)
        }
        Command::Inspect { dir, json } => inspect(&dir, json),
    }
}

fn inspect(dir: &std::path::Path, json: bool) -> Result<()> {
    let inspection = Inspection::of(dir)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&inspection.json()).context("cannot write JSON")?);
    } else {
        print!("{}\n{}", dir.display(), inspection.table());
    }
    match inspection.verified() {
        Ok(()) => Ok(()),
        Err(error) => bail!("{error}"),
    }
}
