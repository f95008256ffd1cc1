//! The agent's side of making a process: spawns the helper, follows its reports, and ends with a process that waits.
//!
//! The helper is a fresh copy of the agent's executable (`child.rs` says why) with the socket as its standard input.
//! Whatever goes wrong, and also when the future is dropped, what was made is killed; the reaper buries it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::process::{Pid, PidfdFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::child;
use super::error::ContainerError;
use super::messages::{self, Instructions, Order, Report};
use super::reaper::{ExitWatch, Launching, Reaper, exited};
use super::report::write_file;
use super::spec::UserMappings;
use super::sys;

/// What [`Launcher::launch`] needs.
pub(super) struct Launch<'a> {
    /// Container id, for errors.
    pub(super) id: &'a str,
    pub(super) instructions: Instructions,
    /// In the order in which the helper takes them.
    pub(super) descriptors: Vec<BorrowedFd<'a>>,
    /// Written when the helper has made a user namespace.
    pub(super) mappings: Option<&'a UserMappings>,
}

/// A process that is set up and waits for [`Launched::start`].
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) process: Made,
    pub(super) terminal: Option<OwnedFd>,
    pub(super) channel: Channel,
}

/// A process that exists.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) exit: ExitWatch,
}

/// Makes processes.
#[derive(Debug, Clone)]
pub(super) struct Launcher {
    reaper: Reaper,
    executable: PathBuf,
}

impl Launcher {
    /// Makes processes that `reaper` buries, out of copies of this executable.
    pub(super) fn new(reaper: Reaper) -> Self {
        Launcher { reaper, executable: PathBuf::from("/proc/self/exe") }
    }

    /// Makes a process and brings it to the point where it waits.
    pub(super) async fn launch(&self, launch: Launch<'_>) -> Result<Launched, ContainerError> {
        let launching = self.reaper.launching();
        let spawned = self.spawn(&launching, &launch).map_err(lacks("start a helper process"))?;
        let mut conversation = Conversation { launch: &launch, launching, spawned, made: None, done: false };
        conversation.follow().await
    }

    fn spawn(&self, launching: &Launching, launch: &Launch<'_>) -> io::Result<Spawned> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let file = messages::write_instructions(&launch.instructions)?;
        let name = match launch.instructions {
            Instructions::PidNamespace => "pause",
            _ => "coffer-agent",
        };
        let helper = Command::new(&self.executable)
            .arg0(name)
            .arg(child::MODE)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .spawn()?;
        let pid = i32::try_from(helper.id()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let pidfd = rustix::process::pidfd_open(raw_pid(pid)?, PidfdFlags::empty())?;
        let exit = launching.register(pid, pidfd.as_fd());
        let spawned = Spawned { helper: Made { pid, pidfd, exit }, channel: Channel::new(ours)? };
        let mut descriptors = vec![file.as_fd()];
        descriptors.extend(&launch.descriptors);
        messages::send(spawned.channel.0.get_ref().as_fd(), b"i", &descriptors)?;
        Ok(spawned)
    }

    /// Watches a child that nobody waits for yet.
    #[cfg(test)]
    pub(super) fn watch(&self, child: std::process::Child) -> io::Result<ExitWatch> {
        let pid = i32::try_from(child.id()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let pidfd = rustix::process::pidfd_open(raw_pid(pid)?, PidfdFlags::empty())?;
        Ok(self.reaper.launching().register(pid, pidfd.as_fd()))
    }
}

struct Spawned {
    helper: Made,
    channel: Channel,
}

/// One launch under way.
struct Conversation<'a> {
    launch: &'a Launch<'a>,
    launching: Launching,
    spawned: Spawned,
    made: Option<Made>,
    done: bool,
}

impl Conversation<'_> {
    /// Helper and process report on their own, so that the process may be ready, or have failed, before the helper
    /// says that it exists.
    async fn follow(&mut self) -> Result<Launched, ContainerError> {
        let id = self.launch.id;
        let mut ready = None;
        let mut failure = None;
        loop {
            match self.spawned.channel.receive().await.map_err(lacks("read a helper's report"))? {
                Some((Report::Warning(warning), _)) => tracing::warn!(container = id, "{warning}"),
                Some((Report::NeedsIdMaps, _)) => self.write_id_maps().map_err(lacks("write id maps"))?,
                Some((Report::Cloned(pid), descriptors)) => self.register(pid, descriptors)?,
                Some((Report::Ready, mut descriptors)) => ready = Some(descriptors.pop()),
                Some((Report::Failed(source), _)) => {
                    failure = Some(ContainerError::Setup { id: id.to_owned(), source });
                }
                None => {
                    let died = self.died().await;
                    return Err(failure.unwrap_or(died));
                }
            }
            if ready.is_some()
                && let Some(process) = self.made.take()
            {
                self.done = true;
                let channel = self.spawned.channel.take_over().map_err(lacks("keep a helper's socket"))?;
                return Ok(Launched { process, terminal: ready.flatten(), channel });
            }
        }
    }

    fn register(&mut self, pid: i32, descriptors: Vec<OwnedFd>) -> Result<(), ContainerError> {
        let pidfd = descriptors.into_iter().next().ok_or(io::Error::from(io::ErrorKind::InvalidData));
        let pidfd = pidfd.map_err(lacks("take over a new process"))?;
        let exit = self.launching.register(pid, pidfd.as_fd());
        self.made = Some(Made { pid, pidfd, exit });
        Ok(())
    }

    fn write_id_maps(&self) -> io::Result<()> {
        let Some(mappings) = self.launch.mappings else {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        };
        let directory = format!("/proc/{}", self.spawned.helper.pid);
        write_file(&format!("{directory}/uid_map"), &mappings.uids)?;
        write_file(&format!("{directory}/gid_map"), &mappings.gids)?;
        self.spawned.channel.send(Order::IdMapsWritten)
    }

    /// Waits until what was made is gone, and says how it went.
    async fn died(&mut self) -> ContainerError {
        let process = self.made.as_mut().unwrap_or(&mut self.spawned.helper);
        let exit = exited(&mut process.exit).await;
        ContainerError::DiedEarly { id: self.launch.id.to_owned(), status: exit.status }
    }
}

impl Drop for Conversation<'_> {
    fn drop(&mut self) {
        if !self.done {
            for made in [Some(&self.spawned.helper), self.made.as_ref()].into_iter().flatten() {
                // It fails for what is dead already.
                let _ = sys::pidfd_signal(made.pidfd.as_fd(), libc::SIGKILL);
            }
        }
    }
}

/// The agent's end of the socket.
#[derive(Debug)]
pub(super) struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Channel(sys::wait_on(socket, Interest::READABLE)?))
    }

    /// Lets the process execute its program, and returns when it has, or why it could not.
    pub(super) async fn start(self, id: &str) -> Result<(), ContainerError> {
        match self.send(Order::Start) {
            // Nobody is left to start: the exit says more than this error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            sent => sent.map_err(lacks("give the order to start"))?,
        }
        loop {
            match self.receive().await.map_err(lacks("read a process's report"))? {
                Some((Report::Failed(source), _)) => {
                    return Err(ContainerError::Setup { id: id.to_owned(), source });
                }
                Some((Report::Warning(warning), _)) => tracing::warn!(container = id, "{warning}"),
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    fn send(&self, order: Order) -> io::Result<()> {
        messages::send(self.0.get_ref().as_fd(), &[order.byte()], &[])
    }

    /// The next report with its descriptors; `None` when all copies of the other end are closed.
    async fn receive(&self) -> io::Result<Option<(Report, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.0.readable().await?;
            let Ok(received) = ready.try_io(|socket| messages::receive(socket.get_ref().as_fd())) else {
                continue;
            };
            return match received {
                Ok((data, _)) if data.is_empty() => Ok(None),
                Ok((data, descriptors)) => Ok(Some((serde_json::from_slice(&data)?, descriptors))),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
                Err(error) => Err(error),
            };
        }
    }

    /// Another owner of the same end.
    fn take_over(&self) -> io::Result<Channel> {
        Channel::new(self.0.get_ref().try_clone()?)
    }
}

fn raw_pid(pid: i32) -> io::Result<Pid> {
    Pid::from_raw(pid).ok_or(io::Error::from(io::ErrorKind::InvalidData))
}

fn lacks(action: &'static str) -> impl FnOnce(io::Error) -> ContainerError {
    move |source| ContainerError::Agent { action, source }
}
