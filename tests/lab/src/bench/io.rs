//! What a guest moves with each monitor's devices, and how long it takes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, listen, socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::accept;

use super::compare::prepare;
use super::exchange::{BYTES, DISK, READS, Stream, TURNS, VSOCK_PORT, give, line, take, turn};
use super::measure::Counts;
use super::monitor::{self, Devices, Monitor, Started, Task};
use crate::wire::{HOST, PORT, configure, tap};

/// The disk of every guest: a file in the nested machine's memory.
const FILE: &str = "/tmp/io.disk";

/// What each monitor boots. Ours has the same disk once more, as the kind that pods have.
const TASK: Task = Task {
    kernel: "/coffer/vmlinux",
    initrd: "/coffer/lab.img",
    words: " lab.role=io",
    devices: Some(Devices {
        disk: FILE,
        ours: &["--block plain,ro,", "--disk layer-1,ro,"],
        tap: monitor::TAP,
    }),
    memory_mib: 256,
};

/// What is measured: its name, the line that asks for it, and of how many bytes or round trips it consists.
const EXCHANGES: &[(&str, &str, usize)] = &[
    ("disk-read", "read vda", DISK),
    ("disk-random", "random vda", READS),
    ("disk-many", "many vda", READS),
    ("vsock-in", "take vsock", BYTES),
    ("vsock-out", "give vsock", BYTES),
    ("vsock-turn", "turn vsock", TURNS),
    ("net-in", "take tcp", BYTES),
    ("net-out", "give tcp", BYTES),
    ("net-turn", "turn tcp", TURNS),
];

/// The same of the kind of disk that only ours has.
const SCSI: &[(&str, &str, usize)] = &[
    ("scsi-read", "read sda", DISK),
    ("scsi-random", "random sda", READS),
    ("scsi-many", "many sda", READS),
];

/// Guests that are booted with each monitor, and how often each measures everything, after once that does not count: memory
/// that was never used costs more than what is measured.
const ROUNDS: usize = 2;
const REPEATS: usize = 2;

/// How long a guest may take to connect.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures every monitor in turn, and prints the figures.
pub(crate) fn run() -> Result<()> {
    prepare()?;
    fs::write(FILE, vec![7; DISK])?;
    configure(monitor::TAP, HOST)?;
    let waiting = Waiting { tcp: TcpListener::bind((HOST, PORT))?, vsock: vsock_listener()? };
    let monitors = monitor::all()?;
    for _ in 0..ROUNDS {
        for monitor in &monitors {
            let started = monitor.start(&TASK)?;
            measure(monitor, started, &waiting).with_context(|| monitor.name().to_owned())?;
            await_tap()?;
        }
    }
    Ok(())
}

/// Waits until nobody has the tap: a process of the machine may end after the one that waited for it.
fn await_tap() -> Result<()> {
    let start = Instant::now();
    while let Err(error) = tap(monitor::TAP) {
        ensure!(start.elapsed() < PATIENCE, "a monitor that was ended keeps the tap: {error:#}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn vsock_listener() -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::empty(), None)?;
    bind(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, VSOCK_PORT))?;
    listen(&socket, Backlog::new(1)?)?;
    Ok(socket)
}

/// Where guests connect to, but for the Unix socket that most monitors have for their own.
struct Waiting {
    tcp: TcpListener,
    vsock: OwnedFd,
}

fn measure(monitor: &Monitor, mut started: Started, waiting: &Waiting) -> Result<()> {
    let outcome = exchange(monitor, &mut started, waiting);
    started.child.kill()?;
    started.child.wait()?;
    fs::remove_dir_all(&started.dir)?;
    let mut said = String::new();
    if outcome.is_err() {
        started.console.read_to_string(&mut said)?;
        if let Some(mut errors) = started.child.stderr.take() {
            errors.read_to_string(&mut said)?;
        }
    }
    outcome.context(said)
}

fn exchange(monitor: &Monitor, started: &mut Started, waiting: &Waiting) -> Result<()> {
    let mut guest = Guest::accept(started, waiting)?;
    let of_ours = if matches!(monitor, Monitor::Ours) { SCSI } else { &[] };
    for repeat in 0..=REPEATS {
        for (name, line, count) in EXCHANGES.iter().chain(of_ours) {
            let before = Counts::read()?;
            let start = Instant::now();
            guest.ask(line).with_context(|| (*name).to_owned())?;
            let (took, now) = (start.elapsed(), Counts::read()?);
            if repeat > 0 {
                let exits = now.all - before.all;
                println!("LAB io {name} {} {} {count} {exits}", monitor.name(), took.as_nanos());
            }
        }
    }
    Ok(())
}

/// A guest's two connections.
struct Guest {
    vsock: File,
    tcp: TcpStream,
}

impl Guest {
    /// Waits for both.
    fn accept(started: &Started, waiting: &Waiting) -> Result<Guest> {
        let listeners = [started.vsock(), waiting.vsock.as_fd()];
        let caller = ready(&listeners)?;
        let vsock = File::from(accept(listeners[caller])?);
        ready(&[waiting.tcp.as_fd()])?;
        let (tcp, _) = waiting.tcp.accept()?;
        tcp.set_nodelay(true)?;
        Ok(Guest { vsock, tcp })
    }

    /// Has the guest do something, does the other half, and waits for the guest's word that it is done.
    fn ask(&mut self, what: &str) -> Result<()> {
        writeln!(self.vsock, "{what}")?;
        match what.split_once(' ') {
            Some((what, "vsock")) => obey(what, &mut self.vsock)?,
            Some((what, "tcp")) => obey(what, &mut self.tcp)?,
            _ => {}
        }
        let answer = line(&mut self.vsock)?;
        ensure!(answer == "ok", "the guest says {answer:?}");
        Ok(())
    }
}

/// The other half of what the guest is asked to do.
fn obey(what: &str, stream: &mut impl Stream) -> Result<()> {
    match what {
        "take" => give(stream),
        "give" => take(stream),
        _ => turn(stream, true),
    }
}

/// Waits until one of these is readable, and gives its place.
fn ready(sockets: &[BorrowedFd<'_>]) -> Result<usize> {
    let limit = Timespec::try_from(PATIENCE)?;
    let mut watched: Vec<_> =
        sockets.iter().map(|socket| PollFd::from_borrowed_fd(*socket, PollFlags::IN)).collect();
    poll(&mut watched, Some(&limit))?;
    let place = watched.iter().position(|socket| !socket.revents().is_empty());
    place.context("the guest does not connect")
}
