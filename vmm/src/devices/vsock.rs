//! The vsock device of `crate::vsock` behind this monitor's transport.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_queue::{Queue, QueueT};

use crate::memory::Memory;
use crate::virtio::{Cause, Device, Fault, Identity, Served};
use crate::vsock;

/// virtio-vsock (virtio 1.2, section 5.10): a queue to the guest, one from it, and one for events, of which there are none.
#[derive(Debug)]
pub struct Vsock(vsock::Device);

impl Vsock {
    /// Takes over the device.
    pub fn new(device: vsock::Device) -> Vsock {
        Vsock(device)
    }

    /// Looks at the host's sockets; a failure of that is the host's, and leaves the guest's packets to be moved.
    fn look(&mut self) -> io::Result<()> {
        self.0.poll_host()
    }
}

impl Device for Vsock {
    fn identity(&self) -> Identity {
        Identity { kind: VIRTIO_ID_VSOCK, features: 0, queues: &[256, 256, 16] }
    }

    fn configuration(&self, offset: u64, data: &mut [u8]) {
        let configuration = self.0.guest_cid().to_le_bytes();
        let rest = usize::try_from(offset).ok().and_then(|offset| configuration.get(offset..)).unwrap_or(&[]);
        for (place, byte) in data.iter_mut().zip(rest) {
            *place = *byte;
        }
    }

    fn start(&mut self, _features: u64) {}

    fn stop(&mut self) {
        self.0.reset();
    }

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], cause: Cause) -> Result<Served, Fault> {
        let [rx, tx, ..] = queues else {
            // A client of a guest that broke a ring is refused, and does not wait for an answer that never comes.
            self.0.stop();
            // What fails is the host's, and is tried again with the next client.
            let _ = self.look();
            return Ok(Served::default());
        };
        if !rx.ready() || !tx.ready() {
            return Ok(Served::default());
        }
        let before = self.0.counts().malformed;
        if !matches!(cause, Cause::Queue(_)) && self.look().is_err() {
            // Nothing that the guest did: it is tried again with the next event.
            return Ok(Served { again: false, ..Served::default() });
        }
        let moved = self.0.serve(memory, rx, tx).map_err(vsock::RingFault::into_parts);
        let moved = moved.map_err(|(ring, source)| Fault { ring, source })?;
        let mut served = Served { again: moved.again, ..Served::default() };
        for (index, used) in moved.used.into_iter().enumerate() {
            if used {
                served.used(index);
            }
        }
        served.malformed = self.0.counts().malformed - before;
        Ok(served)
    }

    fn hosts(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.0.as_fd()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::Duration;
    use vm_memory::GuestAddress;

    #[test]
    fn a_client_of_a_guest_that_broke_a_ring_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut vsock = Vsock::new(vsock::Device::new(3, listener, &path, 16).unwrap());
        let memory = Memory::from_ranges(&[(GuestAddress(0), 4096)]).unwrap();
        // As the transport does it: the device is stopped first.
        vsock.stop();
        for _ in 0..2 {
            let mut client = UnixStream::connect(&path).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            // Fails when the end is seen at once.
            let _ = client.write_all(b"CONNECT 1024\n");
            vsock.serve(&memory, &mut [], Cause::Host(0)).unwrap();
            assert!(
                !matches!(client.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            );
        }
    }
}
