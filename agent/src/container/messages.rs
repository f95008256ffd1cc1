//! What the agent and a process that it is making say to each other, and the socket they say it on.
//!
//! ```text
//! agent ── first packet: descriptors; the first is a memory file with the [`Instructions`] as JSON ──► helper
//! agent ◄── Report packets, one JSON value each, descriptors attached where said ───────────────────── helper, init
//! agent ── Order packets, one byte ──────────────────────────────────────────────────────────────────► helper, init
//! agent ◄── end of stream: execve has closed the last copy, or all processes are dead ──────────────── init
//! ```
//! A sequenced-packet socket keeps messages apart; both ends are ours, of the same executable.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Deserialize, Serialize};

use super::error::SetupError;
use super::mount_options::Mount;
use super::seccomp::Filter;
use super::spec::{DeviceNode, Namespaces, ProcessSpec, RootOptions};
use super::sys;

/// What a helper is to make.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Instructions {
    /// The init process of a new container.
    Container(Box<NewContainer>),
    /// A further process in a container. Descriptors: the init process's pidfd.
    Exec(Box<NewExec>),
    /// The first process of a pod-level pid namespace, which only reaps.
    PidNamespace,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NewContainer {
    pub(super) id: String,
    pub(super) rootfs: PathBuf,
    pub(super) namespaces: Namespaces,
    /// Whether a pid namespace to join is among the descriptors; else a new one is made.
    pub(super) join_pid_namespace: bool,
    pub(super) mounts: Vec<Mount>,
    pub(super) devices: Vec<DeviceNode>,
    pub(super) root: RootOptions,
    /// The container's cgroup directory, for a container without a cgroup namespace.
    pub(super) cgroup: PathBuf,
    pub(super) process: NewProcess,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NewExec {
    /// Whether the container has a user namespace of its own.
    pub(super) user_namespace: bool,
    pub(super) process: NewProcess,
}

/// The part that init and further processes have in common.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NewProcess {
    pub(super) spec: ProcessSpec,
    pub(super) filter: Option<Filter>,
    /// Make a terminal of this size (columns, rows); else the three standard descriptors are sent along.
    pub(super) terminal: Option<(u16, u16)>,
}

/// What a helper or the process it made tells the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// The helper is in a new user namespace and waits for its id maps.
    NeedsIdMaps,
    /// The process exists, with this pid in the agent's pid namespace. Descriptor: its pidfd.
    Cloned(i32),
    /// Something did not work that a container can live without.
    Warning(String),
    /// All is set up; the process waits for [`Order::Start`]. Descriptor: the terminal's master, if there is one.
    Ready,
    /// A step failed; the process is about to exit.
    Failed(SetupError),
}

/// What the agent tells the helper or the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    IdMapsWritten,
    Start,
}

/// The longest report in bytes; a warning is cut to fit.
const MAX_REPORT: usize = 16 * 1024;

/// The most descriptors that one packet carries.
const MAX_DESCRIPTORS: usize = 8;

impl Order {
    pub(super) fn byte(self) -> u8 {
        match self {
            Order::IdMapsWritten => b'm',
            Order::Start => b's',
        }
    }
}

/// Puts the instructions into a memory file.
pub(super) fn write_instructions(instructions: &Instructions) -> io::Result<OwnedFd> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::memfd_create("instructions", flags)?);
    file.write_all(&serde_json::to_vec(instructions)?)?;
    Ok(file.into())
}

/// Reads instructions out of their memory file.
pub(super) fn read_instructions(file: OwnedFd) -> io::Result<Instructions> {
    let mut file = File::from(file);
    let mut json = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// Sends one packet; `descriptors` need at least one byte of data to travel with.
pub(super) fn send(socket: BorrowedFd<'_>, data: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(data)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one packet; no data is the end of the stream.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut data = vec![0u8; MAX_REPORT];
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(&mut data)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            descriptors.extend(raw.into_iter().map(sys::adopt_received));
        }
    }
    let length = message.bytes;
    data.truncate(length);
    Ok((data, descriptors))
}

/// Sends a report.
pub(super) fn send_report(
    socket: BorrowedFd<'_>,
    report: &Report,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut json = serde_json::to_vec(report)?;
    if json.len() > MAX_REPORT {
        json = serde_json::to_vec(&Report::Warning("a warning was too long to pass on".to_owned()))?;
    }
    send(socket, &json, descriptors)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn instructions_of_a_megabyte_arrive_through_their_file() {
        let (here, there) = pair();
        let spec = ProcessSpec::parse(br#"{"args":["a"],"cwd":"/"}"#).unwrap();
        let spec = ProcessSpec { env: vec!["x".repeat(1 << 20)], ..spec };
        let process = NewProcess { spec: spec.clone(), filter: None, terminal: None };
        let exec = Instructions::Exec(Box::new(NewExec { user_namespace: false, process }));
        let file = write_instructions(&exec).unwrap();
        send(here.as_fd(), b"i", &[file.as_fd()]).unwrap();
        let (_, mut descriptors) = receive(there.as_fd()).unwrap();
        match read_instructions(descriptors.remove(0)).unwrap() {
            Instructions::Exec(exec) => assert_eq!(exec.process.spec, spec),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_closed_socket_reads_as_no_data() {
        let (here, there) = pair();
        drop(there);
        assert!(receive(here.as_fd()).unwrap().0.is_empty());
    }
}
