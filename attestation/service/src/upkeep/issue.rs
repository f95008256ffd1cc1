//! Certificates of the verifier's own authority.

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context;
use clap::Args;

use crate::authority::{Authority, Subject};
use crate::serve::Config;

/// For whom, and for how long.
#[derive(Debug, Args)]
pub struct IssueOrder {
    /// Name of the operator or component, as the configuration has it
    name: String,
    /// How long it is good, in hours
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=2160))]
    hours: u64,
    /// Where NAME.pem and NAME.key are written
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    output: PathBuf,
}

/// Signs and writes, and says by which serial number it can be revoked.
pub(super) fn run(order: &IssueOrder, config: &Config) -> anyhow::Result<()> {
    let now = SystemTime::now().into();
    let issued = open(config)?.issue(Subject::Client(&order.name), now, order.hours * 3600)?;
    issued.write(&order.output, &order.name)?;
    writeln!(std::io::stdout(), "serial {}, good until {}", issued.serial, issued.until)?;
    Ok(())
}

/// Prints the authority's certificate.
pub(super) fn authority(config: &Config) -> anyhow::Result<()> {
    write!(std::io::stdout(), "{}", open(config)?.pem())?;
    Ok(())
}

fn open(config: &Config) -> anyhow::Result<Authority> {
    config.authority()?.context("the configuration has no table [own-authority]")
}
