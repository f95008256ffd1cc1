//! One look at the node.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::processes::of_node;
use crate::containerd::Layout;

/// What outlives pods on purpose: the traces of past starts, and which guest images were verified since the boot.
const KEPT: &[&str] = &[".traces", ".guest-images"];

/// What kind of thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A process.
    Process,
    /// A tap or tun device in this network namespace, or any link joined to the test's bridge.
    Link,
    /// A mount; a named network namespace is one too.
    Mount,
    /// A cgroup.
    Cgroup,
    /// A Unix socket that nobody listens on any more, or that carries the tag.
    Socket,
    /// A loop device.
    LoopDevice,
    /// A file or directory of a pod.
    File,
}

/// A thing found.
type Item = (Kind, String);

/// Everything found at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    items: BTreeSet<Item>,
}

impl Inventory {
    /// Looks at the node for what belongs to `layout`, and for what can belong to nobody else.
    pub fn take(layout: &Layout) -> Self {
        let mut items = BTreeSet::new();
        let mut add = |kind, names: Vec<String>| items.extend(names.into_iter().map(|name| (kind, name)));
        let mut processes = of_node(layout);
        // containerd is the test's own, and may have been started anew meanwhile.
        processes.retain(|found| found.program != "containerd");
        add(
            Kind::Process,
            processes
                .iter()
                .map(|found| format!("{} {}: {}", found.pid, found.program, found.line))
                .collect(),
        );
        add(Kind::Link, links(&layout.bridge()));
        add(Kind::Mount, mounts(layout));
        add(Kind::Cgroup, cgroups(&layout.tag));
        add(Kind::Socket, sockets(layout));
        add(Kind::LoopDevice, loop_devices(layout));
        add(Kind::File, files(layout));
        Self { items }
    }

    /// What is here and was not there before.
    pub fn added_since(&self, before: &Self) -> Self {
        Self { items: self.items.difference(&before.items).cloned().collect() }
    }

    /// The items of some kinds only.
    pub fn only(&self, kinds: &[Kind]) -> Self {
        Self { items: self.items.iter().filter(|(kind, _)| kinds.contains(kind)).cloned().collect() }
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many things were found.
    pub fn len(&self) -> usize {
        self.items.len()
    }
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, name) in &self.items {
            writeln!(f, "  {kind:?}: {name}")?;
        }
        Ok(())
    }
}

fn links(bridge: &str) -> Vec<String> {
    let joined =
        |path: &Path| fs::read_link(path.join("master")).is_ok_and(|master| master.ends_with(bridge));
    let wanted = |path: &PathBuf| path.join("tun_flags").exists() || joined(path);
    entries(Path::new("/sys/class/net")).into_iter().filter(wanted).map(|path| name(&path)).collect()
}

fn mounts(layout: &Layout) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = text.lines().filter(|line| layout.is_marked(line));
    mounted.filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

fn cgroups(tag: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = open.pop() {
        for path in entries(&directory).into_iter().filter(|path| is_real_directory(path)) {
            // The runtimes leave the parent itself, which the sweep removes.
            if path.parent().is_some_and(|parent| parent.to_string_lossy().contains(tag)) {
                found.push(path.display().to_string());
            }
            open.push(path);
        }
    }
    found
}

fn sockets(layout: &Layout) -> Vec<String> {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let bound = text.lines().filter_map(|line| line.split_whitespace().nth(7));
    let mut found: Vec<String> = bound.filter(|path| layout.is_marked(path)).map(str::to_owned).collect();
    let dead = |path: &PathBuf| is_socket(path) && UnixStream::connect(path).is_err();
    found.extend(
        entries(Path::new("/run/containerd/s"))
            .into_iter()
            .filter(dead)
            .map(|path| path.display().to_string()),
    );
    found
}

fn loop_devices(layout: &Layout) -> Vec<String> {
    let devices = entries(Path::new("/sys/block")).into_iter();
    let backed = devices
        .filter_map(|path| Some((name(&path), fs::read_to_string(path.join("loop/backing_file")).ok()?)));
    backed
        .filter(|(_, file)| layout.is_marked(file))
        .map(|(name, file)| format!("{name} of {}", file.trim()))
        .collect()
}

/// Pods' run directories, leases of user ids, and containerd's bundles.
fn files(layout: &Layout) -> Vec<String> {
    let bundles = entries(&layout.run.join("state/io.containerd.runtime.v2.task"));
    let inside = bundles.iter().flat_map(|namespace| entries(namespace));
    let pods =
        entries(&layout.pods()).into_iter().filter(|path| !KEPT.iter().any(|kept| path.ends_with(kept)));
    let pods = pods.flat_map(|namespace| entries(&namespace));
    inside.chain(pods).map(|path| path.display().to_string()).collect()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn is_real_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
