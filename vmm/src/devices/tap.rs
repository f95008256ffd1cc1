#![allow(unsafe_code)] // A tap's header size and offloads are set by ioctls.
//! One attached queue of a tap, whose packets have virtio's header.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
};

use crate::spec::MAX_NIC_QUEUES;

/// Bytes before each packet: `struct virtio_net_hdr_v1`.
pub(super) const HEADER: usize = 12;

/// What the tap may leave to whoever gets its packets (`linux/if_tun.h`).
const TUN_F_CSUM: u32 = 1;
const TUN_F_TSO4: u32 = 2;
const TUN_F_TSO6: u32 = 4;

/// Why a tap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Its header size cannot be set, or it cannot be made non-blocking.
    #[error("cannot set up the tap: it must be attached, with IFF_VNET_HDR")]
    Tap(#[source] io::Error),
    /// There are more of them than an interface can have.
    #[error("a tap with {found} queues is too much: at most {MAX_NIC_QUEUES} are served")]
    Queues {
        /// How many.
        found: usize,
    },
}

/// The tap. Copies are the same one, with the same descriptor.
#[derive(Debug, Clone)]
pub struct Tap(Arc<File>);

impl Tap {
    /// Takes over a tap's descriptor.
    pub fn new(tap: OwnedFd) -> Result<Tap, NetError> {
        rustix::io::ioctl_fionbio(&tap, true).map_err(|error| NetError::Tap(error.into()))?;
        let size = libc::c_int::try_from(HEADER).unwrap_or(0);
        // SAFETY: the request reads an int, which lives through the call.
        let outcome = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &size) };
        if outcome < 0 {
            return Err(NetError::Tap(io::Error::last_os_error()));
        }
        Ok(Tap::of(tap))
    }

    /// Something that is set up already.
    pub(super) fn of(tap: OwnedFd) -> Tap {
        Tap(Arc::new(File::from(tap)))
    }

    /// Tells it what a guest that has taken these features can do itself.
    pub(super) fn set_offloads(&self, features: u64) {
        let has = |bit: u32| features >> bit & 1 == 1;
        let mut offloads = 0;
        if has(VIRTIO_NET_F_GUEST_CSUM) {
            offloads |= TUN_F_CSUM;
            offloads |= if has(VIRTIO_NET_F_GUEST_TSO4) { TUN_F_TSO4 } else { 0 };
            offloads |= if has(VIRTIO_NET_F_GUEST_TSO6) { TUN_F_TSO6 } else { 0 };
        }
        // SAFETY: the request takes a number. A tap that refuses it does everything itself, as before.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
    }

    /// Has the kernel give packets to this queue of the tap, or no longer: says whether it does as told.
    pub(super) fn attach(&self, attached: bool) -> bool {
        let flags = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        // SAFETY: of `struct ifreq`, which is all numbers and addresses, zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap_or(0);
        // SAFETY: the request reads a `struct ifreq`, which lives through the call.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETQUEUE, &raw const request) >= 0 }
    }

    /// Reads a packet with its header: its length, or nothing if there is none.
    pub(super) fn read(&self, packet: &mut [u8]) -> Option<usize> {
        loop {
            match rustix::io::read(&*self.0, &mut *packet) {
                Ok(length) => return (length > HEADER).then_some(length),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
