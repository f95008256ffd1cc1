//! Opens a tap device in the calling thread's network namespace.

#![allow(unsafe_code)] // TUNSETIFF has no safe wrapper in the crates we use.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use coffer_vmm::spec::MAX_NIC_QUEUES;

/// Where tap devices come from.
const TUN: &str = "/dev/net/tun";

/// `struct ifreq` as TUNSETIFF reads it: the name, then the flags in a union of 24 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: i16,
    padding: [u8; 22],
}

/// Makes a tap whose frames carry a virtio-net header, with one queue and so many more, [`MAX_NIC_QUEUES`] in all at most. It
/// vanishes when the returned descriptors and their copies are closed.
///
/// # Errors
/// What the kernel says: no such device, no right to it, or a name that is too long or taken.
pub fn open(name: &str, more: usize) -> io::Result<(OwnedFd, Vec<OwnedFd>)> {
    let more = more.min(MAX_NIC_QUEUES - 1);
    let several = if more > 0 { libc::IFF_MULTI_QUEUE } else { 0 };
    let first = queue(name, several)?;
    let more = (0..more).map(|_| queue(name, several)).collect::<io::Result<_>>()?;
    Ok((first, more))
}

fn queue(name: &str, several: libc::c_int) -> io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).open(TUN)?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
    let flags = i16::try_from(flags).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], flags, padding: [0; 22] };
    // The last byte stays zero.
    if name.len() >= request.name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface name has at most 15 bytes"));
    }
    for (to, from) in request.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the kernel reads and writes `sizeof(struct ifreq)` = 40 bytes at the pointer, which is what
    // `InterfaceRequest` has (checked below), and `request` outlives the call.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);
