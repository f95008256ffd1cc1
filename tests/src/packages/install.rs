//! Installs what is missing with apt-get.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::list::INSTALLED;
use crate::progress::step;
use crate::run::Run;

/// Fetching and unpacking QEMU on a slow mirror.
const LIMIT: Duration = Duration::from_secs(900);

/// Installs the packages whose program this machine lacks; asks nobody when all are there.
pub fn install() -> Result<()> {
    let missing: Vec<&str> =
        INSTALLED.iter().filter(|wanted| !has(wanted.program)).map(|wanted| wanted.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    step("reading the package lists", || apt(&["update"])).context("cannot read the package lists")?;
    let names = missing.join(" ");
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(missing);
    step(&format!("installing {names}"), || apt(&arguments))
        .with_context(|| format!("cannot install {names}"))
}

fn apt(arguments: &[&str]) -> Result<()> {
    let run = Run::new("apt-get").args(["-q", "-o", "DPkg::Lock::Timeout=300"]).args(arguments);
    run.env("DEBIAN_FRONTEND", "noninteractive").limit(LIMIT).text().map(drop)
}

fn has(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|directory| Path::new(directory).join(program).exists())
}
