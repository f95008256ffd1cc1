//! Looks into the cache of collateral, and fills it without a network.

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context;
use clap::Subcommand;
use coffer_attestation::time::UnixTime;

use crate::collateral::Cache;
use crate::serve::Config;

/// What can be done with the cache.
#[derive(Debug, Subcommand)]
pub enum CollateralOrder {
    /// Show what is kept, and until when it is good
    List,
    /// Verify files and keep them; a verifier that serves looks at them after SIGHUP
    Import {
        /// Revocation lists, VCEKs, chains (PEM or DER), and files that `coffer attest collateral` wrote
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Verify as of this time [default: now]
        #[arg(long, value_name = "TIME")]
        at: Option<UnixTime>,
    },
}

/// Does it.
pub(super) fn run(order: &CollateralOrder, config: &Config) -> anyhow::Result<()> {
    let cache = config.cache()?.context("the configuration has no table [collateral]")?;
    let mut out = std::io::stdout().lock();
    match order {
        CollateralOrder::List => list(&cache, &mut out),
        CollateralOrder::Import { files, at } => {
            let at = at.unwrap_or_else(|| SystemTime::now().into());
            for file in files {
                let item = cache.import(file, at).with_context(|| format!("importing {}", file.display()))?;
                writeln!(out, "{}: {item}", item.path())?;
            }
            Ok(())
        }
    }
}

fn list(cache: &Cache, out: &mut impl Write) -> anyhow::Result<()> {
    let now: UnixTime = SystemTime::now().into();
    for item in cache.list()? {
        let until = match cache.find(&item, now) {
            Some(kept) if kept.until < now => format!("OUT OF DATE since {}", kept.until),
            Some(kept) => format!("good until {}", kept.until),
            None => "NOT what its name says".to_owned(),
        };
        writeln!(out, "{}: {item}, {until}", item.path())?;
    }
    Ok(())
}
