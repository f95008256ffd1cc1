//! `coffer ps`: the pods of this node.

use coffer_node::cleanup::{PodOnNode, Standing, scan};
use coffer_node::config::Config;
use coffer_node::record::{Record, Resource};
use serde::Serialize;

use crate::{Health, output};

#[derive(Serialize)]
struct Row {
    namespace: String,
    pod: String,
    state: &'static str,
    shim_pid: Option<i32>,
    vm_pid: Option<i32>,
    hypervisor: String,
    trace_id: String,
}

/// Lists the pods; a dead or unreadable one makes the outcome "amiss".
pub(crate) fn run(config: &Config, json: bool) -> anyhow::Result<Health> {
    let pods = scan(&config.run_dir)?;
    let amiss = pods.iter().any(|pod| !matches!(pod.standing, Standing::Alive(_)));
    let rows: Vec<Row> = pods.iter().map(row).collect();
    if json {
        output::json(&rows)?;
    } else {
        let number = |pid: Option<i32>| pid.map_or("-".to_owned(), |pid| pid.to_string());
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| {
                vec![
                    row.namespace.clone(),
                    row.pod.chars().take(13).collect(),
                    row.state.to_owned(),
                    number(row.shim_pid),
                    number(row.vm_pid),
                    row.hypervisor.clone(),
                ]
            })
            .collect();
        output::table(&["NAMESPACE", "POD", "STATE", "SHIM", "VM", "HYPERVISOR"], &cells)?;
    }
    Ok(if amiss { Health::Amiss } else { Health::Well })
}

fn row(pod: &PodOnNode) -> Row {
    let (state, record) = match &pod.standing {
        Standing::Alive(record) => ("running", Some(record)),
        Standing::Dead(record) => ("dead", Some(record)),
        Standing::Unreadable(_) => ("unreadable", None),
    };
    Row {
        namespace: pod.key.namespace().to_owned(),
        pod: pod.key.pod().to_owned(),
        state,
        shim_pid: record.map(|record| record.shim.pid),
        vm_pid: record.and_then(|record| vm_pid(record)),
        hypervisor: record.and_then(|record| record.hypervisor.clone()).unwrap_or_else(|| "-".to_owned()),
        trace_id: record.map(|record| record.trace_id.clone()).unwrap_or_default(),
    }
}

fn vm_pid(record: &Record) -> Option<i32> {
    record.resources.iter().find_map(|resource| match resource {
        Resource::Process { process, role } if role != "vsock" => Some(process.pid),
        _ => None,
    })
}
