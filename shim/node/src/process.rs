//! Names a process so that a recycled pid is never taken for it, and kills by that name.
//!
//! A pid alone may belong to somebody else a second later. The pair of pid and start time (field 22 of
//! `/proc/PID/stat`, in clock ticks since boot) is unique within one boot, and the record holds the boot's id.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// One process of the current boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id in the host's pid namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
}

/// What [`ProcessId::kill`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Killed {
    /// It was alive and got the signal.
    Signalled,
    /// It was gone, a zombie, or its pid belongs to another process now.
    AlreadyGone,
}

/// A process held by a descriptor: it can be signalled and awaited even after its pid is recycled.
#[derive(Debug)]
pub struct ProcessHandle {
    pidfd: OwnedFd,
}

impl ProcessId {
    /// The identity of a living process.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = read_stat(pid)?;
        Ok(ProcessId { pid, start_ticks: stat.start_ticks })
    }

    /// The identity of the calling process.
    pub fn current() -> io::Result<Self> {
        Self::of(rustix::process::getpid().as_raw_nonzero().get())
    }

    /// Whether the process still runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        read_stat(self.pid).is_ok_and(|stat| stat.start_ticks == self.start_ticks && !stat.is_dead())
    }

    /// Opens the process if it still runs.
    ///
    /// The start time is compared after the descriptor is open, so the descriptor cannot be another process's.
    pub fn open(&self) -> io::Result<Option<ProcessHandle>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            // INVAL: the pid is a thread, so not the leader that was recorded.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(err) => return Err(err.into()),
        };
        Ok(self.is_alive().then_some(ProcessHandle { pidfd }))
    }

    /// Sends SIGKILL if the process still runs.
    pub fn kill(&self) -> io::Result<Killed> {
        match self.open()? {
            Some(handle) => handle.kill(),
            None => Ok(Killed::AlreadyGone),
        }
    }
}

impl ProcessHandle {
    /// Sends SIGKILL.
    pub fn kill(&self) -> io::Result<Killed> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) => Ok(Killed::Signalled),
            Err(rustix::io::Errno::SRCH) => Ok(Killed::AlreadyGone),
            Err(err) => Err(err.into()),
        }
    }

    /// Waits until the process has ended (a zombie has); `false` when the deadline passed first.
    pub fn wait_until(&self, deadline: Instant) -> io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&to_timespec(left))) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }
}

/// The id of the current boot, as the kernel prints it.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn to_timespec(duration: Duration) -> rustix::event::Timespec {
    rustix::event::Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

struct Stat {
    state: char,
    start_ticks: u64,
}

impl Stat {
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

fn read_stat(pid: i32) -> io::Result<Stat> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    parse_stat(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unexpected form of /proc/PID/stat"))
}

/// The command name (field 2) is in parentheses and may hold spaces and parentheses, so fields count from the last
/// closing one: state is the first after it, start time the twentieth.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    fn sleeper() -> Child {
        // `cat` with an open pipe as its input runs until the pipe closes.
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat starts")
    }

    fn id_of(child: &Child) -> ProcessId {
        ProcessId::of(i32::try_from(child.id()).expect("a pid fits")).expect("it runs")
    }

    #[test]
    fn a_command_name_with_spaces_and_parentheses_does_not_shift_fields() {
        let text =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1000 10 18446744073709551615";
        let stat = parse_stat(text).expect("it parses");
        assert_eq!((stat.state, stat.start_ticks), ('S', 4242));
    }

    #[test]
    fn a_recorded_process_is_killed() {
        let mut child = sleeper();
        assert_eq!(id_of(&child).kill().expect("kill works"), Killed::Signalled);
        assert!(!child.wait().expect("it ended").success());
    }

    #[test]
    fn a_recycled_pid_is_spared() {
        let mut child = sleeper();
        let mut recycled = id_of(&child);
        recycled.start_ticks -= 1;
        assert_eq!(recycled.kill().expect("kill works"), Killed::AlreadyGone);
        assert!(id_of(&child).is_alive());
        child.kill().expect("the test ends its child");
        child.wait().expect("it ended");
    }

    #[test]
    fn a_zombie_counts_as_gone() {
        let mut child = sleeper();
        let id = id_of(&child);
        let handle = id.open().expect("open works").expect("it runs");
        handle.kill().expect("kill works");
        assert!(handle.wait_until(Instant::now() + Duration::from_secs(10)).expect("poll works"));
        assert!(!id.is_alive());
        child.wait().expect("it ended");
    }

    #[test]
    fn waiting_for_a_living_process_ends_at_the_deadline() {
        let mut child = sleeper();
        let handle = id_of(&child).open().expect("open works").expect("it runs");
        assert!(!handle.wait_until(Instant::now()).expect("poll works"));
        child.kill().expect("the test ends its child");
        child.wait().expect("it ended");
    }
}
