//! Removes what one private containerd left on the machine, whether its test ended in order or not.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::processes::of_node;
use crate::containerd::{Layout, TAG};
use crate::run::Run;
use crate::wait;

/// Ends the processes, detaches the mounts, and removes bridge, cgroups and directories of `layout`.
pub fn remove(layout: &Layout) -> Result<()> {
    wait::until_true("the processes of a test to end", Duration::from_secs(10), || {
        let left = of_node(layout);
        for process in &left {
            end(process.pid);
        }
        left.is_empty()
    })?;
    detach(layout);
    if Path::new("/sys/class/net").join(layout.bridge()).exists() {
        Run::new("ip").args(["link", "delete", &layout.bridge()]).text()?;
    }
    remove_cgroups(&layout.tag);
    for directory in [&layout.run, &layout.data, &layout.pods()] {
        if directory.exists() {
            fs::remove_dir_all(directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        // Also the directory of all tests, when this was the last.
        if let Some(parent) = directory.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
    Ok(())
}

/// Layouts of tests whose process is gone; its id is in the tag.
pub fn stale() -> Vec<Layout> {
    let both = ["/run/coffer-test", "/var/lib/coffer-test"];
    let found = both.iter().flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
    let mut tags: Vec<String> = found.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    tags.sort();
    tags.dedup();
    tags.iter().filter(|tag| tag.starts_with(TAG) && !owner_lives(tag)).map(|tag| Layout::new(tag)).collect()
}

fn owner_lives(tag: &str) -> bool {
    let pid = tag.strip_prefix(TAG).and_then(|rest| rest.split('-').next());
    pid.is_some_and(|pid| Path::new("/proc").join(pid).exists())
}

fn end(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // Gone already is as good.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn detach(layout: &Layout) {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter(|line| layout.is_marked(line)).filter_map(|line| line.split(' ').nth(4));
    let points: Vec<PathBuf> = points.map(PathBuf::from).collect();
    for point in points.iter().rev() {
        let _ = umount2(point, MntFlags::MNT_DETACH);
    }
}

fn remove_cgroups(tag: &str) {
    let controllers = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let mut open: Vec<PathBuf> = controllers.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    let mut ours = Vec::new();
    while let Some(directory) = open.pop() {
        let below = fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path());
        open.extend(below.filter(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())));
        if directory.to_string_lossy().contains(tag) {
            ours.push(directory);
        }
    }
    // The deepest first.
    ours.sort();
    for directory in ours.iter().rev() {
        let _ = fs::remove_dir(directory);
    }
}
