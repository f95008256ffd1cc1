//! What moves between a guest and the nested machine, and the guest's side of it: the first process of the guests that are
//! told `lab.role=io`.
//!
//! ```text
//! nested machine ── a line, `take vsock` ──▶ guest      over the one vsock connection, which the guest opens
//!                ── BYTES ──▶ ◀── "ok" ──               bytes on the connection that the line names, the answer on the first
//! ```
//! Both sides know how much each line moves, and time is measured outside.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

use crate::wire::{self, GUEST, HOST, PORT};

/// The host for a guest, and the port that it waits at.
const HOST_CID: u32 = 2;
pub(super) const VSOCK_PORT: u32 = 1023;

/// Bytes that one line moves over a connection, and round trips of one byte.
pub(super) const BYTES: usize = 4 << 20;
pub(super) const TURNS: usize = 256;

/// Bytes of one call on a connection.
const PIECE: usize = 64 << 10;

/// Length of the disk, bytes of one sequential read, and of one at a random place.
pub(super) const DISK: usize = 16 << 20;
const RUN: usize = 128 << 10;
const BLOCK: usize = 4 << 10;

/// Random reads in all, and how many threads read at once where several do.
pub(super) const READS: usize = 512;
const THREADS: usize = 8;

/// What is needed of a connection.
pub(super) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Sends what a line moves.
pub(super) fn give(stream: &mut impl Stream) -> Result<()> {
    let piece = vec![7; PIECE];
    for _ in 0..BYTES / PIECE {
        stream.write_all(&piece)?;
    }
    Ok(())
}

/// Receives what a line moves.
pub(super) fn take(stream: &mut impl Stream) -> Result<()> {
    let (mut piece, mut left) = (vec![0; PIECE], BYTES);
    while left > 0 {
        let most = left.min(PIECE);
        match stream.read(&mut piece[..most])? {
            0 => bail!("the connection ended {left} bytes too early"),
            length => left -= length,
        }
    }
    Ok(())
}

/// Bytes that come back: the side that asks writes first.
pub(super) fn turn(stream: &mut impl Stream, asks: bool) -> Result<()> {
    let mut byte = [7];
    for _ in 0..TURNS {
        if asks {
            stream.write_all(&byte)?;
        }
        stream.read_exact(&mut byte)?;
        if !asks {
            stream.write_all(&byte)?;
        }
    }
    Ok(())
}

/// A line without its end, byte by byte, because what follows it is none.
pub(super) fn line(stream: &mut impl Read) -> Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        stream.read_exact(&mut byte).context("the connection ended")?;
        match byte {
            [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
            [byte] => line.push(byte),
        }
    }
}

/// The guest's side, until the other one is gone.
pub(crate) fn answer() -> Result<()> {
    let fd: OwnedFd = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::empty(), None)?;
    connect(fd.as_raw_fd(), &VsockAddr::new(HOST_CID, VSOCK_PORT)).context("cannot connect to the host")?;
    let mut vsock = File::from(fd);
    wire::configure("eth0", GUEST)?;
    let mut tcp = TcpStream::connect((HOST, PORT)).context("cannot connect over the interface")?;
    tcp.set_nodelay(true)?;
    loop {
        let line = line(&mut vsock)?;
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            [what, "vsock"] => obey(what, &mut vsock),
            [what, "tcp"] => obey(what, &mut tcp),
            ["read", disk] => sequential(disk),
            ["random", disk] => random(disk, 1),
            ["many", disk] => random(disk, THREADS),
            _ => bail!("not understood: {line}"),
        }
        .context(line)?;
        vsock.write_all(b"ok\n")?;
    }
}

fn obey(what: &str, stream: &mut impl Stream) -> Result<()> {
    match what {
        "take" => take(stream),
        "give" => give(stream),
        "turn" => turn(stream, false),
        other => bail!("no way of moving bytes: {other}"),
    }
}

/// The disk, whose bytes do not go through the page cache.
fn open(disk: &str) -> Result<File> {
    Ok(OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(format!("/dev/{disk}"))?)
}

/// Calls `then` with a buffer that begins with a page, as such reads want it.
fn aligned(length: usize, then: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![7; length + BLOCK];
    let start = buffer.as_ptr().align_offset(BLOCK);
    then(&mut buffer[start..start + length])
}

fn sequential(disk: &str) -> Result<()> {
    let disk = open(disk)?;
    aligned(RUN, |buffer| {
        for at in (0..DISK).step_by(RUN) {
            disk.read_exact_at(buffer, at as u64)?;
        }
        Ok(())
    })
}

/// Reads at places that look random and are the same each time.
fn random(disk: &str, threads: usize) -> Result<()> {
    let disk = open(disk)?;
    let read = |seed: u64| {
        aligned(BLOCK, |buffer| {
            let mut state = seed;
            for _ in 0..READS / threads {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let block = (state >> 33) % (DISK / BLOCK) as u64;
                disk.read_exact_at(buffer, block * BLOCK as u64)?;
            }
            Ok(())
        })
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|seed| scope.spawn(move || read(seed as u64))).collect();
        readers.into_iter().try_for_each(|reader| reader.join().ok().context("a reader failed")?)
    })
}
