//! Makes a pod's cgroup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::hierarchy::{Hierarchy, Version, hierarchies};
use super::path::expand;
use super::processors::{Processors, Quota};
use crate::record::{PodRecord, RecordError, Resource};

/// Limits for the processes of a pod, in the kernel's units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU shares (cgroup v1's scale, 2 to 262144).
    pub cpu_shares: Option<u64>,
    /// What the machine's processors may use together; `None`: no limit.
    pub quota: Option<Quota>,
}

/// A pod's cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodCgroup {
    /// `cgroup.procs` files; a process is placed by writing its pid to each.
    pub procs: Vec<PathBuf>,
    /// The processors' own, if they have a quota.
    pub processors: Option<Processors>,
    /// What could not be set, for the log.
    pub warnings: Vec<String>,
}

/// Why there is no cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The path in the container's specification is not understood.
    #[error("cgroupsPath {path:?} is neither a path without '..' nor slice:prefix:name")]
    Path {
        /// As given.
        path: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The record could not be written.
    #[error("cannot write down the pod's cgroup")]
    Record(#[source] RecordError),
}

/// Makes the pod's cgroup at the container's `cgroupsPath` (cgroupfs or systemd style) and sets the limits that the
/// node lets us set; what it refuses is a warning.
pub fn create(cgroups_path: &str, limits: &Limits, record: &PodRecord) -> Result<PodCgroup, CgroupError> {
    let table = Path::new("/proc/self/mountinfo");
    let mounts = fs::read_to_string(table).map_err(|source| CgroupError::Io {
        action: "read",
        path: table.to_owned(),
        source,
    })?;
    create_in(&hierarchies(&mounts), cgroups_path, limits, record)
}

fn create_in(
    hierarchies: &[Hierarchy],
    cgroups_path: &str,
    limits: &Limits,
    record: &PodRecord,
) -> Result<PodCgroup, CgroupError> {
    let bad = || CgroupError::Path { path: cgroups_path.to_owned() };
    let relative = expand(cgroups_path).ok_or_else(bad)?.join(format!("coffer-{}", record.key().pod()));
    let mut made = PodCgroup::default();
    let resources = hierarchies.iter().map(|each| Resource::Cgroup { path: each.root.join(&relative) });
    record.add_all(resources.collect()).map_err(CgroupError::Record)?;
    for hierarchy in hierarchies {
        let path = hierarchy.root.join(&relative);
        match make(hierarchy, &relative, &mut made.warnings) {
            Ok(()) => {
                made.warnings.extend(weigh(hierarchy, &path, limits.cpu_shares));
                seat_processors(hierarchy, &path, limits.quota, &mut made);
                made.procs.push(path.join("cgroup.procs"));
            }
            Err(err) if is_refusal(&err) => {
                made.warnings.push(format!("make cgroup {}: {err}", path.display()));
                record.forget(&Resource::Cgroup { path }).map_err(CgroupError::Record)?;
            }
            Err(source) => return Err(CgroupError::Io { action: "make cgroup", path, source }),
        }
    }
    Ok(made)
}

/// Makes a cgroup and, on v2, hands the controllers down to it.
fn make(hierarchy: &Hierarchy, relative: &Path, warnings: &mut Vec<String>) -> io::Result<()> {
    if hierarchy.version == Version::Two {
        let mut parent = hierarchy.root.clone();
        for name in relative {
            warnings.extend(hand_down(hierarchy, &parent));
            parent.push(name);
            match fs::create_dir(&parent) {
                Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
                _ => {}
            }
        }
        return Ok(());
    }
    fs::create_dir_all(hierarchy.root.join(relative))
}

fn hand_down(hierarchy: &Hierarchy, parent: &Path) -> Vec<String> {
    let file = parent.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).unwrap_or_default();
    let missing =
        hierarchy.controllers.iter().filter(|name| !enabled.split_whitespace().any(|have| have == *name));
    missing.filter_map(|name| write(&file, &format!("+{name}"))).collect()
}

fn weigh(hierarchy: &Hierarchy, path: &Path, shares: Option<u64>) -> Option<String> {
    let shares = shares.filter(|_| hierarchy.has("cpu"))?;
    match hierarchy.version {
        Version::Two => write(&path.join("cpu.weight"), &weight(shares).to_string()),
        Version::One => write(&path.join("cpu.shares"), &shares.to_string()),
    }
}

/// Makes the processors' own cgroup, where there is a quota to hold them to and a controller that does.
fn seat_processors(hierarchy: &Hierarchy, path: &Path, quota: Option<Quota>, made: &mut PodCgroup) {
    let Some(quota) = quota.filter(|_| hierarchy.has("cpu")) else { return };
    match Processors::make(path, hierarchy.version, quota) {
        Ok(processors) => made.processors = Some(processors),
        Err(err) => made.warnings.push(format!(
            "hold the processors in {} to their quota: {err}; the guest and the cgroups above hold it",
            path.display()
        )),
    }
}

/// From shares (2 to 262144) to weight (1 to 10000), as every runtime maps them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn write(file: &Path, value: &str) -> Option<String> {
    fs::write(file, value).err().map(|err| format!("write {value:?} to {}: {err}", file.display()))
}

fn is_refusal(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::cgroup::hierarchy::parse_mount;
    use crate::record::{NewPod, PodKey};

    fn record(root: &Path) -> PodRecord {
        record_of(root, "p1")
    }

    fn record_of(root: &Path, pod: &str) -> PodRecord {
        let pod = NewPod {
            key: PodKey::new("test", pod).expect("a valid key"),
            bundle: "/bundle".into(),
            shim_address: None,
            trace_id: String::new(),
        };
        PodRecord::create(root, pod).expect("created")
    }

    fn limits() -> Limits {
        Limits { cpu_shares: Some(1024), quota: Some(Quota::new(50_000, None)) }
    }

    #[test]
    fn shares_map_to_weights_as_everywhere() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }

    #[test]
    fn two_pods_with_one_path_do_not_share_a_cgroup() {
        let root = tempfile::tempdir().expect("a directory");
        let fake = Hierarchy { root: root.path().join("cgroup"), version: Version::One, controllers: vec![] };
        let one = create_in(std::slice::from_ref(&fake), "/same", &limits(), &record(&root.path().join("1")));
        let other = record_of(&root.path().join("2"), "p2");
        let other = create_in(&[fake], "/same", &limits(), &other);
        assert_ne!(one.expect("made").procs, other.expect("made").procs);
    }

    #[test]
    fn a_version_two_cgroup_takes_a_process_and_goes_with_it() {
        let root = tempfile::tempdir().expect("a directory");
        let record = record(root.path());
        let table = fs::read_to_string("/proc/self/mountinfo").expect("read");
        // On a machine of both versions this hierarchy has no controllers, but directories and members all the same.
        let v2 = table.lines().filter_map(parse_mount).find(|hierarchy| hierarchy.version == Version::Two);
        let v2 = Hierarchy { controllers: vec![], ..v2.expect("cgroup2 is mounted") };
        let name = format!("/coffer-test-v2-{}/below", std::process::id());
        let made = create_in(&[v2], &name, &limits(), &record).expect("made");
        let threaded = made.procs.first().expect("made").with_file_name("processors");
        fs::create_dir(&threaded)
            .and_then(|()| fs::write(threaded.join("cgroup.type"), "threaded"))
            .expect("made");
        let mut child = member(&made, root.path());
        fs::write(threaded.join("cgroup.threads"), child.id().to_string()).expect("moved");
        let report = crate::cleanup::clean(root.path(), &record.snapshot(), soon());
        child.wait().expect("it was killed");
        assert!(report.is_complete(), "{report}");
        let leaf = made.procs.first().and_then(|procs| procs.parent()).expect("made");
        assert!(!leaf.exists() && !leaf.parent().is_some_and(Path::exists));
        fs::remove_dir(leaf.ancestors().nth(2).expect("the test's own")).expect("removed");
    }

    #[test]
    fn who_cleaned_halfway_leaves_the_rest_to_the_next() {
        let root = tempfile::tempdir().expect("a directory");
        let record = record(root.path());
        let name = format!("/coffer-test-half-{}", std::process::id());
        let made = create(&name, &limits(), &record).expect("made");
        let leaves: Vec<PathBuf> = made.procs.iter().map(|procs| procs.with_file_name("")).collect();
        for leaf in &leaves {
            drop(fs::remove_dir(leaf.join("processors")));
            fs::remove_dir(leaf).expect("a cleaner that is killed has removed this much");
        }
        let report = crate::cleanup::clean(root.path(), &record.snapshot(), soon());
        assert!(report.is_complete(), "{report}");
        let left: Vec<&Path> =
            leaves.iter().filter_map(|leaf| leaf.parent()).filter(|dir| dir.exists()).collect();
        assert!(!leaves.is_empty() && left.is_empty(), "{left:?}");
    }

    /// A process in the pod's cgroup whose one thread has the name of a processor's.
    fn member(made: &PodCgroup, directory: &Path) -> Child {
        let program = directory.join("cpu0");
        std::os::unix::fs::symlink("/bin/cat", &program).expect("linked");
        let mut child =
            Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
        // The kernel lets a parent go on before it names the child by its program; one that answers has its name.
        child.stdin.as_mut().expect("piped").write_all(b"?").expect("written");
        child.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("answered");
        made.procs.iter().for_each(|procs| fs::write(procs, child.id().to_string()).expect("placed"));
        child
    }

    fn soon() -> std::time::Instant {
        std::time::Instant::now() + std::time::Duration::from_secs(5)
    }

    #[test]
    fn this_machines_cgroup_takes_a_process_and_its_processor_into_one_with_a_quota() {
        let root = tempfile::tempdir().expect("a directory");
        let record = record(root.path());
        let name = format!("/coffer-test-{}", std::process::id());
        let made = create(&name, &limits(), &record).expect("made");
        let mut child = member(&made, root.path());
        let groups = || fs::read_to_string(format!("/proc/{}/cgroup", child.id())).expect("read");
        let placed = groups();
        let processors = made.processors.clone().expect("the controller is mounted");
        assert_eq!(processors.take("CPU ").expect("looked"), 0);
        assert_eq!(processors.take("cpu").expect("moved"), 1);
        let moved = groups();
        processors.limit(None).expect("a quota is taken back");
        let report = crate::cleanup::clean(root.path(), &record.snapshot(), soon());
        child.wait().expect("it was killed");
        assert!(report.is_complete(), "{report}");
        assert!(placed.contains(&name) && !placed.contains("processors"), "{placed}");
        assert!(moved.contains("coffer-p1/processors"), "{moved}");
        assert!(!made.procs.iter().any(|procs| procs.exists()));
    }
}
