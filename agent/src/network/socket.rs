//! A blocking rtnetlink socket: the kernel answers within the system call, so nothing ever waits.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::message::{Message, Request, messages, number};

/// `NLMSG_ERROR`, whose errno 0 is an acknowledgement.
const ERROR: u16 = 2;
/// `NLMSG_DONE`
const DONE: u16 = 3;
/// Datagrams of a dump are at most this long (netlink(7) asks for 8 KiB at least).
const BUFFER: usize = 32 * 1024;

/// An open socket to the network namespace of the thread that opened it.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens the socket.
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Sends a request that changes something, and returns the kernel's verdict.
    pub(super) fn change(&mut self, request: Request) -> io::Result<()> {
        self.exchange(request, |_| {})
    }

    /// Sends a dump request, and hands every answer to `each`.
    pub(super) fn dump(&mut self, request: Request, each: impl FnMut(Message<'_>)) -> io::Result<()> {
        self.exchange(request, each)
    }

    fn exchange(&mut self, request: Request, mut each: impl FnMut(Message<'_>)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence);
        sendto(self.socket.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let datagram = buffer.get(..length).unwrap_or_default();
            for message in messages(datagram).filter(|message| message.sequence == self.sequence) {
                match message.kind {
                    ERROR => return verdict(message.body),
                    DONE => return Ok(()),
                    _ => each(message),
                }
            }
        }
    }
}

fn verdict(body: &[u8]) -> io::Result<()> {
    match number(body, 0) {
        Some(0) => Ok(()),
        // The kernel sends the negated errno as a signed number.
        Some(code) => Err(io::Error::from_raw_os_error(code.cast_signed().wrapping_neg())),
        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}
