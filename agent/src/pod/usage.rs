//! What the agent and its guest use right now, counted from /proc.

use std::fs;
use std::path::Path;

/// `PF_KTHREAD` of the kernel's `include/linux/sched.h`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Counts for leak tests and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) open_files: u64,
    pub(crate) threads: u64,
    /// All processes of the guest but kernel threads.
    pub(crate) processes: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) mounts: u64,
}

/// Counts now. What cannot be read counts as nothing.
pub(crate) fn usage() -> Usage {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Usage {
        // The directory that is being read is open, too.
        open_files: count(Path::new("/proc/self/fd")).saturating_sub(1),
        threads: count(Path::new("/proc/self/task")),
        processes: processes(),
        resident_bytes: field(&status, "VmRSS:").unwrap_or(0).saturating_mul(1024),
        mounts: fs::read_to_string("/proc/self/mountinfo").map_or(0, |text| lines(&text)),
    }
}

/// How many processes the guest has besides kernel threads.
pub(super) fn processes() -> u64 {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
    let stats = pids.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter(|stat| !is_kernel_thread(stat)).fold(0, |count, _| count + 1)
}

/// The command's name is in parentheses and may hold anything; flags are the seventh field after it (proc(5)).
fn is_kernel_thread(stat: &str) -> bool {
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6));
    flags.and_then(|flags| flags.parse::<u64>().ok()).is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

fn count(directory: &Path) -> u64 {
    fs::read_dir(directory).map_or(0, |entries| entries.fold(0, |count, _| count + 1))
}

fn lines(text: &str) -> u64 {
    text.lines().fold(0, |count, _| count + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_calls_itself_a_parenthesis_is_counted() {
        assert!(!is_kernel_thread("7 (a) b) S 1 7 7 0 -1 4194560 0"));
        assert!(is_kernel_thread("2 (kthreadd) S 0 0 0 0 -1 2129984 0"));
    }

    #[test]
    fn this_process_uses_something() {
        let usage = usage();
        assert!(usage.open_files >= 3 && usage.threads >= 1 && usage.processes >= 1, "{usage:?}");
        assert!(usage.resident_bytes > 0 && usage.mounts > 0, "{usage:?}");
    }
}
