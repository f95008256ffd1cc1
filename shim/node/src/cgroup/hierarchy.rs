//! Which hierarchies of cgroups the node has, and with which controllers.

use std::fs;
use std::path::PathBuf;

/// Controllers that a pod's cgroup wants.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// A mounted hierarchy with controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) root: PathBuf,
    pub(super) version: Version,
    pub(super) controllers: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// Every one with a controller that is wanted, from this table of mounts (`/proc/self/mountinfo`).
pub(super) fn hierarchies(table: &str) -> Vec<Hierarchy> {
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
    found
}

/// `… ROOT MOUNTPOINT OPTIONS … - TYPE SOURCE SUPEROPTIONS`; v1's controllers are among the last.
pub(super) fn parse_mount(line: &str) -> Option<Hierarchy> {
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

impl Hierarchy {
    /// Whether it has this controller.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|have| have == controller)
    }
}

fn wanted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    names.filter(|name| CONTROLLERS.contains(name)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
