//! Carries the steps out.
//!
//! Killing is two passes: every process gets its SIGKILL first, then all are awaited together, so that the time is
//! that of the slowest and not the sum.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

use super::plan::{Step, plan};
use super::turn::{self, Turn};
use super::{Outcome, Report};
use crate::net;
use crate::process::{ProcessHandle, ProcessId, boot_id};
use crate::record::{PodKey, Record};
use crate::uid;

/// Pause between two tries to remove a cgroup that a dead process is about to leave.
const LEAVE_PAUSE: Duration = Duration::from_millis(5);

/// Undoes everything in `record`, the pod's run directory last; `deadline` bounds all waits.
///
/// The pod's shim, unless it is the caller, is ended first. When another pod has taken the name since `record` was
/// read, nothing is done.
pub fn clean(run_root: &Path, record: &Record, deadline: Instant) -> Report {
    // Without a boot id or an identity of our own nothing may be killed: an impossible one keeps every step harmless.
    let boot = boot_id().unwrap_or_default();
    let own = ProcessId::current().unwrap_or(ProcessId { pid: 0, start_ticks: 0 });
    let run_dir = record.key.run_dir(run_root);
    // A shim that runs may still write to the record, or be cleaning. One that cannot be ended does neither any more.
    if record.boot_id == boot && record.shim != own && end(record.shim, deadline).is_err() {
        return run(plan(record, &run_dir, &boot, own), deadline);
    }
    in_turn(&run_dir, deadline, |turn| match (turn, Record::load(&run_dir)) {
        (Turn::Ours { .. }, Ok(now)) if !is_same_pod(&now, record) => Report::default(),
        (Turn::Ours { .. }, Ok(now)) => run(plan(&now, &run_dir, &boot, own), deadline),
        (Turn::Ours { .. }, Err(_)) => run(plan(record, &run_dir, &boot, own), deadline),
        (Turn::NoDirectory, _) => {
            let steps = plan(record, &run_dir, &boot, own);
            run(steps.into_iter().filter(|step| !is_of_directory(step, &run_dir)).collect(), deadline)
        }
    })
}

/// Whether a step is about what is the pod's only while its run directory is there: another pod may have these by now.
fn is_of_directory(step: &Step, run_dir: &Path) -> bool {
    match step {
        Step::User(_) | Step::Uid { .. } => true,
        Step::Directory(path) => path == run_dir,
        _ => false,
    }
}

/// Undoes what can be found without a record (missing or corrupt): processes of the pod's user, the bundle's mounts,
/// the run directory.
pub fn clean_unrecorded(run_root: &Path, key: &PodKey, bundle: Option<&Path>, deadline: Instant) -> Report {
    let run_dir = key.run_dir(run_root);
    in_turn(&run_dir, deadline, |_| {
        let owner = key.to_string();
        let lease = uid::leased_to(run_root, &owner);
        let mut steps = Vec::new();
        steps.extend(lease.as_ref().map(|(uid, _)| Step::User(*uid)));
        steps.extend(bundle.map(|bundle| Step::Unmount(bundle.join("rootfs"))));
        steps.push(Step::Unmount(run_dir.clone()));
        steps.extend(lease.map(|(_, path)| Step::Uid { path, owner }));
        steps.push(Step::Directory(run_dir.clone()));
        run(steps, deadline)
    })
}

fn in_turn(run_dir: &Path, deadline: Instant, work: impl FnOnce(&Turn) -> Report) -> Report {
    match turn::take(run_dir, deadline) {
        Ok(turn) => work(&turn),
        Err(err) => {
            let step = format!("have {} to ourselves", run_dir.display());
            Report { steps: vec![(step, Outcome::Failed(err.to_string()))] }
        }
    }
}

/// Whether a record that was read again is of the same pod, not of a later one with the name.
fn is_same_pod(now: &Record, then: &Record) -> bool {
    (&now.boot_id, now.shim, now.created_unix_ms) == (&then.boot_id, then.shim, then.created_unix_ms)
}

fn end(process: ProcessId, deadline: Instant) -> io::Result<()> {
    let Some(handle) = process.open()? else { return Ok(()) };
    handle.kill()?;
    match handle.wait_until(deadline)? {
        true => Ok(()),
        false => Err(still_there()),
    }
}

fn still_there() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "still there at the deadline")
}

fn run(steps: Vec<Step>, deadline: Instant) -> Report {
    let mut report = Report::default();
    let killed: Vec<io::Result<Vec<ProcessHandle>>> = steps.iter().map(kill).collect();
    for (step, killed) in steps.into_iter().zip(killed) {
        let last = matches!(step, Step::Directory(_)) && !report.is_complete() && is_record_dir(&step);
        let outcome = match killed {
            // The record stays for another try.
            _ if last => Outcome::Failed("kept, because other steps failed".to_owned()),
            Ok(handles) => undo(&step, &handles, deadline),
            Err(err) => Outcome::Failed(err.to_string()),
        };
        report.steps.push((step.to_string(), outcome));
    }
    report
}

fn is_record_dir(step: &Step) -> bool {
    matches!(step, Step::Directory(path) if path.join(crate::record::RECORD_FILE).exists())
}

/// Sends SIGKILL to the processes of a step and returns those to await.
fn kill(step: &Step) -> io::Result<Vec<ProcessHandle>> {
    let processes = match step {
        Step::Kill { process, .. } => vec![*process],
        Step::Cgroup(path) => members(path)?,
        Step::User(uid) => processes_of(*uid)?,
        _ => Vec::new(),
    };
    let mut handles = Vec::new();
    for process in processes {
        if let Some(handle) = process.open()? {
            handle.kill()?;
            handles.push(handle);
        }
    }
    Ok(handles)
}

fn undo(step: &Step, killed: &[ProcessHandle], deadline: Instant) -> Outcome {
    for handle in killed {
        match handle.wait_until(deadline) {
            Ok(true) => {}
            Ok(false) => return Outcome::Failed(still_there().to_string()),
            Err(err) => return Outcome::Failed(err.to_string()),
        }
    }
    let removed = match step {
        Step::Kill { .. } => Ok(false),
        Step::User(uid) => end_stragglers(|| processes_of(*uid), deadline),
        Step::Cgroup(path) => {
            end_stragglers(|| members(path), deadline).and_then(|_| remove_cgroup(path, deadline))
        }
        Step::Tap { netns, tap, link } => net::remove_tap(netns, tap, link).map_err(io::Error::other),
        Step::NftTable { netns, table } => net::remove_table(netns, table).map_err(io::Error::other),
        Step::Unmount(path) => detach_mounts(path),
        Step::File(path) => existed(fs::remove_file(path)),
        Step::Directory(path) => remove_directory(path),
        Step::Uid { path, owner } => uid::release(path, owner),
    };
    match removed {
        Ok(removed) if removed || !killed.is_empty() => Outcome::Removed,
        Ok(_) => Outcome::Nothing,
        Err(err) => Outcome::Failed(with_causes(&err)),
    }
}

/// Kills what was forked between the listing and the signals, until nothing is left or the deadline has passed.
fn end_stragglers(list: impl Fn() -> io::Result<Vec<ProcessId>>, deadline: Instant) -> io::Result<bool> {
    let mut found = false;
    loop {
        let living: Vec<ProcessId> = list()?.into_iter().filter(ProcessId::is_alive).collect();
        if living.is_empty() {
            return Ok(found);
        }
        found = true;
        for process in living {
            let Some(handle) = process.open()? else { continue };
            handle.kill()?;
            if !handle.wait_until(deadline)? {
                return Err(still_there());
            }
        }
    }
}

/// Processes in a cgroup and in the cgroups below it.
fn members(cgroup: &Path) -> io::Result<Vec<ProcessId>> {
    let mut found = Vec::new();
    for dir in cgroups_below(cgroup)? {
        let text = match fs::read_to_string(dir.join("cgroup.procs")) {
            // Of a threaded one the processes are listed above it.
            Err(err) if is_gone(&err) || err.raw_os_error() == Some(libc::EOPNOTSUPP) => continue,
            other => other?,
        };
        found.extend(text.lines().filter_map(|pid| ProcessId::of(pid.parse().ok()?).ok()));
    }
    let own = ProcessId::current()?;
    found.retain(|process| *process != own);
    Ok(found)
}

/// A cgroup and those below it, deepest last.
fn cgroups_below(cgroup: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = vec![cgroup.to_owned()];
    let mut next = 0;
    while let Some(dir) = dirs.get(next).cloned() {
        next += 1;
        match fs::read_dir(&dir) {
            Err(err) if is_gone(&err) => {}
            Err(err) => return Err(err),
            Ok(entries) => {
                let below =
                    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
                dirs.extend(below.map(|entry| entry.path()));
            }
        }
    }
    Ok(dirs)
}

/// Removes a cgroup with those below it, and its parent (the container's `cgroupsPath`) if nobody else is in it.
///
/// The parent goes even when the cgroup is gone already: who cleaned before may have been killed between the two.
fn remove_cgroup(cgroup: &Path, deadline: Instant) -> io::Result<bool> {
    let mut removed = false;
    for dir in cgroups_below(cgroup)?.iter().rev() {
        removed |= remove_left_cgroup(dir, deadline)?;
    }
    // The kernel refuses to remove a cgroup that has members or children, which is what is wanted.
    Ok(removed | cgroup.parent().is_some_and(|parent| fs::remove_dir(parent).is_ok()))
}

/// A process that has ended leaves its cgroup a moment later: when its last thread is switched out, or when it is
/// reaped, which is somebody else's to do.
fn remove_left_cgroup(dir: &Path, deadline: Instant) -> io::Result<bool> {
    loop {
        match existed(fs::remove_dir(dir)) {
            Err(err) if err.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(LEAVE_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn processes_of(uid: u32) -> io::Result<Vec<ProcessId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let owned = entry.metadata().is_ok_and(|metadata| metadata.uid() == uid);
        found.extend(pid.filter(|_| owned).and_then(|pid| ProcessId::of(pid).ok()));
    }
    Ok(found)
}

/// Removes a directory, unless something is still mounted below it: that would be removed too.
fn remove_directory(path: &Path) -> io::Result<bool> {
    if let Some(point) = mounts_below(path)?.first() {
        return Err(io::Error::other(format!("{} is still mounted", point.display())));
    }
    existed(fs::remove_dir_all(path))
}

/// Detaches every mount at or below a path, the latest first.
fn detach_mounts(path: &Path) -> io::Result<bool> {
    let mut removed = false;
    for point in mounts_below(path)?.iter().rev() {
        match unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => removed = true,
            // Not a mount point any more: it went with one above it.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(removed)
}

fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter_map(mount_point).filter(|point| point.starts_with(path)).collect())
}

/// The fifth field, in which the kernel writes space, tab, line feed and backslash as three octal digits.
fn mount_point(line: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let field = line.split(' ').nth(4)?.as_bytes();
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

fn existed(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(err) if is_gone(&err) => Ok(false),
        Err(err) => Err(err),
    }
}

/// cgroupfs answers ENODEV for the files of a cgroup that was removed after they were opened.
fn is_gone(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::NotFound || err.raw_os_error() == Some(libc::ENODEV)
}

fn with_causes(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_spaces_is_read() {
        let line = r"36 35 98:0 / /mnt/a\040b\134c rw,noatime - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/mnt/a b\c")));
    }
}
