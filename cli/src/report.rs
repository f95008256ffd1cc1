//! `coffer report POD`: everything that is known about a pod, in one file that can be read before it is sent.
//!
//! It has the pod's record, its start's trace, the console's end if the shim kept one, versions and the node's check.
//! It has no container's environment, arguments or output, and no secret: none of these is ever in the record.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use coffer_guest_image::manifest::Manifest;
use coffer_node::cleanup::{PodOnNode, Standing, scan};
use coffer_node::config::Config;
use coffer_node::host::{Tool, Virtualization};
use coffer_node::trace;
use serde_json::{Value, json};

use crate::Health;

/// The most that is taken of the guest's console, in bytes.
const CONSOLE_BYTES: usize = 64 << 10;

/// Writes the report and says where.
pub(crate) fn run(config: &Config, pod: &str, output: Option<PathBuf>) -> anyhow::Result<Health> {
    let on_node = find(config, pod)?;
    let trace = trace::find(&config.run_dir, pod);
    if let (None, Err(err)) = (&on_node, &trace) {
        anyhow::bail!("this node knows no pod {pod}: it has no run directory, and {err}");
    }
    let report = json!({
        "coffer": env!("CARGO_PKG_VERSION"),
        "pod": pod,
        "record": on_node.as_ref().map(record),
        "trace": trace.as_ref().map(|trace| json!(trace)).unwrap_or_else(|err| json!({ "unavailable": err.to_string() })),
        "console": on_node.as_ref().and_then(|pod| console(&pod.run_dir)),
        "host": host(config),
    });
    let short: String = pod.chars().take(13).collect();
    let path = output.unwrap_or_else(|| PathBuf::from(format!("coffer-report-{short}.json")));
    fs::write(&path, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("writing {}", path.display()))?;
    println!("{}", path.display());
    Ok(Health::Well)
}

fn find(config: &Config, pod: &str) -> anyhow::Result<Option<PodOnNode>> {
    let mut matches: Vec<PodOnNode> =
        scan(&config.run_dir)?.into_iter().filter(|found| found.key.pod().starts_with(pod)).collect();
    if matches.len() > 1 {
        let names: Vec<String> = matches.iter().map(|found| found.key.to_string()).collect();
        anyhow::bail!("{pod} is the beginning of several pods: {}", names.join(", "));
    }
    Ok(matches.pop())
}

fn record(pod: &PodOnNode) -> Value {
    match &pod.standing {
        Standing::Alive(record) => json!({ "state": "running", "record": record }),
        Standing::Dead(record) => json!({ "state": "dead", "record": record }),
        Standing::Unreadable(err) => json!({ "state": "unreadable", "reason": err.to_string() }),
    }
}

fn console(run_dir: &Path) -> Option<String> {
    let bytes = fs::read(run_dir.join("console.log")).ok()?;
    let start = bytes.len().saturating_sub(CONSOLE_BYTES);
    bytes.get(start..).map(|tail| String::from_utf8_lossy(tail).into_owned())
}

fn host(config: &Config) -> Value {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let guest = Manifest::read(&config.guest_dir);
    json!({
        "kernel": release.trim(),
        "virtualization": Virtualization::probe(),
        "qemu": Tool::probe(&config.qemu, "--version"),
        "mkfs.erofs": Tool::probe(Path::new("mkfs.erofs"), "--version"),
        "containerd": Tool::probe(Path::new("containerd"), "--version"),
        "guest": guest.map(|manifest| json!(manifest)).unwrap_or_else(|err| json!({ "unavailable": err.to_string() })),
    })
}
