//! The kernel's announcements of devices (NETLINK_KOBJECT_UEVENT).

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use crate::descriptor::Descriptor;

/// The kernel's own multicast group; group 2 is udev's.
const KERNEL: u32 = 1;

/// An open subscription.
pub(super) struct Uevents {
    socket: Descriptor,
}

impl Uevents {
    /// Subscribes.
    pub(super) fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkKObjectUEvent;
        let socket = socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL))?;
        Ok(Uevents { socket: Descriptor::new(socket)? })
    }

    /// Waits until something happened to a block device.
    pub(super) async fn block_device(&self) -> io::Result<()> {
        let mut buffer = vec![0; 8 * 1024];
        loop {
            let received = self
                .socket
                .when_readable(|fd| Ok(recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?))
                .await;
            match received {
                Ok(length) if is_block(buffer.get(..length).unwrap_or_default()) => return Ok(()),
                Ok(_) => {}
                // Some were lost: one of them may have been the one.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// A message is a header, then `KEY=value` strings, each ended by a zero.
fn is_block(message: &[u8]) -> bool {
    message.split(|byte| *byte == 0).any(|pair| pair == b"SUBSYSTEM=block")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_a_disk_is_told_from_others() {
        assert!(is_block(b"add@/devices/x/block/sdb\0ACTION=add\0SUBSYSTEM=block\0"));
        assert!(!is_block(b"add@/devices/x/net/eth0\0ACTION=add\0SUBSYSTEM=net\0"));
    }
}
