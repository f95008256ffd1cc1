//! `delete`: removes what a dead shim left, and tells containerd how the container ended.
//!
//! ```text
//! bundle's coffer.json ── which pod ── its shim answers?  yes: only this bundle's mounts
//!                                                        no:  everything in the pod's record
//! ```
//! Any number of calls, in any state of the files: a record that is missing or corrupt is worked around.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use coffer_node::cleanup::{self, Report};
use coffer_node::config::{Config, PATH_VARIABLE};
use coffer_node::record::{PodKey, Record};
use containerd_shim_protos::api::DeleteResponse;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};

use super::flags::Flags;
use super::start::{PodFile, bundle};
use super::{socket, start};
use crate::group::Group;

/// containerd gives the whole call five seconds.
const LIMIT: Duration = Duration::from_secs(4);

/// 128 + SIGKILL: what became of the container when its machine went.
const KILLED: u32 = 137;

/// Cleans up and answers on standard output.
pub(super) fn delete(flags: &Flags) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    let bundle = bundle(flags)?;
    let pod_file = PodFile::load(&bundle);
    let pod = pod_file.as_ref().map_or_else(|| pod_of(flags, &bundle), |file| file.pod.clone());
    let run_root = run_root(pod_file.as_ref());
    let key = PodKey::new(&flags.namespace, &pod).context("the pod's name")?;
    if !is_served(&key, &run_root, pod_file.as_ref(), flags) {
        let report = clean(&key, &run_root, &bundle, deadline);
        if !report.is_complete() {
            // containerd logs standard error of `delete` as a warning.
            eprintln!("{report}");
        }
        if let Some(path) = pod_file.as_ref().and_then(|file| socket::path_of(&file.address)) {
            let _ = std::fs::remove_file(path);
        }
    }
    answer()
}

fn answer() -> anyhow::Result<()> {
    let response = DeleteResponse {
        exit_status: KILLED,
        exited_at: MessageField::some(Timestamp::from(SystemTime::now())),
        ..Default::default()
    };
    io::stdout().write_all(&response.write_to_bytes()?).context("cannot answer containerd")
}

/// Without our own file the specification tells, and without that the container is taken for a pod of its own.
fn pod_of(flags: &Flags, bundle: &Path) -> String {
    match Group::of_bundle(&flags.id, bundle) {
        Ok(group) => group.pod().to_owned(),
        Err(_) => flags.id.clone(),
    }
}

/// Where the pod's record is; a configuration that broke since the start leaves the default.
fn run_root(pod_file: Option<&PodFile>) -> PathBuf {
    let named = pod_file.and_then(|file| file.config_path.as_deref());
    let variable = std::env::var_os(PATH_VARIABLE).map(PathBuf::from);
    Config::find(named, variable.as_deref()).unwrap_or_default().run_dir
}

/// Whether the pod's shim is alive. Its other containers are then none of this call's business.
fn is_served(key: &PodKey, run_root: &Path, pod_file: Option<&start::PodFile>, flags: &Flags) -> bool {
    // A pod whose own first container is deleted is to go, whatever its shim does.
    if flags.id == key.pod() {
        return false;
    }
    let answers =
        pod_file.and_then(|file| socket::path_of(&file.address)).is_some_and(|path| socket::answers(&path));
    answers || Record::load(&key.run_dir(run_root)).is_ok_and(|record| record.shim_is_alive())
}

fn clean(key: &PodKey, run_root: &Path, bundle: &Path, deadline: Instant) -> Report {
    match Record::load(&key.run_dir(run_root)) {
        Ok(record) => cleanup::clean(run_root, &record, deadline),
        Err(_) => cleanup::clean_unrecorded(run_root, key, Some(bundle), deadline),
    }
}
