//! The cgroup that a pod's host processes live in, on cgroup v2 or v1.
//!
//! ```text
//! cgroupsPath  /kubepods/burstable/podX/ID            → the same path below each hierarchy
//!              kubepods-podX.slice:cri-containerd:ID  → /kubepods.slice/kubepods-podX.slice/cri-containerd-ID.scope
//! v2           /sys/fs/cgroup/PATH/coffer-POD                     cpu.max cpu.weight memory.max
//! v1           /sys/fs/cgroup/{cpu,memory,pids}/PATH/coffer-POD   cpu.cfs_quota_us cpu.shares memory.limit_in_bytes
//! ```
//! The pod's own directory below its `cgroupsPath` bears its name, because two pods may be given one path, and the
//! cleanup of one, which kills whatever is in its cgroup, must not reach the other.
//!
//! With a systemd-style path the directory is made directly, not asked of systemd: a scope with processes in it is
//! left alone by systemd, and the slices above it, with the pod's limits, are kubelet's. Never here: statistics, or a
//! decision on how large a limit should be.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::record::{PodRecord, RecordError, Resource};

/// Limits for the processes of a pod, in the kernel's units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Microseconds of CPU per period; `None`: no limit.
    pub cpu_quota_us: Option<u64>,
    /// Length of the period in microseconds; `None`: 100 ms.
    pub cpu_period_us: Option<u64>,
    /// CPU shares (cgroup v1's scale, 2 to 262144).
    pub cpu_shares: Option<u64>,
    /// Bytes of memory, guest and overhead together.
    pub memory_bytes: Option<u64>,
}

/// A pod's cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodCgroup {
    /// `cgroup.procs` files; a process is placed by writing its pid to each.
    pub procs: Vec<PathBuf>,
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

/// Controllers that a pod's cgroup wants.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The kernel's default period.
const DEFAULT_PERIOD_US: u64 = 100_000;

/// A mounted hierarchy with controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    version: Version,
    controllers: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Makes the pod's cgroup at the container's `cgroupsPath` (cgroupfs or systemd style) and sets the limits that the
/// node lets us set; what it refuses is a warning.
pub fn create(cgroups_path: &str, limits: &Limits, record: &PodRecord) -> Result<PodCgroup, CgroupError> {
    create_in(&hierarchies()?, cgroups_path, limits, record)
}

/// Changes the limits of a pod's cgroup; returns what could not be set.
pub fn update(record: &PodRecord, limits: &Limits) -> Vec<String> {
    let known = hierarchies().unwrap_or_default();
    let mut warnings = Vec::new();
    for resource in record.snapshot().resources {
        let Resource::Cgroup { path } = resource else { continue };
        if let Some(hierarchy) = known.iter().find(|hierarchy| path.starts_with(&hierarchy.root)) {
            warnings.extend(set_limits(hierarchy, &path, limits));
        }
    }
    warnings
}

fn create_in(
    hierarchies: &[Hierarchy],
    cgroups_path: &str,
    limits: &Limits,
    record: &PodRecord,
) -> Result<PodCgroup, CgroupError> {
    let relative = expand(cgroups_path)?.join(format!("coffer-{}", record.key().pod()));
    let mut made = PodCgroup::default();
    let resources = hierarchies.iter().map(|each| Resource::Cgroup { path: each.root.join(&relative) });
    record.add_all(resources.collect()).map_err(CgroupError::Record)?;
    for hierarchy in hierarchies {
        let path = hierarchy.root.join(&relative);
        match make(hierarchy, &relative, &mut made.warnings) {
            Ok(()) => {
                made.warnings.extend(set_limits(hierarchy, &path, limits));
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

fn set_limits(hierarchy: &Hierarchy, path: &Path, limits: &Limits) -> Vec<String> {
    settings(hierarchy, limits)
        .into_iter()
        .filter_map(|(file, value)| write(&path.join(file), &value))
        .collect()
}

/// Files and values of a cgroup for these limits.
fn settings(hierarchy: &Hierarchy, limits: &Limits) -> Vec<(&'static str, String)> {
    let has = |name: &str| hierarchy.controllers.iter().any(|have| have == name);
    let period = limits.cpu_period_us.filter(|period| *period > 0).unwrap_or(DEFAULT_PERIOD_US);
    let mut settings = Vec::new();
    match hierarchy.version {
        Version::Two => {
            if has("cpu") {
                settings.extend(limits.cpu_quota_us.map(|quota| ("cpu.max", format!("{quota} {period}"))));
                settings.extend(limits.cpu_shares.map(|shares| ("cpu.weight", weight(shares).to_string())));
            }
            if has("memory") {
                settings.extend(limits.memory_bytes.map(|bytes| ("memory.max", bytes.to_string())));
            }
        }
        Version::One => {
            if has("cpu") {
                settings.extend(limits.cpu_shares.map(|shares| ("cpu.shares", shares.to_string())));
                settings.extend(limits.cpu_quota_us.map(|_| ("cpu.cfs_period_us", period.to_string())));
                settings.extend(limits.cpu_quota_us.map(|quota| ("cpu.cfs_quota_us", quota.to_string())));
            }
            if has("memory") {
                settings
                    .extend(limits.memory_bytes.map(|bytes| ("memory.limit_in_bytes", bytes.to_string())));
            }
        }
    }
    settings
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

/// The path below a hierarchy's root.
fn expand(cgroups_path: &str) -> Result<PathBuf, CgroupError> {
    let bad = || CgroupError::Path { path: cgroups_path.to_owned() };
    let plain = match cgroups_path.split(':').collect::<Vec<_>>().as_slice() {
        [path] => path.trim_start_matches('/').to_owned(),
        [slice, prefix, name] => {
            let slices = expand_slice(slice).ok_or_else(bad)?;
            let unit =
                if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
            // A name that is a unit already keeps its suffix.
            let unit = if name.ends_with(".slice") { (*name).to_owned() } else { unit };
            if name.is_empty() || unit.contains('/') {
                return Err(bad());
            }
            format!("{slices}{unit}")
        }
        _ => return Err(bad()),
    };
    let parts = plain.split('/').filter(|part| !part.is_empty());
    if plain.split('/').any(|part| part == ".." || part == ".") || parts.clone().count() == 0 {
        return Err(bad());
    }
    Ok(parts.collect())
}

/// `a-b-c.slice` lies in `a.slice/a-b.slice/`; no slice means systemd's `system.slice`, `-.slice` the root.
fn expand_slice(slice: &str) -> Option<String> {
    if slice.is_empty() {
        return Some("system.slice/".to_owned());
    }
    let stem = slice.strip_suffix(".slice")?;
    if stem == "-" {
        return Some(String::new());
    }
    let mut path = String::new();
    let mut prefix = String::new();
    for part in stem.split('-') {
        if part.is_empty() || part.contains('/') {
            return None;
        }
        prefix.push_str(part);
        path.push_str(&format!("{prefix}.slice/"));
        prefix.push('-');
    }
    Some(path)
}

fn hierarchies() -> Result<Vec<Hierarchy>, CgroupError> {
    let path = Path::new("/proc/self/mountinfo");
    let table = fs::read_to_string(path).map_err(|source| CgroupError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let mut found: Vec<Hierarchy> = table.lines().filter_map(parse_mount).collect();
    for hierarchy in found.iter_mut().filter(|hierarchy| hierarchy.version == Version::Two) {
        let offered = fs::read_to_string(hierarchy.root.join("cgroup.controllers")).unwrap_or_default();
        hierarchy.controllers = wanted(offered.split_whitespace());
    }
    found.retain(|hierarchy| !hierarchy.controllers.is_empty());
    // One controller may be mounted twice (a chroot's /sys); the first mount serves.
    let mut seen: Vec<String> = Vec::new();
    found.retain(|hierarchy| {
        let is_new = !hierarchy.controllers.iter().all(|name| seen.contains(name));
        seen.extend(hierarchy.controllers.iter().cloned());
        is_new
    });
    Ok(found)
}

/// `… ROOT MOUNTPOINT OPTIONS … - TYPE SOURCE SUPEROPTIONS`; v1's controllers are among the last.
fn parse_mount(line: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let root = PathBuf::from(before.split(' ').nth(4)?);
    let mut after = after.split(' ');
    let version = match after.next()? {
        "cgroup2" => Version::Two,
        "cgroup" => Version::One,
        _ => return None,
    };
    let options = after.nth(1).unwrap_or_default();
    Some(Hierarchy { root, version, controllers: wanted(options.split(',')) })
}

fn wanted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.filter(|name| CONTROLLERS.contains(name)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn hierarchy(version: Version, controllers: &[&str]) -> Hierarchy {
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        Hierarchy { root: "/sys/fs/cgroup".into(), version, controllers }
    }

    const LIMITS: Limits = Limits {
        cpu_quota_us: Some(50_000),
        cpu_period_us: None,
        cpu_shares: Some(1024),
        memory_bytes: Some(1 << 28),
    };

    #[test]
    fn a_systemd_path_is_expanded_slice_by_slice() {
        let path = expand("kubepods-burstable-podab_c.slice:cri-containerd:id1").expect("expands");
        let expected = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_c.slice/cri-containerd-id1.scope";
        assert_eq!(path, PathBuf::from(expected));
    }

    #[test]
    fn a_systemd_path_without_a_slice_lies_in_the_systems() {
        assert_eq!(expand(":docker:id1").expect("expands"), PathBuf::from("system.slice/docker-id1.scope"));
    }

    #[test]
    fn a_plain_path_is_taken_below_the_root() {
        assert_eq!(expand("/default/id1").expect("expands"), PathBuf::from("default/id1"));
    }

    #[test]
    fn a_path_that_climbs_is_refused() {
        assert!(matches!(expand("/a/../../b"), Err(CgroupError::Path { .. })));
        assert!(matches!(expand("a.slice:x:../../y"), Err(CgroupError::Path { .. })));
    }

    #[test]
    fn the_root_is_refused() {
        assert!(matches!(expand("/"), Err(CgroupError::Path { .. })));
        assert!(matches!(expand(""), Err(CgroupError::Path { .. })));
    }

    #[test]
    fn shares_map_to_weights_as_everywhere() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }

    #[test]
    fn version_two_takes_quota_and_period_in_one_file() {
        let settings = settings(&hierarchy(Version::Two, &["cpu", "memory"]), &LIMITS);
        let expected = [("cpu.max", "50000 100000"), ("cpu.weight", "39"), ("memory.max", "268435456")];
        assert_eq!(settings, expected.map(|(file, value)| (file, value.to_owned())));
    }

    #[test]
    fn version_one_gets_only_the_files_of_its_controllers() {
        let settings = settings(&hierarchy(Version::One, &["memory"]), &LIMITS);
        assert_eq!(settings, [("memory.limit_in_bytes", "268435456".to_owned())]);
    }

    #[test]
    fn a_version_one_mount_is_read() {
        let line = "30 25 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let expected = Hierarchy {
            root: "/sys/fs/cgroup/cpu".into(),
            version: Version::One,
            controllers: vec!["cpu".to_owned()],
        };
        assert_eq!(parse_mount(line), Some(expected));
    }

    #[test]
    fn two_pods_with_one_path_do_not_share_a_cgroup() {
        let root = tempfile::tempdir().expect("a directory");
        let fake = Hierarchy { root: root.path().join("cgroup"), version: Version::One, controllers: vec![] };
        let one = create_in(std::slice::from_ref(&fake), "/same", &LIMITS, &record(&root.path().join("1")));
        let other = record_of(&root.path().join("2"), "p2");
        let other = create_in(&[fake], "/same", &LIMITS, &other);
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
        let made = create_in(&[v2], &name, &LIMITS, &record).expect("made");
        let mut child = member(&made);
        let report = crate::cleanup::clean(root.path(), &record.snapshot(), soon());
        child.wait().expect("it was killed");
        assert!(report.is_complete(), "{report}");
        let leaf = made.procs.first().and_then(|procs| procs.parent()).expect("made");
        assert!(!leaf.exists() && !leaf.parent().is_some_and(Path::exists));
        fs::remove_dir(leaf.ancestors().nth(2).expect("the test's own")).expect("removed");
    }

    fn member(made: &PodCgroup) -> std::process::Child {
        let child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("starts");
        made.procs.iter().for_each(|procs| fs::write(procs, child.id().to_string()).expect("placed"));
        child
    }

    fn soon() -> std::time::Instant {
        std::time::Instant::now() + std::time::Duration::from_secs(5)
    }

    #[test]
    fn this_machines_cgroup_takes_a_process_and_its_limits() {
        let root = tempfile::tempdir().expect("a directory");
        let record = record(root.path());
        let name = format!("/coffer-test-{}", std::process::id());
        let made = create(&name, &LIMITS, &record).expect("made");
        let mut child = member(&made);
        let placed = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).expect("read");
        let report = crate::cleanup::clean(root.path(), &record.snapshot(), soon());
        child.wait().expect("it was killed");
        assert!(report.is_complete(), "{report}");
        assert!(!made.procs.is_empty());
        assert!(placed.contains(&name), "{placed}");
        assert!(!made.procs.iter().any(|procs| procs.exists()));
    }
}
