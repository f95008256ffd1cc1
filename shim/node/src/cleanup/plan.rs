//! From a record to the steps that undo it.
//!
//! The order matters: processes first, so that nothing is made while other things are removed; what needs the pod's
//! network namespace before the end; mounts before the directories that they hide; the run directory, with the
//! record in it, last, so that an interrupted cleanup can be begun again.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::process::ProcessId;
use crate::record::{Netns, Record, Resource};

/// One thing to undo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Kill and await a process.
    Kill {
        /// Which.
        process: ProcessId,
        /// What it did.
        role: String,
    },
    /// Kill and await everything in a cgroup, then remove it.
    Cgroup(PathBuf),
    /// Kill and await what runs as the pod's user.
    User(u32),
    /// Remove a tap, and the redirection on its link.
    Tap {
        /// Namespace of both.
        netns: Netns,
        /// Name of the tap.
        tap: String,
        /// Name of the link.
        link: String,
    },
    /// Remove an nftables table.
    NftTable {
        /// Its namespace.
        netns: Netns,
        /// Its name.
        table: String,
    },
    /// Detach all mounts at and below a path.
    Unmount(PathBuf),
    /// Remove a file or socket.
    File(PathBuf),
    /// Remove a directory with its contents.
    Directory(PathBuf),
    /// Give a user back.
    Uid {
        /// The lease.
        path: PathBuf,
        /// Who must hold it: `namespace/pod`.
        owner: String,
    },
}

/// The steps that undo a record, in order.
///
/// Processes, namespaces, mounts and cgroups do not outlive a boot, so of another boot's record only names in file
/// systems are left to remove. `own` is the caller, which is not killed: a shim cleans up
/// after its own pod.
pub fn plan(record: &Record, run_dir: &Path, boot_id: &str, own: ProcessId) -> Vec<Step> {
    let mut steps = Vec::new();
    if record.boot_id == boot_id {
        if record.shim != own {
            steps.push(Step::Kill { process: record.shim, role: "shim".to_owned() });
        }
        steps.extend(record.resources.iter().filter_map(|resource| process_step(resource, own)));
        steps.extend(record.resources.iter().filter_map(user_step));
        steps.extend(record.resources.iter().rev().filter_map(network_step));
        steps.extend(record.resources.iter().rev().filter_map(mount_step));
        steps.push(Step::Unmount(record.bundle.join("rootfs")));
        steps.push(Step::Unmount(run_dir.to_owned()));
    }
    let owner = record.key.to_string();
    steps.extend(record.resources.iter().rev().filter_map(|resource| file_step(resource, &owner)));
    steps.push(Step::Directory(run_dir.to_owned()));
    steps
}

fn process_step(resource: &Resource, own: ProcessId) -> Option<Step> {
    match resource {
        Resource::Process { process, role } if *process != own => {
            Some(Step::Kill { process: *process, role: role.clone() })
        }
        Resource::Cgroup { path } => Some(Step::Cgroup(path.clone())),
        _ => None,
    }
}

fn user_step(resource: &Resource) -> Option<Step> {
    match resource {
        Resource::UidLease { uid, .. } => Some(Step::User(*uid)),
        _ => None,
    }
}

fn network_step(resource: &Resource) -> Option<Step> {
    match resource {
        Resource::Tap { netns, tap, link } => {
            Some(Step::Tap { netns: netns.clone(), tap: tap.clone(), link: link.clone() })
        }
        Resource::NftTable { netns, table } => {
            Some(Step::NftTable { netns: netns.clone(), table: table.clone() })
        }
        _ => None,
    }
}

fn mount_step(resource: &Resource) -> Option<Step> {
    match resource {
        Resource::Mount { path } | Resource::Directory { path } => Some(Step::Unmount(path.clone())),
        _ => None,
    }
}

fn file_step(resource: &Resource, owner: &str) -> Option<Step> {
    match resource {
        Resource::File { path } => Some(Step::File(path.clone())),
        Resource::Directory { path } => Some(Step::Directory(path.clone())),
        Resource::UidLease { path, .. } => Some(Step::Uid { path: path.clone(), owner: owner.to_owned() }),
        _ => None,
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Kill { process, role } => write!(f, "end process {} ({role})", process.pid),
            Step::Cgroup(path) => write!(f, "empty and remove cgroup {}", path.display()),
            Step::User(uid) => write!(f, "end processes of user {uid}"),
            Step::Tap { netns, tap, link } => {
                write!(f, "remove tap {tap} beside {link} in {}", netns.path.display())
            }
            Step::NftTable { netns, table } => {
                write!(f, "remove nft table {table} in {}", netns.path.display())
            }
            Step::Unmount(path) => write!(f, "detach mounts at {}", path.display()),
            Step::File(path) => write!(f, "remove {}", path.display()),
            Step::Directory(path) => write!(f, "remove directory {}", path.display()),
            Step::Uid { path, .. } => write!(f, "give back {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{PodKey, RECORD_VERSION};

    const OWN: ProcessId = ProcessId { pid: 1, start_ticks: 1 };
    const QEMU: ProcessId = ProcessId { pid: 3, start_ticks: 3 };

    fn record(resources: Vec<Resource>) -> Record {
        Record {
            version: RECORD_VERSION,
            key: PodKey::new("k8s.io", "p1").expect("a valid key"),
            boot_id: "now".to_owned(),
            shim: ProcessId { pid: 2, start_ticks: 2 },
            shim_address: None,
            bundle: "/bundle".into(),
            netns: None,
            trace_id: String::new(),
            created_unix_ms: 0,
            hypervisor: None,
            resources,
            images: Vec::new(),
        }
    }

    fn qemu() -> Resource {
        Resource::Process { process: QEMU, role: "qemu".to_owned() }
    }

    #[test]
    fn processes_end_before_anything_is_removed() {
        let steps = plan(
            &record(vec![Resource::File { path: "/s".into() }, qemu()]),
            Path::new("/run/p"),
            "now",
            OWN,
        );
        let kill = Step::Kill { process: QEMU, role: "qemu".to_owned() };
        let kill = steps.iter().position(|step| *step == kill);
        assert!(kill < steps.iter().position(|step| *step == Step::File("/s".into())));
    }

    #[test]
    fn the_run_directory_goes_last() {
        let steps = plan(&record(vec![qemu()]), Path::new("/run/p"), "now", OWN);
        assert_eq!(steps.last(), Some(&Step::Directory("/run/p".into())));
    }

    #[test]
    fn the_bundles_root_file_system_is_detached() {
        let steps = plan(&record(vec![]), Path::new("/run/p"), "now", OWN);
        assert!(steps.contains(&Step::Unmount("/bundle/rootfs".into())));
    }

    #[test]
    fn nothing_is_killed_by_a_record_of_another_boot() {
        let steps = plan(&record(vec![qemu()]), Path::new("/run/p"), "later", OWN);
        assert_eq!(steps, vec![Step::Directory("/run/p".into())]);
    }

    #[test]
    fn a_shim_that_cleans_up_does_not_kill_itself() {
        let mut record = record(vec![Resource::Process { process: OWN, role: "shim".to_owned() }]);
        record.shim = OWN;
        let steps = plan(&record, Path::new("/run/p"), "now", OWN);
        assert!(!steps.iter().any(|step| matches!(step, Step::Kill { .. })));
    }

    #[test]
    fn a_layer_stays_in_the_cache() {
        let layer = Resource::Layer { digest: "sha256:0".to_owned() };
        assert_eq!(
            plan(&record(vec![layer]), Path::new("/run/p"), "now", OWN),
            plan(&record(vec![]), Path::new("/run/p"), "now", OWN)
        );
    }
}
