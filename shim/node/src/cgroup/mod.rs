//! The cgroup that a pod's host processes live in, on cgroup v2 or v1.
//!
//! ```text
//! cgroupsPath  /kubepods/burstable/podX/ID            → the same path below each hierarchy
//!              kubepods-podX.slice:cri-containerd:ID  → /kubepods.slice/kubepods-podX.slice/cri-containerd-ID.scope
//! v2           /sys/fs/cgroup/PATH/coffer-POD                     cpu.weight
//!                                           └── processors        cpu.max, threaded
//! v1           /sys/fs/cgroup/{cpu,memory,pids}/PATH/coffer-POD   cpu.shares
//!                                                └── processors   cpu.cfs_quota_us
//! ```
//! The pod's own directory below its `cgroupsPath` bears its name, because two pods may be given one path, and the
//! cleanup of one, which kills whatever is in its cgroup, must not reach the other.
//!
//! A quota is the processors' alone: held against all of the machine it would make its devices wait as well, and with
//! them a guest that has not used its time up. What the devices take is the overhead that the `RuntimeClass` books.
//!
//! With a systemd-style path the directory is made directly, not asked of systemd: a scope with processes in it is
//! left alone by systemd, and the slices above it, with the pod's limits, are kubelet's. Never here: statistics, or a
//! decision on how large a limit should be.

mod hierarchy;
mod path;
mod place;
mod processors;

pub use place::{CgroupError, Limits, PodCgroup, create};
pub use processors::{Processors, Quota};
