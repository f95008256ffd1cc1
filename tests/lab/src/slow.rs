#![allow(unsafe_code)] // The kernel's network block device is set up by ioctls.
//! A disk that waits until it is told to go on: the kernel's network block device, served by this process.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};

use crate::disks::scratch;
use crate::obedient::{Obedient, PATIENCE, obedient};
use crate::stage;

const DEVICE: &str = "/dev/nbd0";

/// Requests of `linux/nbd.h`.
const SET_SOCKET: libc::c_ulong = 0xab00;
const SET_BLOCK_SIZE: libc::c_ulong = 0xab01;
const DO_IT: libc::c_ulong = 0xab03;
const CLEAR_SOCKET: libc::c_ulong = 0xab04;
const SET_BLOCKS: libc::c_ulong = 0xab07;

/// The messages: magic number, kind, handle, offset, length; and magic number, error, handle.
const REQUEST: usize = 28;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const READ: u32 = 0;

/// The disk: its length, and two places at which it waits. Nothing looks there by itself.
const LENGTH: u64 = 4 << 20;
const HELD: [u64; 2] = [2 << 20, 3 << 20];

/// A disk of which some places are read when they are allowed to be, and not before.
struct Slow {
    device: File,
    /// Says where a read has begun that waits.
    begun: Receiver<u64>,
    /// Lets one go on; dropped, it lets all.
    allow: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Slow {
    fn make() -> Result<Slow> {
        stage::load(&["nbd"])?;
        let device = File::options().read(true).write(true).open(DEVICE).context(DEVICE)?;
        let (ours, theirs) = UnixStream::pair()?;
        ask(&device, SET_BLOCK_SIZE, 512)?;
        ask(&device, SET_BLOCKS, LENGTH / 512)?;
        ask(&device, SET_SOCKET, u64::try_from(theirs.as_raw_fd())?)?;
        let (begins, begun) = channel();
        let (allow, allowed) = channel();
        let doing = device.try_clone()?;
        let threads = vec![
            std::thread::spawn(move || {
                // Returns when the socket is closed; the kernel has a reference of its own.
                let _ = ask(&doing, DO_IT, 0);
                drop(theirs);
            }),
            std::thread::spawn(move || {
                let _ = serve(ours, &begins, allowed);
            }),
        ];
        Ok(Slow { device, begun, allow: Some(allow), threads })
    }

    fn open(&self) -> Result<OwnedFd> {
        Ok(File::open(DEVICE).context(DEVICE)?.into())
    }

    /// Waits until a read waits.
    fn await_read(&self) -> Result<u64> {
        self.begun.recv_timeout(PATIENCE).context("nothing is read of the slow disk")
    }

    fn allow(&self) {
        if let Some(allow) = &self.allow {
            let _ = allow.send(());
        }
    }

    fn remove(mut self) -> Result<()> {
        self.allow = None;
        ask(&self.device, CLEAR_SOCKET, 0)?;
        for thread in self.threads {
            thread.join().ok().context("a thread of the slow disk's failed")?;
        }
        Ok(())
    }
}

fn ask(device: &File, number: libc::c_ulong, value: u64) -> Result<()> {
    // SAFETY: each of these requests takes a number.
    let outcome = unsafe { libc::ioctl(device.as_raw_fd(), number as _, value) };
    if outcome < 0 {
        bail!("request {number:#x} of {DEVICE}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// Answers the kernel's reads until it closes the socket: those that are held by a thread each.
fn serve(mut socket: UnixStream, begins: &Sender<u64>, allowed: Receiver<()>) -> Result<()> {
    let (allowed, answers) = (Mutex::new(allowed), Mutex::new(socket.try_clone()?));
    std::thread::scope(|scope| {
        loop {
            let mut request = [0; REQUEST];
            match socket.read_exact(&mut request) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            }
            let number = |at: usize| u32::from_be_bytes(request[at..at + 4].try_into().unwrap());
            let offset = u64::from_be_bytes(request[16..24].try_into().unwrap());
            if number(0) != REQUEST_MAGIC || number(4) != READ {
                return Ok(());
            }
            let asked = offset..offset + u64::from(number(24));
            let held = HELD.iter().any(|held| asked.contains(held));
            let content: Vec<u8> = asked.map(content).collect();
            let reply = [&REPLY_MAGIC.to_be_bytes()[..], &[0; 4], &request[8..16], &content].concat();
            if !held {
                answers.lock().unwrap().write_all(&reply)?;
                continue;
            }
            let (allowed, answers) = (&allowed, &answers);
            scope.spawn(move || {
                // An error says that all may go on, and nobody is left who is to be answered.
                let _ = allowed.lock().unwrap().recv();
                let _ = answers.lock().unwrap().write_all(&reply);
            });
            let _ = begins.send(offset);
        }
    })
}

/// The byte at an offset: each sector is a letter.
fn content(offset: u64) -> u8 {
    b'a' + u8::try_from(offset / 512 % 26).unwrap_or(0)
}

fn expected(offset: u64) -> String {
    (offset..offset + 512).map(|offset| char::from(content(offset))).collect()
}

/// While a read of one disk waits, everything else of the guest goes on: its connections, other disks, and the same one.
pub(crate) fn a_disk_that_waits_holds_up_nothing_else() -> Result<String> {
    let slow = Slow::make()?;
    let more = vec![
        ("--disk slow,ro,".to_owned(), slow.open()?),
        ("--disk other,ro,".to_owned(), scratch("other", 4096)?),
        ("--block plain,ro,".to_owned(), scratch("plain", 4096)?),
    ];
    let mut guest = obedient(1, 256, more)?;
    guest.says(&format!("begin-read slow {}", HELD[0]), "ok")?;
    let waits = slow.await_read()?;
    goes_on(&mut guest, 1)?;
    guest.says("read slow 1024", &expected(1024))?;
    slow.allow();
    guest.says("end-read", &expected(HELD[0]))?;

    // A machine that is stopped does not wait for its disk.
    guest.says(&format!("begin-read slow {}", HELD[1]), "ok")?;
    ensure!(slow.await_read()? > waits, "the same was read again");
    goes_on(&mut guest, 2)?;
    let counters = guest.stop()?;
    slow.remove()?;
    Ok(counters)
}

/// Everything but the slow disk answers; each round reads what no other has.
fn goes_on(guest: &mut Obedient, round: u64) -> Result<()> {
    for disk in ["other", "plain"] {
        let answer = guest.obeys(&format!("read {disk} {}", round << 19))?;
        ensure!(!answer.starts_with("error"), "disk {disk}: {answer}");
    }
    let counters = guest.machine.ask("counters")?;
    ensure!(counters.contains("malformed=0"), "{counters}");
    Ok(())
}
