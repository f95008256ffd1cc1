//! `coffer simulated-root`: the certificate that a verifier must be told of before it believes this node's simulated processor.

use anyhow::{Context, bail};
use coffer_node::config::Config;
use serde_json::json;

use crate::{Health, output};

/// Prints it in PEM.
pub(crate) fn run(config: &Config, json: bool) -> anyhow::Result<Health> {
    let Some(simulated) = &config.tee.simulated else {
        bail!("this node simulates no processor: tee.kind is not \"sim\"");
    };
    let processor = simulated.processor().context("making the simulated processor")?;
    let root = processor.root().context("making its root certificate")?;
    let pem = root.to_pem();
    if json {
        output::json(&json!({ "simulated": true, "subject": root.subject(), "pem": pem }))?;
    } else {
        print!("{pem}");
    }
    Ok(Health::Well)
}
