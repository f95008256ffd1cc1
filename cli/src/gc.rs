//! `coffer gc`: finds, and removes, what crashed pods left on this node.

use std::time::{Duration, Instant};

use coffer_node::cleanup::{PodOnNode, Report, Standing, clean, clean_unrecorded, scan};
use coffer_node::config::Config;
use serde::Serialize;

use crate::{Health, output};

/// A pod's cleanup takes no longer.
const PER_POD: Duration = Duration::from_secs(5);

/// Whether leftovers are removed or only named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// Remove them.
    Wet,
    /// Name them.
    Dry,
}

#[derive(Serialize)]
struct Cleaned {
    pod: String,
    why: String,
    /// Absent in a dry run.
    report: Option<Report>,
}

/// Cleans every pod whose shim is gone. Pods whose shim runs are never touched.
pub(crate) fn run(config: &Config, run: Run, json: bool) -> anyhow::Result<Health> {
    let mut cleaned = Vec::new();
    for pod in scan(&config.run_dir)? {
        let Some(why) = why(&pod) else { continue };
        let report = (run == Run::Wet).then(|| undo(config, &pod));
        if !json {
            let verb = if run == Run::Dry { "would clean" } else { "cleaned" };
            println!("{verb} {}: {why}", pod.key);
            if let Some(report) = &report {
                print!("{report}");
            }
        }
        cleaned.push(Cleaned { pod: pod.key.to_string(), why, report });
    }
    if json {
        output::json(&cleaned)?;
    } else if cleaned.is_empty() {
        println!("nothing is left of dead pods");
    }
    let complete = cleaned.iter().all(|pod| pod.report.as_ref().is_none_or(Report::is_complete));
    Ok(if complete { Health::Well } else { Health::Amiss })
}

fn why(pod: &PodOnNode) -> Option<String> {
    match &pod.standing {
        Standing::Alive(_) => None,
        Standing::Dead(record) => Some(format!("its shim, process {}, is gone", record.shim.pid)),
        Standing::Unreadable(err) => Some(err.to_string()),
    }
}

fn undo(config: &Config, pod: &PodOnNode) -> Report {
    let deadline = Instant::now() + PER_POD;
    match &pod.standing {
        Standing::Alive(record) | Standing::Dead(record) => clean(&config.run_dir, record, deadline),
        Standing::Unreadable(_) => clean_unrecorded(&config.run_dir, &pod.key, None, deadline),
    }
}
