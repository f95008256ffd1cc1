//! Kernel settings and resource limits that containers start from.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

/// Limits of the agent, and of every container that sets none itself. The kernel would derive the latter two from the
/// memory; for processes containers have a control group.
const LIMITS: [(Resource, u64); 3] = [
    (Resource::RLIMIT_NOFILE, 524_288),
    (Resource::RLIMIT_NPROC, RLIM_INFINITY),
    (Resource::RLIMIT_SIGPENDING, 65_536),
];

/// What a distribution sets and a bare kernel does not.
const SYSCTLS: [(&str, &str); 12] = [
    // A kernel that has oopsed may hold locks for ever: the pod is restarted instead.
    ("kernel/panic_on_oops", "1"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/pid_max", "4194304"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_fifos", "1"),
    ("fs/protected_regular", "1"),
    ("fs/inotify/max_user_instances", "8192"),
    ("fs/inotify/max_user_watches", "524288"),
    ("vm/max_map_count", "1048576"),
    ("net/core/somaxconn", "4096"),
    ("net/ipv4/conf/all/promote_secondaries", "1"),
];

/// Applies both; what the kernel lacks is left as it is.
pub(super) fn apply() {
    for (key, value) in SYSCTLS {
        if let Err(error) = fs::write(format!("/proc/sys/{key}"), value) {
            tracing::debug!(key, %error, "setting left as it is");
        }
    }
    for (resource, limit) in LIMITS {
        if let Err(errno) = setrlimit(resource, limit, limit) {
            tracing::warn!(?resource, %errno, "limit left as it is");
        }
    }
}
