//! The end of the guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::Pod;
use super::usage::processes;
use crate::sandbox;

/// How long processes may take to die; those that wait for a device may never.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at what still lives.
const LOOK: Duration = Duration::from_millis(2);

impl Pod {
    /// Ends every process, and writes every volume that outlives the pod to its disk.
    pub(crate) async fn end(&self) {
        for container in self.all() {
            if let Err(error) = container.signal_all(libc::SIGKILL) {
                tracing::debug!(container = container.id(), %error, "not killed by its control group");
            }
        }
        // Every process but this one: execs, orphans, the helpers of a container that is just being made.
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        let deadline = Instant::now() + PATIENCE;
        while processes() > 1 && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for target in lasting_mounts(&mounts) {
            if let Err(errno) = umount2(&target, MntFlags::empty()) {
                tracing::error!(path = %target.display(), %errno, "volume not unmounted");
            }
        }
    }
}

/// Writable mounts of disks, the last one first; the scratch disk dies with the pod and needs no care.
fn lasting_mounts(mountinfo: &str) -> Vec<PathBuf> {
    let lasting = |line: &str| {
        // See proc(5): after the separator come type, source and the options of the file system.
        let (mount, device) = line.split_once(" - ")?;
        let target = PathBuf::from(mount.split(' ').nth(4)?.replace("\\040", " "));
        let mut device = device.split(' ').skip(1);
        let (source, options) = (device.next()?, device.next()?);
        let writable = options.split(',').any(|option| option == "rw");
        let wanted = source.starts_with("/dev/") && writable && target != Path::new(sandbox::SCRATCH);
        wanted.then_some(target)
    };
    let mut mounts: Vec<PathBuf> = mountinfo.lines().filter_map(lasting).collect();
    mounts.reverse();
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writable_disks_that_outlive_the_pod_are_unmounted() {
        let mountinfo = "\
            20 1 0:20 / /proc rw,nosuid - proc proc rw\n\
            30 1 8:16 / /run/coffer/scratch rw - ext4 /dev/sdb rw,discard\n\
            31 1 8:0 / /run/coffer/l/0 ro - erofs /dev/sda ro\n\
            32 1 8:32 / /run/coffer/v/data rw - ext4 /dev/sdc rw\n\
            33 1 8:48 / /run/coffer/v/more\\040data rw - xfs /dev/sdd rw\n";
        assert_eq!(
            lasting_mounts(mountinfo),
            ["/run/coffer/v/more data", "/run/coffer/v/data"].map(PathBuf::from)
        );
    }
}
