//! What a monitor's processes take, as `/proc` tells it: the one that was started, and its descendants.

use std::fs;

use anyhow::{Context, Result};

/// What marks the memory of our guests: pages that are never joined.
const GUEST: &str = "nh";

/// Memory of a monitor's processes beside the guest's, in KiB.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// Nobody else's.
    pub(crate) anonymous: u64,
    /// Pages of files, which every machine of the monitor's shares.
    pub(crate) file: u64,
    pub(crate) threads: u64,
}

/// One mapping of a process; sizes in KiB, but for its length.
struct Mapping {
    name: String,
    bytes: u64,
    resident: u64,
    /// Of what is resident, its part where others have it too.
    part: u64,
    anonymous: u64,
    /// Whether it is the memory of a guest of ours.
    guests: bool,
}

impl Beside {
    /// Of the monitor `root`. The guest's memory is whatever is mapped from one of `files` or the guest's own, and, for a monitor
    /// that does not name it, what is half as large as `unnamed_mib`.
    pub(crate) fn of(root: u32, files: &[&str], unnamed_mib: Option<u32>) -> Result<Beside> {
        let mut beside = Beside::default();
        for pid in tree(root)? {
            beside.threads += field(pid, "Threads:").context("a process without threads")?;
            let mut file = 0;
            for mapping in mappings(pid)? {
                let of_file = files.iter().any(|file| mapping.name.starts_with(file));
                if of_file
                    || mapping.guests
                    || unnamed_mib.is_some_and(|mib| mapping.bytes >= u64::from(mib) << 19)
                {
                    continue;
                }
                // What a process shares with the one that made it is counted once, where that can be told.
                let all = mapping.anonymous == mapping.resident;
                beside.anonymous += if all { mapping.part } else { mapping.anonymous };
                file += mapping.resident - mapping.anonymous;
            }
            // The processes of one monitor run the same program, and share its pages.
            beside.file = beside.file.max(file);
        }
        Ok(beside)
    }
}

/// The guest's memory that the monitor `root` has, in KiB.
pub(crate) fn of_guest(root: u32) -> Result<u64> {
    let mut sum = 0;
    for pid in tree(root)? {
        let guests = mappings(pid)?.into_iter().filter(|mapping| mapping.guests);
        sum += guests.map(|mapping| mapping.resident).sum::<u64>();
    }
    Ok(sum)
}

/// What the monitor `root` has of `file`, in KiB: all, and its own copies.
pub(crate) fn of_file(root: u32, file: &str) -> Result<(u64, u64)> {
    let (mut all, mut own) = (0, 0);
    for pid in tree(root)? {
        for mapping in mappings(pid)?.iter().filter(|mapping| mapping.name.starts_with(file)) {
            all += mapping.resident;
            own += mapping.anonymous;
        }
    }
    Ok((all, own))
}

fn mappings(pid: u32) -> Result<Vec<Mapping>> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in fs::read_to_string(format!("/proc/{pid}/smaps"))?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (&words[..], found.last_mut()) {
            // A mapping's first line: addresses, rights, offset, device, inode, name.
            ([range, _, _, _, _, name @ ..], _) if range.contains('-') => {
                let name = name.first().copied().unwrap_or_default().to_owned();
                found.push(Mapping {
                    name,
                    bytes: length(range)?,
                    resident: 0,
                    part: 0,
                    anonymous: 0,
                    guests: false,
                });
            }
            (["Rss:", kib, ..], Some(mapping)) => mapping.resident = kib.parse()?,
            (["Pss:", kib, ..], Some(mapping)) => mapping.part = kib.parse()?,
            (["Anonymous:", kib, ..], Some(mapping)) => mapping.anonymous = kib.parse()?,
            (["VmFlags:", flags @ ..], Some(mapping)) => mapping.guests = flags.contains(&GUEST),
            _ => {}
        }
    }
    Ok(found)
}

/// Bytes of a range of addresses.
fn length(range: &str) -> Result<u64> {
    let (start, end) = range.split_once('-').context("a mapping without a range")?;
    Ok(u64::from_str_radix(end, 16)? - u64::from_str_radix(start, 16)?)
}

/// A process and its descendants.
fn tree(root: u32) -> Result<Vec<u32>> {
    let mut found = vec![root];
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Some(parent) = field(pid, "PPid:") else { continue };
        parents.push((pid, parent));
    }
    parents.sort_unstable();
    for (pid, parent) in parents {
        if found.contains(&u32::try_from(parent)?) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// A number of `/proc/PID/status`.
fn field(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}
