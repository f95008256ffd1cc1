//! All disks of a machine as units of one virtio-scsi controller (virtio 1.2, section 5.6): virtio-mmio cannot be told of
//! a new device, but a controller can tell its driver of a new disk.
//!
//! ```text
//! attach ─▶ unit n ─▶ event "rescan" ─▶ the guest asks what it is ─▶ /dev/sd…
//! detach ─▶ event "removed" ─▶ the guest forgets it; commands that still come find nothing
//! ```
//! A command is carried out as a whole before its chain is given back. One that waits for its disk's file cannot be aborted: it
//! ends when the file does, also when its disk has been detached.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_ids::VIRTIO_ID_SCSI;
use virtio_queue::{Queue, QueueT};

use super::disk::{Disk, MAX_FORGET, MAX_SECTORS, Refusal, SECTOR};
use super::requests::{Carrier, Done, MAX_QUEUES, Requests};
use super::scsi_command::{Answers, COMMAND, Command, LONGEST_LIST, parse, ranges, sense, units};
use crate::event::Event;
use crate::memory::Memory;
use crate::virtio::{
    Access, Buffer, Cause, Chain, Device, Fault, Identity, Kept, Limiter, Ring, Served, Transfer, pop,
};

/// Numbers of the queues; those of requests come last.
const CONTROL: usize = 0;
const EVENTS: usize = 1;
const REQUESTS: usize = 2;
static QUEUES: [u16; REQUESTS + MAX_QUEUES] = {
    let mut sizes = [256; REQUESTS + MAX_QUEUES];
    (sizes[CONTROL], sizes[EVENTS]) = (16, 16);
    sizes
};

/// The driver may be told of new and of gone disks.
const FEATURE_HOTPLUG: u64 = 1 << 1;

/// Bytes of a request before the data for the disk: unit, number, three of attributes, command.
const REQUEST: usize = 19 + COMMAND;

/// Bytes of an answer before the data from the disk: lengths, status, and sense data.
const SENSE: usize = 96;
const RESPONSE: usize = 12 + SENSE;

const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;

/// How the controller itself answers: done, no such target, tasks are not aborted.
const OK: u8 = 0;
const BAD_TARGET: u8 = 3;
const REJECTED: u8 = 11;

/// A request of the control queue that is about tasks.
const TASK_MANAGEMENT: u32 = 0;

/// Sense keys and codes.
const MEDIUM_ERROR: u8 = 3;
const ILLEGAL_REQUEST: u8 = 5;
const DATA_PROTECT: u8 = 7;
const UNKNOWN_COMMAND: u8 = 0x20;
const OUT_OF_RANGE: u8 = 0x21;
const INVALID_FIELD: u8 = 0x24;
const NO_SUCH_UNIT: u8 = 0x25;
const INVALID_LIST: u8 = 0x26;
const WRITE_PROTECTED: u8 = 0x27;

/// Events: a unit came or went; and that some were lost.
const TRANSPORT_RESET: u32 = 1;
const EVENTS_MISSED: u32 = 1 << 31;
const RESCAN: u32 = 1;
const REMOVED: u32 = 2;
const EVENT: usize = 16;

/// The most disks: as many as units that Linux numbers in the short form.
const MAX_DISKS: usize = 256;

/// Commands of one disk at once: several disks that hang leave room for others.
const COMMANDS: u32 = 16;

/// Requests about tasks, or events, per call, before other devices have their turn.
const BUDGET: usize = 64;

/// Events that wait for the guest; when there are more, it is told that it missed some.
const MAX_EVENTS: usize = 512;

/// Why a disk cannot be attached or detached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The name is in use.
    #[error("disk {serial:?} is there already")]
    Taken {
        /// The name.
        serial: String,
    },
    /// No unit is free.
    #[error(
        "all {MAX_DISKS} units are taken by disks, or by disks detached of which the guest does not yet want to hear"
    )]
    Full,
    /// There is no such disk.
    #[error("there is no disk {serial:?}")]
    Unknown {
        /// The name.
        serial: String,
    },
}

#[derive(Debug, Default)]
struct State {
    disks: BTreeMap<u8, Disk>,
    events: VecDeque<(u8, u32)>,
    missed: bool,
    /// Whether a driver has been there: before, it finds all disks by itself.
    driven: bool,
    /// The unit after the one given last.
    next: u8,
}

/// The disks of a machine, to be changed while it runs. Copies are the same ones.
#[derive(Debug, Clone)]
pub struct Disks {
    state: Arc<Mutex<State>>,
    changed: Arc<Event>,
}

impl Disks {
    /// None yet.
    pub fn new() -> io::Result<Disks> {
        Ok(Disks { state: Arc::default(), changed: Arc::new(Event::new()?) })
    }

    /// Adds a disk; a driver that is there is told.
    pub fn attach(&self, disk: Disk) -> Result<(), AttachError> {
        let mut state = self.state();
        if state.disks.values().any(|there| there.serial() == disk.serial()) {
            return Err(AttachError::Taken { serial: disk.serial().to_owned() });
        }
        let unit = state.free_unit().ok_or(AttachError::Full)?;
        state.next = unit.wrapping_add(1);
        state.disks.insert(unit, disk);
        state.announce(unit, RESCAN);
        self.changed.signal();
        Ok(())
    }

    /// Takes a disk away, and tells the driver.
    pub fn detach(&self, serial: &str) -> Result<(), AttachError> {
        let mut state = self.state();
        let unit = state.disks.iter().find(|(_, disk)| disk.serial() == serial).map(|(unit, _)| *unit);
        let unit = unit.ok_or_else(|| AttachError::Unknown { serial: serial.to_owned() })?;
        state.disks.remove(&unit);
        state.announce(unit, REMOVED);
        self.changed.signal();
        Ok(())
    }

    /// What is to be signalled when a request that waits has ended: the same as when a disk comes or goes.
    pub fn event(&self) -> io::Result<Event> {
        self.changed.try_clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A unit for a new disk: the one that was not used for longest, and none of which the driver still has to hear that its
    /// disk is gone. What it meant for that disk would reach the new one.
    fn free_unit(&self) -> Option<u8> {
        let leaving = |unit: u8| self.missed || self.events.contains(&(unit, REMOVED));
        let mut units = (0..=u8::MAX).map(|step| self.next.wrapping_add(step));
        units.find(|unit| !self.disks.contains_key(unit) && !leaving(*unit))
    }

    fn announce(&mut self, unit: u8, reason: u32) {
        if !self.driven {
            return;
        }
        if self.events.len() < MAX_EVENTS {
            self.events.push_back((unit, reason));
        } else {
            self.missed = true;
        }
    }
}

/// The controller.
#[derive(Debug)]
pub struct Scsi {
    disks: Disks,
    requests: Requests<Waiting>,
}

/// A request that waits: where its answer goes, how much room there was for data, and how much of it is filled if it succeeds.
#[derive(Debug)]
pub(super) struct Waiting {
    response: Kept,
    room: usize,
    moved: usize,
}

/// What a command came to: data for the guest, or why there is none.
enum Outcome {
    /// This answer, of which the guest takes at most so many bytes.
    Answer(Vec<u8>, usize),
    /// So many bytes are in the guest's memory already.
    Moved(usize),
    /// So many bytes will be, when this has ended.
    Waits(Transfer, usize),
    /// It failed, with this sense.
    Failed(u8, u8),
}

impl Scsi {
    /// A controller of `disks` with so many queues, all of which together `limiter` keeps to a limit. What would wait does so in
    /// `ring`, if there is one, which signals [`Disks::event`].
    pub fn new(disks: Disks, queues: usize, limiter: Limiter, ring: Option<Ring>) -> Scsi {
        Scsi { disks, requests: Requests::new(queues, REQUESTS, limiter, ring) }
    }

    /// Answers requests about tasks, none of which is aborted.
    fn control(memory: &Memory, queue: &mut Queue, served: &mut Served) -> Result<(), Fault> {
        for _ in 0..BUDGET {
            let Some(chain) = pop(queue, memory).map_err(Fault::of(CONTROL))? else { return Ok(()) };
            let head = chain.head_index();
            let answered = Chain::collect(memory, chain).ok().and_then(|chain| {
                let (kind, _) = chain.readable.split(4)?;
                let mut number = [0; 4];
                kind.copy_to(&mut number);
                // One byte after a task request, five after a question about events: all zero is "done" and "none".
                let length = chain.writable.len().min(5);
                let (place, _) = chain.writable.split(length)?;
                let refused = u32::from_le_bytes(number) == TASK_MANAGEMENT;
                let answer = [if refused { REJECTED } else { OK }, 0, 0, 0, 0];
                place.copy_from(answer.get(..length)?);
                u32::try_from(length).ok()
            });
            served.malformed += u64::from(answered.is_none());
            queue.add_used(memory, head, answered.unwrap_or(0)).map_err(Fault::of(CONTROL))?;
            served.used(CONTROL);
        }
        served.again = true;
        Ok(())
    }

    /// Tells the driver which units came and went, as long as it has room for it.
    fn tell(&self, memory: &Memory, queue: &mut Queue, served: &mut Served) -> Result<(), Fault> {
        let mut state = self.disks.state();
        for _ in 0..BUDGET {
            if !state.missed && state.events.is_empty() {
                return Ok(());
            }
            let Some(chain) = pop(queue, memory).map_err(Fault::of(EVENTS))? else { return Ok(()) };
            let head = chain.head_index();
            let place =
                Buffer::collect(memory, chain, Access::Write).ok().and_then(|buffer| buffer.split(EVENT));
            let length = match place {
                Some((place, _)) => {
                    let missed = if std::mem::take(&mut state.missed) { EVENTS_MISSED } else { 0 };
                    place.copy_from(&event(state.events.pop_front(), missed));
                    EVENT
                }
                None => {
                    served.malformed += 1;
                    0
                }
            };
            let length = u32::try_from(length).unwrap_or(0);
            queue.add_used(memory, head, length).map_err(Fault::of(EVENTS))?;
            served.used(EVENTS);
        }
        served.again = true;
        Ok(())
    }
}

impl Carrier for Disks {
    type Kept = Waiting;

    fn carry_out<'m>(
        &self,
        memory: &'m Memory,
        chain: Chain<'m>,
        may_wait: bool,
    ) -> Option<(Done<Waiting>, u64)> {
        let (header, data) = chain.readable.split(REQUEST)?;
        let (response, space) = chain.writable.split(RESPONSE)?;
        let mut bytes = [0; REQUEST];
        header.copy_to(&mut bytes);
        let command: [u8; COMMAND] = bytes.get(19..)?.try_into().ok()?;
        let room = space.len();
        let command = parse(&command);
        let work = command.map_or(0, |command| command.work());
        let parts = Parts { waits: may_wait.then_some(memory), data: &data, space: &space };
        let (answer, moved) = match unit_of(&bytes).map(|unit| self.command(unit, command, &parts)) {
            None => (respond(BAD_TARGET, GOOD, room, None), 0),
            Some(Outcome::Moved(moved)) => (succeeded(room, moved), moved),
            Some(Outcome::Waits(transfer, moved)) => {
                let response = Kept::new(&response, memory)?;
                return Some((Done::Waits(transfer, Waiting { response, room, moved }), work));
            }
            Some(Outcome::Answer(bytes, most)) => {
                let length = bytes.len().min(most).min(room);
                let (place, _) = space.split(length)?;
                place.copy_from(bytes.get(..length)?);
                (succeeded(room, length), length)
            }
            Some(Outcome::Failed(key, code)) => (failed(room, key, code), 0),
        };
        response.copy_from(&answer);
        Some((Done::Over(u32::try_from(RESPONSE + moved).ok()?), work))
    }

    fn answer(kept: Waiting, outcome: io::Result<()>) -> u32 {
        let Waiting { response, room, moved } = kept;
        let (answer, moved) = match outcome {
            Ok(()) => (succeeded(room, moved), moved),
            Err(_) => (failed(room, MEDIUM_ERROR, 0), 0),
        };
        response.buffer().copy_from(&answer);
        u32::try_from(RESPONSE + moved).unwrap_or(0)
    }
}

impl Disks {
    fn command(&self, unit: u8, command: Option<Command>, parts: &Parts<'_, '_>) -> Outcome {
        let state = self.state();
        let disk = state.disks.get(&unit);
        match (command, disk) {
            (Some(Command::ReportLuns { room }), _) => {
                Outcome::Answer(units(state.disks.keys().copied()), room)
            }
            (Some(Command::Inquiry { page: None, room }), None) => {
                Outcome::Answer(Answers::inquiry_of_nothing(unit), room)
            }
            (Some(Command::RequestSense { room }), _) => Outcome::Answer(sense(0, 0).to_vec(), room),
            (_, None) => Outcome::Failed(ILLEGAL_REQUEST, NO_SUCH_UNIT),
            (None, Some(_)) => Outcome::Failed(ILLEGAL_REQUEST, UNKNOWN_COMMAND),
            (Some(command), Some(disk)) => ask(disk, command, parts),
        }
    }
}

/// What belongs to a command: the guest's memory if it may wait, what the guest sends with it, and the room for what it gets.
struct Parts<'p, 'm> {
    waits: Option<&'m Memory>,
    data: &'p Buffer<'m>,
    space: &'p Buffer<'m>,
}

fn event(change: Option<(u8, u32)>, missed: u32) -> [u8; EVENT] {
    let mut bytes = [0; EVENT];
    let (kind, unit, reason) = match change {
        Some((unit, reason)) => (TRANSPORT_RESET, unit, reason),
        None => (0, 0, 0),
    };
    bytes[..4].copy_from_slice(&(kind | missed).to_le_bytes());
    // Units below 256 are named here without the bit that a request's unit has.
    bytes[4..8].copy_from_slice(&[1, 0, 0, unit]);
    bytes[12..].copy_from_slice(&reason.to_le_bytes());
    bytes
}

/// The unit of target 0 that a request is for.
fn unit_of(request: &[u8; REQUEST]) -> Option<u8> {
    match *request {
        [1, 0, high, unit, ..] if high & 0x3f == 0 => Some(unit),
        _ => None,
    }
}

fn ask(disk: &Disk, command: Command, parts: &Parts<'_, '_>) -> Outcome {
    let Parts { waits, data, space } = *parts;
    let answers = Answers { serial: disk.serial(), sectors: disk.sectors(), read_only: disk.is_read_only() };
    let field = Outcome::Failed(ILLEGAL_REQUEST, INVALID_FIELD);
    match command {
        Command::Nothing | Command::RequestSense { .. } | Command::ReportLuns { .. } => Outcome::Moved(0),
        Command::Inquiry { page: None, room } => Outcome::Answer(Answers::inquiry(), room),
        Command::Inquiry { page: Some(page), room } => {
            answers.page(page).map_or(field, |answer| Outcome::Answer(answer, room))
        }
        Command::Capacity10 => Outcome::Answer(answers.capacity10(), usize::MAX),
        Command::Capacity16 { room } => Outcome::Answer(answers.capacity16(), room),
        Command::ModeSense { long, page, room } => {
            answers.mode(long, page).map_or(field, |answer| Outcome::Answer(answer, room))
        }
        Command::Read { sectors, .. } | Command::Write { sectors, .. }
            if sectors > u64::from(MAX_SECTORS) =>
        {
            field
        }
        Command::Read { sector, sectors } if fits(space, sectors) => {
            begun(disk, disk.read(sector, space, waits), space.len())
        }
        Command::Write { sector, sectors } if fits(data, sectors) => {
            begun(disk, disk.write(sector, data, waits), 0)
        }
        Command::Read { .. } | Command::Write { .. } => field,
        Command::Flush => begun(disk, disk.flush(waits), 0),
        Command::Unmap => unmap(disk, data),
        Command::WriteSame { sectors, .. } if sectors == 0 || sectors > u64::from(MAX_FORGET) => field,
        Command::WriteSame { sector, sectors, unmap } => {
            outcome(disk, write_same(disk, (sector, sectors), unmap, data), 0)
        }
    }
}

/// Whether a buffer is as long as the command says.
fn fits(buffer: &Buffer<'_>, sectors: u64) -> bool {
    u64::try_from(buffer.len()).ok() == sectors.checked_mul(SECTOR)
}

fn begun(disk: &Disk, begun: Result<Option<Transfer>, Refusal>, moved: usize) -> Outcome {
    match begun {
        Ok(Some(transfer)) => Outcome::Waits(transfer, moved),
        Ok(None) => Outcome::Moved(moved),
        Err(refusal) => outcome(disk, Err(refusal), 0),
    }
}

fn outcome(disk: &Disk, done: Result<(), Refusal>, moved: usize) -> Outcome {
    match done {
        Ok(()) => Outcome::Moved(moved),
        Err(Refusal::Host) => Outcome::Failed(MEDIUM_ERROR, 0),
        // By this a driver learns that it has to write zeros itself.
        Err(Refusal::Unable) => Outcome::Failed(ILLEGAL_REQUEST, UNKNOWN_COMMAND),
        Err(Refusal::Request) if disk.is_read_only() => Outcome::Failed(DATA_PROTECT, WRITE_PROTECTED),
        Err(Refusal::Request) => Outcome::Failed(ILLEGAL_REQUEST, OUT_OF_RANGE),
    }
}

/// Forgets every range of a list, or none if the list is longer than the block limits page allows.
fn unmap(disk: &Disk, data: &Buffer<'_>) -> Outcome {
    let too_long = Outcome::Failed(ILLEGAL_REQUEST, INVALID_LIST);
    if data.len() > LONGEST_LIST {
        return too_long;
    }
    let mut list = vec![0; data.len()];
    data.copy_to(&mut list);
    let sum = ranges(&list).fold(0_u64, |sum, (_, sectors)| sum.saturating_add(sectors));
    if sum > u64::from(MAX_FORGET) {
        return too_long;
    }
    let checked = ranges(&list).try_for_each(|(sector, sectors)| disk.check(sector, sectors));
    let done = checked.and_then(|()| ranges(&list).try_for_each(|range| disk.zero(range.0, range.1)));
    outcome(disk, done, 0)
}

fn write_same(disk: &Disk, range: (u64, u64), unmap: bool, data: &Buffer<'_>) -> Result<(), Refusal> {
    let mut sector = [0; 512];
    // Only what can be done without writing every sector: zeros. `unmap` may forget them instead.
    let zeros =
        data.len() == sector.len() && data.copy_to(&mut sector) && sector.iter().all(|byte| *byte == 0);
    let nothing = unmap && data.is_empty();
    if zeros || nothing { disk.zero(range.0, range.1) } else { Err(Refusal::Request) }
}

/// The answer to a request that filled `moved` bytes of the room that there was.
fn succeeded(room: usize, moved: usize) -> [u8; RESPONSE] {
    respond(OK, GOOD, room - moved.min(room), None)
}

/// The answer to a request that failed, with this sense.
fn failed(room: usize, key: u8, code: u8) -> [u8; RESPONSE] {
    respond(OK, CHECK_CONDITION, room, Some((key, code)))
}

/// The answer to a request: what the controller says, what the disk says, what was not filled, and why.
fn respond(response: u8, status: u8, rest: usize, why: Option<(u8, u8)>) -> [u8; RESPONSE] {
    let mut bytes = [0; RESPONSE];
    let sense = why.map(|(key, code)| sense(key, code));
    let length = sense.map_or(0_u32, |_| 18);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&u32::try_from(rest).unwrap_or(u32::MAX).to_le_bytes());
    bytes[10] = status;
    bytes[11] = response;
    for (place, byte) in bytes.iter_mut().skip(12).zip(sense.unwrap_or([0; 18])) {
        *place = byte;
    }
    bytes
}

impl Device for Scsi {
    fn identity(&self) -> Identity {
        let queues = QUEUES.get(..REQUESTS + self.requests.count()).unwrap_or(&[]);
        Identity { kind: VIRTIO_ID_SCSI, features: FEATURE_HOTPLUG, queues }
    }

    fn configuration(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_scsi_config: request queues, pieces, sectors, commands per unit, sizes of event, sense and
        // command, then channels, targets and units, each the highest.
        let queues = u32::try_from(self.requests.count()).unwrap_or(1);
        let words = [queues, 254, MAX_SECTORS, COMMANDS, 16, 96, 32];
        let mut configuration: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        configuration.extend([0; 4]);
        configuration.extend(255_u32.to_le_bytes());
        let rest = usize::try_from(offset).ok().and_then(|offset| configuration.get(offset..)).unwrap_or(&[]);
        for (place, byte) in data.iter_mut().zip(rest) {
            *place = *byte;
        }
    }

    fn start(&mut self, _features: u64) {
        let mut state = self.disks.state();
        state.driven = true;
        state.events.clear();
    }

    fn stop(&mut self) {
        self.requests.forget();
        let mut state = self.disks.state();
        state.driven = false;
        state.missed = false;
        state.events.clear();
    }

    fn settle(&mut self) {
        self.requests.settle();
    }

    fn serve(&mut self, memory: &Memory, queues: &mut [Queue], cause: Cause) -> Result<Served, Fault> {
        let mut served = Served::default();
        let [control, events, requests @ ..] = queues else { return Ok(served) };
        if control.ready() && matches!(cause, Cause::Queue(CONTROL) | Cause::Again) {
            Scsi::control(memory, control, &mut served)?;
        }
        if events.ready() && matches!(cause, Cause::Queue(EVENTS) | Cause::Again | Cause::Host(_)) {
            self.tell(memory, events, &mut served)?;
        }
        if !matches!(cause, Cause::Queue(CONTROL | EVENTS)) {
            self.requests.serve(&self.disks, memory, requests, cause, &mut served)?;
        }
        Ok(served)
    }

    fn hosts(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.disks.changed.as_fd()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Backing, create};
    use crate::spec::{self, Limit, Rate};
    use crate::virtio::Next;
    use proptest::prelude::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::io::Write;
    use std::num::NonZeroU64;
    use std::time::Duration;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    const NEXT: u16 = 1;
    const WRITE: u16 = 2;

    fn disk(serial: &str, content: &[u8], read_only: bool) -> Disk {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Disk::new(spec::Disk { serial: serial.to_owned(), file: file.into(), read_only }).unwrap()
    }

    fn controller() -> Scsi {
        let disks = Disks::new().unwrap();
        disks.attach(disk("first", &[7; 4096], false)).unwrap();
        disks.attach(disk("second", &[9; 1024], true)).unwrap();
        Scsi::new(disks, 1, Limiter::new(Limit::default()), None)
    }

    /// Sends a command with data and room for data: gives status, sense key and what came back.
    fn send(scsi: &mut Scsi, unit: u8, command: &[u8], data: &[u8], room: u32) -> (u8, u8, Vec<u8>) {
        let memory = create(2, Backing::default()).unwrap();
        let mut header = [0; REQUEST];
        header[..4].copy_from_slice(&[1, 0, 0x40, unit]);
        header[19..19 + command.len()].copy_from_slice(command);
        memory.write_slice(&header, GuestAddress(0x1_0000)).unwrap();
        memory.write_slice(data, GuestAddress(0x2_0000)).unwrap();
        let mut parts = vec![(0x1_0000, REQUEST, 0), (0x3_0000, RESPONSE, WRITE)];
        if !data.is_empty() {
            parts.insert(1, (0x2_0000, data.len(), 0));
        }
        if room > 0 {
            parts.push((0x4_0000, usize::try_from(room).unwrap(), WRITE));
        }
        let last = parts.len() - 1;
        let descriptors: Vec<RawDescriptor> = parts
            .into_iter()
            .enumerate()
            .map(|(index, (address, length, flags))| {
                let next = if index < last { NEXT } else { 0 };
                let length = u32::try_from(length).unwrap();
                let following = u16::try_from(index).unwrap() + 1;
                Descriptor::new(address, length, flags | next, following).into()
            })
            .collect();
        let mock = MockSplitQueue::create(&memory, GuestAddress(0), 16);
        mock.build_desc_chain(&descriptors).unwrap();
        let mut queues = [Queue::new(16).unwrap(), Queue::new(16).unwrap(), mock.create_queue().unwrap()];
        let served = scsi.serve(&memory, &mut queues, Cause::Queue(REQUESTS)).unwrap();
        assert_eq!((served.used, served.malformed), (1 << REQUESTS, 0));
        let mut response = [0; RESPONSE];
        memory.read_slice(&mut response, GuestAddress(0x3_0000)).unwrap();
        let mut answer = vec![0; usize::try_from(room).unwrap()];
        memory.read_slice(&mut answer, GuestAddress(0x4_0000)).unwrap();
        let rest = u32::from_le_bytes(response[4..8].try_into().unwrap());
        answer.truncate(answer.len() - usize::try_from(rest).unwrap());
        (response[10], response[14], answer)
    }

    #[test]
    fn the_units_that_there_are_are_listed() {
        let (status, _, answer) = send(&mut controller(), 0, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64], &[], 64);
        assert_eq!(status, GOOD);
        assert_eq!(answer, [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_disk_tells_its_serial_as_far_as_there_is_room() {
        let (_, _, answer) = send(&mut controller(), 1, &[0x12, 1, 0x80, 0, 8], &[], 64);
        assert_eq!(answer, b"\x00\x80\x00\x06seco");
    }

    #[test]
    fn sectors_are_written_and_read_back() {
        let mut scsi = controller();
        let write = [0x2a, 0, 0, 0, 0, 2, 0, 0, 1];
        assert_eq!(send(&mut scsi, 0, &write, &[5; 512], 0).0, GOOD);
        let (status, _, answer) = send(&mut scsi, 0, &[0x28, 0, 0, 0, 0, 1, 0, 0, 2], &[], 1024);
        assert_eq!((status, &answer[..512], &answer[512..]), (GOOD, &[7; 512][..], &[5; 512][..]));
    }

    #[test]
    fn a_read_beyond_the_end_is_refused() {
        let read = [0x28, 0, 0, 0, 0, 7, 0, 0, 2];
        assert_eq!(send(&mut controller(), 0, &read, &[], 1024), (CHECK_CONDITION, ILLEGAL_REQUEST, vec![]));
    }

    #[test]
    fn a_disk_that_may_only_be_read_is_not_written() {
        let write = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(send(&mut controller(), 1, &write, &[5; 512], 0), (CHECK_CONDITION, DATA_PROTECT, vec![]));
    }

    #[test]
    fn a_buffer_of_another_length_than_the_command_says_is_refused() {
        let read = [0x28, 0, 0, 0, 0, 0, 0, 0, 2];
        assert_eq!(send(&mut controller(), 0, &read, &[], 512).1, ILLEGAL_REQUEST);
    }

    #[test]
    fn sectors_unmapped_are_zero() {
        let mut scsi = controller();
        let list = [&[0, 22, 0, 16, 0, 0, 0, 0][..], &[0; 8], &[0, 0, 0, 1, 0, 0, 0, 0]].concat();
        assert_eq!(send(&mut scsi, 0, &[0x42, 0, 0, 0, 0, 0, 0, 0, 24], &list, 0).0, GOOD);
        let (_, _, answer) = send(&mut scsi, 0, &[0x28, 0, 0, 0, 0, 0, 0, 0, 2], &[], 1024);
        assert_eq!((answer[0], answer[512]), (0, 7));
    }

    #[test]
    fn more_than_the_disk_says_is_neither_unmapped_nor_made_zero() {
        let disks = Disks::new().unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 30).unwrap();
        let spec = spec::Disk { serial: "large".to_owned(), file: file.into(), read_only: false };
        disks.attach(Disk::new(spec).unwrap()).unwrap();
        let mut scsi = Scsi::new(disks, 1, Limiter::new(Limit::default()), None);
        let range = |sector: u8, sectors: u32| {
            [&[0, 0, 0, 0, sector, 0, 0, 0][..], &sectors.to_be_bytes(), &[0; 4]].concat()
        };
        let list = |first: u32, second: u32| [&[0; 8][..], &range(0, first), &range(0, second)].concat();
        let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 40];
        assert_eq!(send(&mut scsi, 0, &unmap, &list(1 << 21, 1 << 21), 0).0, GOOD);
        assert_eq!(send(&mut scsi, 0, &unmap, &list(1 << 22, 1), 0).1, ILLEGAL_REQUEST);
        let zero = |sectors: u32| [&[0x93, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &sectors.to_be_bytes()].concat();
        assert_eq!(send(&mut scsi, 0, &zero(1 << 22), &[], 0).0, GOOD);
        assert_eq!(send(&mut scsi, 0, &zero((1 << 22) + 1), &[], 0).1, ILLEGAL_REQUEST);
        assert_eq!(send(&mut scsi, 0, &zero(0), &[], 0).1, ILLEGAL_REQUEST);
    }

    #[test]
    fn a_list_with_a_range_beyond_the_end_unmaps_nothing() {
        let mut scsi = controller();
        let list = [
            &[0; 8][..],
            &[0; 8],
            &[0, 0, 0, 1, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 0, 8],
            &[0, 0, 0, 1, 0, 0, 0, 0],
        ];
        let refused = send(&mut scsi, 0, &[0x42, 0, 0, 0, 0, 0, 0, 0, 40], &list.concat(), 0);
        assert_eq!((refused.0, refused.1), (CHECK_CONDITION, ILLEGAL_REQUEST));
        let (_, _, answer) = send(&mut scsi, 0, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1], &[], 512);
        assert_eq!(answer, [7; 512]);
    }

    #[test]
    fn a_turn_ends_after_as_many_bytes_as_one_request_may_have() {
        let mut scsi = controller();
        let memory = create(2, Backing::default()).unwrap();
        let mut header = [0; REQUEST];
        header[..4].copy_from_slice(&[1, 0, 0x40, 0]);
        header[19] = 0x42; // UNMAP
        memory.write_slice(&header, GuestAddress(0x1_0000)).unwrap();
        let mock = MockSplitQueue::create(&memory, GuestAddress(0), 16);
        let chain = |index: u16| {
            [
                Descriptor::new(0x1_0000, u32::try_from(REQUEST).unwrap(), NEXT, index + 1).into(),
                Descriptor::new(0x3_0000, u32::try_from(RESPONSE).unwrap(), WRITE, 0).into(),
            ]
        };
        mock.add_desc_chains(&[chain(0), chain(2)].concat(), 0).unwrap();
        let mut queues = [Queue::new(16).unwrap(), Queue::new(16).unwrap(), mock.create_queue().unwrap()];
        for _ in 0..2 {
            assert!(scsi.serve(&memory, &mut queues, Cause::Queue(REQUESTS)).unwrap().again);
        }
        assert!(!scsi.serve(&memory, &mut queues, Cause::Queue(REQUESTS)).unwrap().again);
    }

    #[test]
    fn a_request_beyond_the_limit_waits_in_its_queue() {
        let each = Rate { per_second: NonZeroU64::new(2).unwrap(), burst: NonZeroU64::MIN };
        let limit = Limit { bytes: None, operations: Some(each) };
        // No time passes.
        let limiter = Limiter::with(limit, Box::new(|| Duration::ZERO));
        let mut scsi = Scsi::new(controller().disks, 1, limiter, None);
        assert_eq!(send(&mut scsi, 0, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1], &[], 512).2, [7; 512]);
        let memory = create(2, Backing::default()).unwrap();
        let mock = MockSplitQueue::create(&memory, GuestAddress(0), 16);
        let header = Descriptor::new(0x1_0000, u32::try_from(REQUEST).unwrap(), 0, 0);
        mock.add_desc_chains(&[header.into()], 0).unwrap();
        let mut queues = [Queue::new(16).unwrap(), Queue::new(16).unwrap(), mock.create_queue().unwrap()];
        let served = scsi.serve(&memory, &mut queues, Cause::Queue(REQUESTS)).unwrap();
        assert_eq!((served.used, served.next()), (0, Next::In(Duration::from_millis(500))));
    }

    #[test]
    fn a_controller_has_as_many_queues_as_are_wanted_but_no_more_than_make_sense() {
        let of = |count| {
            let scsi = Scsi::new(Disks::new().unwrap(), count, Limiter::new(Limit::default()), None);
            let mut told = [0; 4];
            scsi.configuration(0, &mut told);
            (scsi.identity().queues.to_vec(), u32::from_le_bytes(told))
        };
        assert_eq!(of(0), (vec![16, 16, 256], 1));
        assert_eq!(of(3), (vec![16, 16, 256, 256, 256], 3));
        assert_eq!(of(64).1, 8);
    }

    #[test]
    fn a_unit_that_is_not_there_is_named_as_such() {
        let mut scsi = controller();
        assert_eq!(send(&mut scsi, 9, &[0x12, 0, 0, 0, 1], &[], 36).2, [0x7f]);
        assert_eq!(send(&mut scsi, 9, &[0x00], &[], 0).1, ILLEGAL_REQUEST);
    }

    #[test]
    fn a_disk_that_comes_and_goes_is_told_to_the_driver() {
        let mut scsi = controller();
        scsi.start(0);
        scsi.disks.attach(disk("third", &[0; 512], false)).unwrap();
        scsi.disks.detach("first").unwrap();
        let memory = create(2, Backing::default()).unwrap();
        let mock = MockSplitQueue::create(&memory, GuestAddress(0), 16);
        let chain = |index: u16| Descriptor::new(0x1_0000 + u64::from(index) * 16, 16, WRITE, 0).into();
        mock.add_desc_chains(&[chain(0), chain(1)], 0).unwrap();
        let mut queues = [Queue::new(16).unwrap(), mock.create_queue().unwrap(), Queue::new(16).unwrap()];
        scsi.serve(&memory, &mut queues, Cause::Host(0)).unwrap();
        let mut events = [0; 32];
        memory.read_slice(&mut events, GuestAddress(0x1_0000)).unwrap();
        assert_eq!(events[..16], [1, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(events[16..], [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
    }

    #[test]
    fn chains_without_room_for_an_event_do_not_keep_the_device() {
        let mut scsi = controller();
        scsi.start(0);
        scsi.disks.detach("first").unwrap();
        let memory = create(2, Backing::default()).unwrap();
        let mock = MockSplitQueue::create(&memory, GuestAddress(0), 128);
        mock.add_desc_chains(&[Descriptor::new(0x1_0000, 16, 0, 0).into(); 100], 0).unwrap();
        let mut queues = [Queue::new(16).unwrap(), mock.create_queue().unwrap(), Queue::new(16).unwrap()];
        let served = scsi.serve(&memory, &mut queues, Cause::Host(0)).unwrap();
        assert_eq!((served.malformed, served.again), (64, true));
    }

    #[test]
    fn a_name_is_taken_once() {
        let Scsi { disks, .. } = controller();
        let again = disks.attach(disk("first", &[0; 512], true));
        assert_eq!(again, Err(AttachError::Taken { serial: "first".to_owned() }));
        disks.detach("first").unwrap();
        assert_eq!(disks.detach("first"), Err(AttachError::Unknown { serial: "first".to_owned() }));
    }

    #[test]
    fn the_unit_of_a_detached_disk_is_the_last_to_be_used_again() {
        let Scsi { disks, .. } = controller();
        disks.detach("first").unwrap();
        for number in 2..256 {
            disks.attach(disk(&format!("disk-{number}"), &[0; 512], true)).unwrap();
            assert!(!disks.state().disks.contains_key(&0));
        }
        disks.attach(disk("last", &[0; 512], true)).unwrap();
        assert_eq!(disks.state().disks.get(&0).unwrap().serial(), "last");
    }

    #[test]
    fn a_unit_is_not_used_again_before_the_driver_heard_that_its_disk_is_gone() {
        let mut scsi = controller();
        for number in 2..256 {
            scsi.disks.attach(disk(&format!("disk-{number}"), &[0; 512], true)).unwrap();
        }
        scsi.start(0);
        scsi.disks.detach("first").unwrap();
        assert_eq!(scsi.disks.attach(disk("late", &[0; 512], true)), Err(AttachError::Full));
        let memory = create(2, Backing::default()).unwrap();
        let mock = MockSplitQueue::create(&memory, GuestAddress(0), 16);
        mock.add_desc_chains(&[Descriptor::new(0x1_0000, 16, WRITE, 0).into()], 0).unwrap();
        let mut queues = [Queue::new(16).unwrap(), mock.create_queue().unwrap(), Queue::new(16).unwrap()];
        scsi.serve(&memory, &mut queues, Cause::Host(0)).unwrap();
        assert_eq!(scsi.disks.attach(disk("late", &[0; 512], true)), Ok(()));
    }

    proptest! {
        #[test]
        fn no_chain_is_harmful(
            command: [u8; COMMAND],
            unit: u8,
            pieces in proptest::collection::vec((0_u64..0x30_0000, 0_u32..0x2_0000, any::<bool>()), 1..8),
        ) {
            let mut scsi = controller();
            let memory = create(2, Backing::default()).unwrap();
            let mut header = [0; REQUEST];
            header[..4].copy_from_slice(&[1, 0, 0x40, unit & 3]);
            header[19..].copy_from_slice(&command);
            memory.write_slice(&header, GuestAddress(0x1_0000)).unwrap();
            let mut parts = vec![(0x1_0000, 51, false)];
            parts.extend(pieces);
            let last = u16::try_from(parts.len() - 1).unwrap();
            let descriptors: Vec<RawDescriptor> = (0_u16..).zip(parts).map(|(index, (address, length, write))| {
                let flags = if write { WRITE } else { 0 } | if index < last { NEXT } else { 0 };
                Descriptor::new(address, length, flags, index + 1).into()
            }).collect();
            let mock = MockSplitQueue::create(&memory, GuestAddress(0), 16);
            mock.build_desc_chain(&descriptors).unwrap();
            let mut queues = [Queue::new(16).unwrap(), Queue::new(16).unwrap(), mock.create_queue().unwrap()];
            scsi.serve(&memory, &mut queues, Cause::Queue(REQUESTS)).unwrap();
            prop_assert!(memory.check_range(GuestAddress(0), 1));
        }
    }

    /// Asks that a task be aborted: gives the answer.
    fn abort(scsi: &mut Scsi, memory: &Memory) -> u8 {
        memory.write_slice(&[0; 24], GuestAddress(0x5_0000)).unwrap();
        memory.write_obj(0xff_u8, GuestAddress(0x5_0100)).unwrap();
        let mock = MockSplitQueue::create(memory, GuestAddress(0x6_0000), 16);
        let descriptors: [RawDescriptor; 2] =
            [Descriptor::new(0x5_0000, 24, NEXT, 1).into(), Descriptor::new(0x5_0100, 1, WRITE, 0).into()];
        mock.build_desc_chain(&descriptors).unwrap();
        let mut queues = [mock.create_queue().unwrap(), Queue::new(16).unwrap(), Queue::new(16).unwrap()];
        assert_eq!(scsi.serve(memory, &mut queues, Cause::Queue(CONTROL)).unwrap().used, 1 << CONTROL);
        memory.read_obj(GuestAddress(0x5_0100)).unwrap()
    }

    #[test]
    fn a_command_that_waits_ends_with_its_file_also_when_the_disk_is_gone() {
        let disks = Disks::new().unwrap();
        let name = "a_command_that_waits_ends_with_its_file_also_when_the_disk_is_gone";
        let Some(ring) = Ring::for_test(name, disks.event()) else { return };
        let (slow, mut other) = Disk::slow("slow");
        disks.attach(slow).unwrap();
        let mut scsi = Scsi::new(disks.clone(), 1, Limiter::new(Limit::default()), Some(ring));
        let memory = create(2, Backing::default()).unwrap();
        let mut header = [0; REQUEST];
        header[..4].copy_from_slice(&[1, 0, 0x40, 0]);
        header[19..29].copy_from_slice(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        memory.write_slice(&header, GuestAddress(0x1_0000)).unwrap();
        let mock = MockSplitQueue::create(&memory, GuestAddress(0), 16);
        let length = |length: usize| u32::try_from(length).unwrap();
        let descriptors: [RawDescriptor; 3] = [
            Descriptor::new(0x1_0000, length(REQUEST), NEXT, 1).into(),
            Descriptor::new(0x3_0000, length(RESPONSE), NEXT | WRITE, 2).into(),
            Descriptor::new(0x4_0000, 512, WRITE, 0).into(),
        ];
        mock.add_desc_chains(&descriptors, 0).unwrap();
        let mut queues = [Queue::new(16).unwrap(), Queue::new(16).unwrap(), mock.create_queue().unwrap()];
        assert_eq!(scsi.serve(&memory, &mut queues, Cause::Queue(REQUESTS)).unwrap().used, 0);
        assert_eq!(abort(&mut scsi, &memory), REJECTED);
        disks.detach("slow").unwrap();
        other.write_all(&[7; 512]).unwrap();
        let ended = |scsi: &Scsi, limit: Timespec| {
            poll(&mut [PollFd::from_borrowed_fd(scsi.hosts()[0], PollFlags::IN)], Some(&limit)).unwrap() == 1
        };
        assert!(ended(&scsi, Timespec { tv_sec: 20, tv_nsec: 0 }), "nothing ends");
        // Room for events says nothing of requests, and leaves the news of them alone.
        queues[EVENTS].set_ready(true);
        assert_eq!(scsi.serve(&memory, &mut queues, Cause::Queue(EVENTS)).unwrap().used, 0);
        assert!(ended(&scsi, Timespec { tv_sec: 0, tv_nsec: 0 }), "the news of an end is lost");
        queues[EVENTS].set_ready(false);
        while scsi.serve(&memory, &mut queues, Cause::Host(0)).unwrap().used == 0 {
            std::thread::yield_now();
        }
        assert_eq!(memory.read_obj::<[u64; 8]>(GuestAddress(0x4_01c0)).unwrap(), [0x0707_0707_0707_0707; 8]);
        assert_eq!(memory.read_obj::<[u8; 12]>(GuestAddress(0x3_0000)).unwrap(), [0; 12]);
        assert_eq!(mock.used().idx().load(), 1);
    }
}
