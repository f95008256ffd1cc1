//! One Unix socket of the host's: its greeting line, and the bytes that it could not take yet.
//!
//! ```text
//! Greeting ── "CONNECT <port>\n" ──▶ Attached(key) ── the connection is over, bytes still wait ──▶ Finishing
//! ```
//! All sockets are non-blocking: whoever does not read delays only its own connection. How many bytes may wait is
//! the credit rule's business, not this file's.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, recv};
use vm_memory::{VolatileMemoryError, VolatileSlice, WriteVolatile};

use super::packet::{Ends, Key};
use crate::virtio::{Buffer, read_from};

/// The longest greeting line, its line feed included: `CONNECT 4294967295\n`.
const MAX_GREETING: usize = 19;

/// What a socket is to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A client that has not said yet which port it wants.
    Greeting,
    /// The host's side of this connection.
    Attached(Key),
    /// Only here until it took the last bytes of a connection that is over.
    Finishing,
}

/// What a client's greeting says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Its line is not complete.
    Incomplete,
    /// It wants this port of the guest.
    Connect(u32),
    /// It says something else, or nothing more.
    Wrong,
}

/// What came of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// So many bytes, not 0.
    Bytes(u32),
    /// Nothing now.
    Dry,
    /// Nothing any more.
    End,
    /// Nothing any more, and the other side does not read either.
    Gone,
}

/// What came of writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    /// Bytes that the socket took.
    pub bytes: u32,
    /// Whether the other side reads no more; what waited is dropped.
    pub gone: bool,
}

/// One socket of the host's.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    waiting: VecDeque<u8>,
    shut_when_empty: bool,
    /// What it is to the device.
    pub role: Role,
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Link {
    /// Wraps a non-blocking socket.
    pub(super) fn new(stream: UnixStream, role: Role) -> Link {
        Link { stream, waiting: VecDeque::new(), shut_when_empty: false, role }
    }

    /// Whether bytes wait for the other side.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes the greeting line, and not a byte of what the client sent after it.
    pub(super) fn read_greeting(&mut self) -> Greeting {
        let mut line = [0; MAX_GREETING];
        let Ok((_, seen)) = recv(&self.stream, &mut line[..], RecvFlags::PEEK) else {
            return Greeting::Incomplete;
        };
        let line = line.get(..seen).unwrap_or_default();
        let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
            return if seen == 0 || seen == MAX_GREETING { Greeting::Wrong } else { Greeting::Incomplete };
        };
        let port = line.get(..end).and_then(parse_greeting);
        let mut taken = [0; MAX_GREETING];
        let taken = taken.get_mut(..=end).unwrap_or_default();
        match (port, recv(&self.stream, taken, RecvFlags::empty())) {
            (Some(port), Ok((_, length))) if length == end + 1 => Greeting::Connect(port),
            _ => Greeting::Wrong,
        }
    }

    /// Tells the client that the guest accepted. The socket is new and empty, so it takes the line whole.
    pub(super) fn greet(&mut self, host_port: u32) -> bool {
        let line = format!("OK {host_port}\n");
        matches!(self.stream.write(line.as_bytes()), Ok(length) if length == line.len())
    }

    /// Reads as much as there is, and room for it, straight into the guest's memory.
    pub(super) fn read(&mut self, payload: &Buffer<'_>) -> Read {
        match read_from(&self.stream, payload) {
            Ok(0) => Read::End,
            Ok(length) => Read::Bytes(u32::try_from(length).unwrap_or(u32::MAX)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Read::Dry,
            Err(_) => Read::Gone,
        }
    }

    /// Writes the guest's bytes straight from its memory; what the socket does not take waits here.
    pub(super) fn deliver(&mut self, payload: &Buffer<'_>) -> Written {
        let mut written = Written { bytes: 0, gone: false };
        for slice in payload.slices() {
            let mut rest = *slice;
            if self.waiting.is_empty() {
                match self.write_now(rest) {
                    Ok(length) => {
                        written.bytes =
                            written.bytes.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
                        let Ok(later) = rest.offset(length) else { break };
                        rest = later;
                    }
                    Err(_) => return Written { gone: true, ..written },
                }
            }
            self.keep(rest);
        }
        written
    }

    fn write_now(&mut self, slice: VolatileSlice<'_>) -> Result<usize, io::Error> {
        let mut done = 0;
        while done < slice.len() {
            let Ok(rest) = slice.offset(done) else { break };
            match retry(|| self.stream.write_volatile(&rest)) {
                Ok(length) => done += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn keep(&mut self, slice: VolatileSlice<'_>) {
        let mut bytes = vec![0; slice.len()];
        slice.copy_to(&mut bytes[..]);
        self.waiting.extend(bytes);
    }

    /// Writes what waits, as much as the socket takes.
    pub(super) fn flush(&mut self) -> Written {
        let mut written = Written { bytes: 0, gone: false };
        while !self.waiting.is_empty() {
            let (front, back) = self.waiting.as_slices();
            match self.stream.write_vectored(&[IoSlice::new(front), IoSlice::new(back)]) {
                Ok(length) => {
                    self.waiting.drain(..length.min(self.waiting.len()));
                    written.bytes = written.bytes.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return written,
                Err(_) => {
                    self.discard();
                    return Written { gone: true, ..written };
                }
            }
        }
        self.waiting = VecDeque::new();
        if self.shut_when_empty {
            self.shut_when_empty = false;
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        written
    }

    /// Drops what waits.
    pub(super) fn discard(&mut self) {
        self.waiting = VecDeque::new();
    }

    /// Closes the ends that the guest closed, the one it sent on only after what still waits.
    pub(super) fn shut(&mut self, ends: Ends) {
        if ends.recv {
            // Refuses what the host still writes, so that its writer learns of it.
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        if ends.send {
            self.shut_when_empty = self.is_waiting();
            if !self.shut_when_empty {
                let _ = self.stream.shutdown(Shutdown::Write);
            }
        }
    }
}

fn parse_greeting(line: &[u8]) -> Option<u32> {
    let port = std::str::from_utf8(line.strip_prefix(b"CONNECT ")?).ok()?;
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    port.parse().ok()
}

fn retry(mut attempt: impl FnMut() -> Result<usize, VolatileMemoryError>) -> Result<usize, io::Error> {
    loop {
        match attempt() {
            Ok(length) => return Ok(length),
            Err(VolatileMemoryError::IOError(error)) if error.kind() == ErrorKind::Interrupted => {}
            Err(VolatileMemoryError::IOError(error)) => return Err(error),
            Err(other) => return Err(io::Error::other(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn pair() -> (Link, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Link::new(ours, Role::Greeting), theirs)
    }

    #[test]
    fn a_greeting_leaves_the_bytes_behind_it() {
        let (mut link, mut client) = pair();
        client.write_all(b"CONNECT 1024\nafter").unwrap();
        assert_eq!(link.read_greeting(), Greeting::Connect(1024));
        let mut rest = [0; 5];
        link.stream.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"after");
    }

    #[test]
    fn a_greeting_in_two_halves_is_awaited() {
        let (mut link, mut client) = pair();
        client.write_all(b"CONNECT 1").unwrap();
        assert_eq!(link.read_greeting(), Greeting::Incomplete);
        client.write_all(b"024\n").unwrap();
        assert_eq!(link.read_greeting(), Greeting::Connect(1024));
    }

    #[test]
    fn the_highest_port_fits_the_line() {
        let (mut link, mut client) = pair();
        client.write_all(b"CONNECT 4294967295\n").unwrap();
        assert_eq!(link.read_greeting(), Greeting::Connect(u32::MAX));
    }

    #[test]
    fn a_port_over_32_bits_is_wrong() {
        assert_eq!(parse_greeting(b"CONNECT 4294967296"), None);
    }

    #[test]
    fn a_signed_port_is_wrong() {
        assert_eq!(parse_greeting(b"CONNECT +1"), None);
    }

    #[test]
    fn a_line_without_end_is_wrong() {
        let (mut link, mut client) = pair();
        client.write_all(&[b'x'; 64]).unwrap();
        assert_eq!(link.read_greeting(), Greeting::Wrong);
    }

    #[test]
    fn a_client_that_leaves_without_a_word_is_wrong() {
        let (mut link, client) = pair();
        drop(client);
        assert_eq!(link.read_greeting(), Greeting::Wrong);
    }

    #[test]
    fn bytes_that_a_full_socket_refuses_wait_and_keep_their_order() {
        let (mut link, mut client) = pair();
        let mut bytes: Vec<u8> = (0..1_000_000_u32).map(|number| number as u8).collect();
        let payload = VolatileSlice::from(bytes.as_mut_slice());
        let written = link.write_now(payload).unwrap();
        link.keep(payload.offset(written).unwrap());
        assert!(link.is_waiting() && written > 0);
        link.shut(Ends { recv: false, send: true });
        client.set_nonblocking(true).unwrap();
        let mut received = Vec::new();
        while received.len() < bytes.len() {
            let _ = client.read_to_end(&mut received);
            assert!(!link.flush().gone);
        }
        client.set_nonblocking(false).unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(received, bytes);
    }

    #[test]
    fn a_reader_that_left_is_noticed_and_nothing_waits_for_it() {
        let (mut link, client) = pair();
        link.waiting.extend(b"late");
        drop(client);
        assert!(link.flush().gone);
        assert!(!link.is_waiting());
    }
}
