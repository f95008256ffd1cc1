//! A machine that runs: a thread per processor, and the calling thread for the devices.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::build::{Board, Machine};
use super::end::{End, Ends};
use super::events::{Events, Outside, Turn, await_outside};
use super::gate::{Gate, Passed};
use crate::bus::Effect;
use crate::event::Event;
use crate::kvm::{Cpu, Exit, Kick, KvmError, Vm, prepare_thread};

/// What a machine has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Times that a processor left the guest for a port.
    pub port_exits: u64,
    /// Times that a processor left the guest for a device's registers.
    pub memory_exits: u64,
    /// Accesses that no device answered.
    pub strays: u64,
    /// Requests of the guest's that could not be understood.
    pub malformed: u64,
    /// Times that a device stopped because of what the guest did.
    pub faults: u64,
    /// Bytes of console output that nobody read.
    pub console_dropped: u64,
}

#[derive(Debug, Default)]
struct Exits {
    ports: AtomicU64,
    memory: AtomicU64,
}

/// What the processors' threads share.
#[derive(Debug)]
struct Shared {
    board: Arc<Board>,
    gate: Gate,
    ends: Ends,
    exits: Exits,
}

/// How each processor's thread entered: with the kick of its processor, or not. A channel would do the same, but yields the
/// processor at times, which the threads' filter does not allow.
#[derive(Debug, Default)]
struct Entered {
    threads: Mutex<Vec<io::Result<Kick>>>,
    one_more: Condvar,
}

impl Entered {
    fn report(&self, outcome: io::Result<Kick>) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        self.one_more.notify_one();
    }

    /// Waits for `count` threads.
    fn wait_for(&self, count: usize) -> io::Result<Vec<Kick>> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        while threads.len() < count {
            threads = self.one_more.wait(threads).unwrap_or_else(PoisonError::into_inner);
        }
        threads.drain(..).collect()
    }
}

/// A running machine. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    events: Events,
    ended: Event,
    asked: OwnedFd,
    kicks: Vec<Kick>,
    threads: Vec<JoinHandle<()>>,
    paused: bool,
    _vm: Vm,
}

impl Machine {
    /// Starts every processor on a thread of its own, which calls `enter` first: that is where it gives up what it does
    /// not need. The processors are held until [`Running::resume`]. Something is asked of the machine when there is
    /// something to read from `asked`.
    pub fn start(
        self,
        asked: BorrowedFd<'_>,
        enter: impl Fn() -> io::Result<()> + Clone + Send + 'static,
    ) -> io::Result<Running> {
        prepare_thread()?;
        let (mut events, ended) = (self.events, Event::new()?);
        events.watch_outside(ended.as_fd(), asked)?;
        let shared = Arc::new(Shared {
            board: self.board,
            gate: Gate::new(false),
            ends: Ends::new(ended.try_clone()?),
            exits: Exits::default(),
        });
        let count = self.cpus.len();
        let mut running = Running {
            shared,
            events,
            ended,
            asked: asked.try_clone_to_owned()?,
            kicks: Vec::new(),
            threads: Vec::with_capacity(count),
            paused: true,
            _vm: self.vm,
        };
        let entered = Arc::new(Entered::default());
        for (number, cpu) in (0_u8..).zip(self.cpus) {
            let (shared, enter) = (Arc::clone(&running.shared), enter.clone());
            let entered = Arc::clone(&entered);
            let body = move || {
                let kick = cpu.kick();
                // Said even when entering fails, so that nobody waits for it in vain.
                entered.report(enter().map(|()| kick));
                drop(entered);
                processor(number, cpu, &shared);
            };
            let name = format!("cpu{number}");
            running.threads.push(std::thread::Builder::new().name(name).spawn(body)?);
        }
        running.kicks = entered.wait_for(count)?;
        Ok(running)
    }
}

impl Running {
    /// Serves the devices until there is something else to do: something is asked, or the machine has ended.
    pub fn turn(&mut self) -> io::Result<Turn> {
        loop {
            let Outside { ended, asked } = if self.paused {
                await_outside(self.ended.as_fd(), self.asked.as_fd())?
            } else {
                self.events.serve(&self.shared.board.transports)?
            };
            if ended && let Some(end) = self.shared.ends.get() {
                self.shared.board.serial.flush();
                return Ok(Turn::Ended(end));
            }
            if asked {
                return Ok(Turn::Asked);
            }
        }
    }

    /// Holds every processor and the devices. Returns when no processor runs any more.
    pub fn pause(&mut self) {
        self.shared.gate.close();
        self.kick();
        self.shared.gate.wait_for(self.kicks.len());
        self.paused = true;
    }

    /// Lets the processors run, for the first time or after a pause.
    pub fn resume(&mut self) {
        self.paused = false;
        self.shared.gate.open();
    }

    /// Watches what a device has been given besides: the device with this number, counted as the machine was built.
    pub fn watch(&mut self, device: usize, host: BorrowedFd<'_>) -> io::Result<()> {
        self.events.watch_host(device, 0, host)
    }

    /// Watches it no longer.
    pub fn forget(&mut self, host: BorrowedFd<'_>) -> io::Result<()> {
        self.events.forget(host)
    }

    /// Whether the processors are held.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Ends the machine, and says how: it may have ended by itself, and nobody has seen it yet. The next turn says the same.
    pub fn stop(&self) -> End {
        self.shared.ends.report(End::Stopped)
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        let Shared { board, exits, .. } = &*self.shared;
        let misuses: Vec<(u64, u64)> = board.transports.iter().map(|transport| transport.misuses()).collect();
        Counters {
            port_exits: exits.ports.load(Ordering::Relaxed),
            memory_exits: exits.memory.load(Ordering::Relaxed),
            strays: board.ports.strays().saturating_add(board.memory.strays()),
            malformed: misuses.iter().map(|(malformed, _)| malformed).sum(),
            faults: misuses.iter().map(|(_, faults)| faults).sum(),
            console_dropped: board.serial.dropped(),
        }
    }

    fn kick(&self) {
        for kick in &self.kicks {
            kick.kick();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.gate.stop();
        self.kick();
        for thread in self.threads.drain(..) {
            // A thread that panicked has ended as well.
            let _ = thread.join();
        }
        self.shared.board.serial.flush();
    }
}

/// The life of a processor's thread.
fn processor(number: u8, mut cpu: Cpu, shared: &Shared) {
    let mut passed = shared.gate.pass();
    while passed != Passed::Out {
        if passed == Passed::Held {
            cpu.was_paused();
        }
        if let Some(end) = run(number, &mut cpu, shared) {
            shared.ends.report(end);
            break;
        }
        passed = shared.gate.pass();
    }
    shared.gate.leave();
}

/// Runs the guest until it is kicked, or gives how the machine ended.
fn run(number: u8, cpu: &mut Cpu, shared: &Shared) -> Option<End> {
    let Shared { board, exits, .. } = shared;
    loop {
        let effect = match cpu.run() {
            Ok(Exit::PortIn(port, data)) => {
                exits.ports.fetch_add(1, Ordering::Relaxed);
                for unit in data.bytes.chunks_mut(data.size) {
                    board.ports.read(u64::from(port), unit);
                }
                Effect::None
            }
            Ok(Exit::PortOut(port, data)) => {
                exits.ports.fetch_add(1, Ordering::Relaxed);
                let mut units = data.bytes.chunks(data.size);
                let reset = units.any(|unit| board.ports.write(u64::from(port), unit) == Effect::Reset);
                if reset { Effect::Reset } else { Effect::None }
            }
            Ok(Exit::MemoryRead(address, data)) => {
                exits.memory.fetch_add(1, Ordering::Relaxed);
                board.memory.read(address, data);
                Effect::None
            }
            Ok(Exit::MemoryWrite(address, data)) => {
                exits.memory.fetch_add(1, Ordering::Relaxed);
                board.memory.write(address, data)
            }
            Ok(Exit::Interrupted) => return None,
            outcome => {
                let message = match outcome {
                    Ok(Exit::TripleFault) => None,
                    Ok(other) => Some(format!("{other:?}")),
                    Err(error) => Some(describe(&error)),
                };
                return Some(ended(number, cpu, message));
            }
        };
        if effect == Effect::Reset {
            board.serial.flush();
            return Some(if board.serial.panicked() { End::Panic } else { End::Reset });
        }
    }
}

fn describe(error: &KvmError) -> String {
    format!("{error}: {}", error.source)
}

fn ended(number: u8, cpu: &Cpu, message: Option<String>) -> End {
    let instruction = cpu.instruction_pointer().unwrap_or(0);
    match message {
        None => End::TripleFault { cpu: number, instruction },
        Some(message) => End::Fault { cpu: number, message: format!("{message} at {instruction:#x}") },
    }
}
