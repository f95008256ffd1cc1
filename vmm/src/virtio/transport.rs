//! Virtio over memory-mapped registers, version 2 (virtio 1.2, section 4.2).
//!
//! ```text
//! 0 ─▶ ACKNOWLEDGE ─▶ DRIVER ─▶ FEATURES_OK ─▶ (queues are described) ─▶ DRIVER_OK ─▶ served
//! any ─▶ NEEDS_RESET when a ring is corrupt: not served until the driver writes 0
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use super::device::{Cause, Device, Fault, Identity, Next};
use super::interrupt::Interrupt;
use crate::bus::{Effect, Registers};
use crate::event::Event;
use crate::memory::Memory;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"COFR");

const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const EVERY: u64 = VERSION_1 | EVENT_IDX | (1 << VIRTIO_RING_F_INDIRECT_DESC);

const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;

/// Offsets of the registers that the driver writes a queue's number to, the reasons of an interrupt that it has seen, and
/// how far it is.
const NOTIFY: u64 = 0x50;
const ACKNOWLEDGE: u64 = 0x64;
const STATUS: u64 = 0x70;

/// Offset of the register that counts changes of the configuration.
const GENERATION: u64 = 0xfc;

/// First offset of the device's own configuration, and the most bytes of it that are shown.
const CONFIGURATION: u64 = 0x100;
const LONGEST: usize = 256;

/// A device behind its registers. What they say is on a page that the guest reads by itself: only writes come here.
#[derive(Debug)]
pub struct Transport {
    identity: Identity,
    memory: Memory,
    interrupt: Interrupt,
    /// Told when a driver has taken the device over.
    started: Event,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    device: Box<dyn Device>,
    queues: Vec<Queue>,
    status: u32,
    offered_word: u32,
    driver_word: u32,
    features: u64,
    selected: usize,
    malformed: u64,
    faults: u64,
    generation: u32,
}

impl Transport {
    /// Offset of the register that notifications are written to.
    pub const NOTIFY: u64 = NOTIFY;

    /// Offset of the register that the reasons of an interrupt are written to, when the driver has seen them.
    pub const ACKNOWLEDGE: u64 = ACKNOWLEDGE;

    /// A device without a driver. `started` is told when one has taken it over, and [`Transport::serve`] has to be
    /// called for the first time.
    pub fn new(
        device: Box<dyn Device>,
        memory: Memory,
        interrupt: Interrupt,
        started: Event,
    ) -> Result<Transport, virtio_queue::Error> {
        let identity = device.identity();
        let queues = identity.queues.iter().map(|size| Queue::new(*size)).collect::<Result<_, _>>()?;
        let state = State {
            device,
            queues,
            status: 0,
            offered_word: 0,
            driver_word: 0,
            features: 0,
            selected: 0,
            malformed: 0,
            faults: 0,
            generation: 0,
        };
        let transport = Transport { identity, memory, interrupt, started, state: Mutex::new(state) };
        transport.show_identity();
        Ok(transport)
    }

    /// What the device is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Lets the device work. Says when it is to be called again.
    pub fn serve(&self, cause: Cause) -> Next {
        let mut state = self.state();
        if state.status & NEEDS_RESET != 0 {
            self.let_go(&mut state, cause);
            return Next::Event;
        }
        if state.status & DRIVER_OK == 0 {
            return Next::Event;
        }
        let State { device, queues, .. } = &mut *state;
        let outcome = device.serve(&self.memory, queues, cause).and_then(|served| {
            let mut interrupt = false;
            for (index, queue) in queues.iter_mut().enumerate() {
                if served.used >> index & 1 == 1 {
                    interrupt |= queue.needs_notification(&self.memory).map_err(Fault::of(index))?;
                }
            }
            Ok((served, interrupt))
        });
        match outcome {
            Ok((served, interrupt)) => {
                if interrupt {
                    self.interrupt.used();
                }
                if served.changed {
                    self.show_change(&mut state);
                }
                state.malformed = state.malformed.saturating_add(served.malformed);
                served.next()
            }
            Err(Fault { .. }) => {
                self.fail(&mut state);
                self.let_go(&mut state, cause);
                Next::Event
            }
        }
    }

    /// Has a device that a fault has stopped let go of the host.
    fn let_go(&self, state: &mut State, cause: Cause) {
        // Without queues it moves nothing, so that nothing can fail.
        let changed = state.device.serve(&self.memory, &mut [], cause).is_ok_and(|served| served.changed);
        if changed {
            self.show_change(state);
        }
    }

    /// How many requests could not be understood, and how many faults stopped the device.
    pub fn misuses(&self) -> (u64, u64) {
        let state = self.state();
        (state.malformed, state.faults)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the device. It is counted, not logged: a guest could fill the node's log with it.
    fn fail(&self, state: &mut State) {
        state.faults = state.faults.saturating_add(1);
        state.status |= NEEDS_RESET;
        state.device.stop();
        self.show(state);
        self.interrupt.changed();
    }

    fn offered(&self) -> u64 {
        self.identity.features | EVERY
    }

    /// Shows what never changes.
    fn show_identity(&self) {
        let page = self.interrupt.page();
        let state = self.state();
        for (offset, value) in [(0x00, MAGIC), (0x04, VERSION), (0x08, self.identity.kind), (0x0c, VENDOR)] {
            page.set(offset, value);
        }
        // Shared memory: none, which is said by a length of all ones.
        for offset in [0xb0, 0xb4, 0xb8, 0xbc] {
            page.set(offset, u32::MAX);
        }
        self.show_configuration(&state);
        self.show(&state);
    }

    fn show_configuration(&self, state: &State) {
        let mut configuration = [0; LONGEST];
        state.device.configuration(0, &mut configuration);
        self.interrupt.page().write(CONFIGURATION, &configuration);
    }

    /// Shows a configuration that is another than before, and tells the driver.
    fn show_change(&self, state: &mut State) {
        self.show_configuration(state);
        // A driver that read a part before and a part after finds that it has to read again.
        state.generation = state.generation.wrapping_add(1);
        self.interrupt.page().set(GENERATION, state.generation);
        self.interrupt.changed();
    }

    /// Shows what depends on what the driver wrote.
    fn show(&self, state: &State) {
        let page = self.interrupt.page();
        page.set(0x10, word(self.offered(), state.offered_word));
        page.set(0x34, state.queue().map_or(0, |queue| u32::from(queue.max_size())));
        page.set(0x44, state.queue().map_or(0, |queue| u32::from(queue.ready())));
        page.set(STATUS, state.status);
    }

    fn write_register(&self, offset: u64, value: u32) {
        match offset {
            // KVM turns the notification of every queue that there is into an event, so this is one of none.
            NOTIFY => {}
            ACKNOWLEDGE => self.interrupt.acknowledge(value),
            _ => {
                let mut state = self.state();
                if offset == STATUS {
                    self.set_status(&mut state, value);
                } else {
                    state.describe(offset, value);
                }
                self.show(&state);
            }
        }
    }

    fn set_status(&self, state: &mut State, value: u32) {
        if value == 0 {
            state.reset();
            self.interrupt.acknowledge(u32::MAX);
            return;
        }
        let new = value & !state.status & !NEEDS_RESET;
        if new & FEATURES_OK != 0 && !state.accept_features(self.offered()) {
            // The driver reads the bit back, and learns that its choice is not taken.
            return;
        }
        if new & DRIVER_OK != 0 {
            if state.status & FEATURES_OK == 0 {
                return;
            }
            if let Err(Fault { .. }) = state.start(&self.memory) {
                self.fail(state);
                // The devices' thread has it let go of the host, which takes system calls.
                self.started.signal();
                return;
            }
            self.started.signal();
        }
        state.status |= new;
    }
}

impl State {
    fn queue(&self) -> Option<&Queue> {
        self.queues.get(self.selected)
    }

    fn reset(&mut self) {
        // A device that did not get as far as DRIVER_OK has been told of the fault.
        if self.status & (DRIVER_OK | NEEDS_RESET) != 0 {
            self.device.stop();
            self.device.settle();
        }
        for queue in &mut self.queues {
            queue.reset();
        }
        self.status = 0;
        self.features = 0;
        (self.offered_word, self.driver_word, self.selected) = (0, 0, 0);
    }

    fn accept_features(&mut self, offered: u64) -> bool {
        self.features & !offered == 0 && self.features & VERSION_1 != 0
    }

    fn start(&mut self, memory: &Memory) -> Result<(), Fault> {
        for (ring, queue) in self.queues.iter_mut().enumerate() {
            queue.set_event_idx(self.features & EVENT_IDX != 0);
            if queue.ready() && !queue.is_valid(memory) {
                return Err(Fault { ring, source: virtio_queue::Error::QueueNotReady });
            }
        }
        self.device.start(self.features);
        Ok(())
    }

    /// Takes what the driver says about features and queues.
    fn describe(&mut self, offset: u64, value: u32) {
        match offset {
            0x14 => self.offered_word = value,
            0x20 if self.status & FEATURES_OK == 0 => match self.driver_word {
                0 => self.features = self.features & !u64::from(u32::MAX) | u64::from(value),
                1 => self.features = self.features & u64::from(u32::MAX) | u64::from(value) << 32,
                _ => {}
            },
            0x24 => self.driver_word = value,
            0x30 => self.selected = usize::try_from(value).unwrap_or(usize::MAX),
            _ => self.describe_queue(offset, value),
        }
    }

    fn describe_queue(&mut self, offset: u64, value: u32) {
        let open = self.status & (FEATURES_OK | DRIVER_OK) == FEATURES_OK;
        let Some(queue) = self.queues.get_mut(self.selected).filter(|_| open) else { return };
        let high = |address: u64| GuestAddress(address & u64::from(u32::MAX) | u64::from(value) << 32);
        let low = |address: u64| GuestAddress(address & !u64::from(u32::MAX) | u64::from(value));
        // What the queue refuses is not aligned or no power of two: it stays as it was, and then is not valid or not
        // where the driver thinks, which hurts only the driver.
        let _ = match offset {
            0x38 => u16::try_from(value).map_or(Ok(()), |size| queue.try_set_size(size)),
            0x44 => {
                queue.set_ready(value == 1);
                Ok(())
            }
            0x80 => queue.try_set_desc_table_address(low(queue.desc_table())),
            0x84 => queue.try_set_desc_table_address(high(queue.desc_table())),
            0x90 => queue.try_set_avail_ring_address(low(queue.avail_ring())),
            0x94 => queue.try_set_avail_ring_address(high(queue.avail_ring())),
            0xa0 => queue.try_set_used_ring_address(low(queue.used_ring())),
            0xa4 => queue.try_set_used_ring_address(high(queue.used_ring())),
            _ => Ok(()),
        };
    }
}

fn word(features: u64, select: u32) -> u32 {
    let shifted = match select {
        0 => features,
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(shifted & u64::from(u32::MAX)).unwrap_or(0)
}

impl Registers for Transport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.interrupt.page().read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        // No device of ours has configuration that a driver may write.
        if let Ok(value) = <[u8; 4]>::try_from(data)
            && offset < CONFIGURATION
        {
            self.write_register(offset, u32::from_le_bytes(value));
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Backing, Shown, create};
    use crate::virtio::Served;
    use proptest::prelude::*;
    use std::os::fd::BorrowedFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use virtio_queue::QueueOwnedT;
    use vm_memory::Bytes;

    /// Gives every chain back, and counts how often it was started and stopped.
    #[derive(Debug)]
    struct Returning(Arc<AtomicU64>);

    impl Device for Returning {
        fn identity(&self) -> Identity {
            Identity { kind: 4, features: 1 << 5, queues: &[64, 64] }
        }

        fn configuration(&self, offset: u64, data: &mut [u8]) {
            for (place, at) in data.iter_mut().zip(offset..) {
                *place = u8::try_from(at).unwrap();
            }
        }

        fn start(&mut self, _features: u64) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }

        fn stop(&mut self) {
            self.0.fetch_add(100, Ordering::SeqCst);
        }

        fn serve(&mut self, memory: &Memory, queues: &mut [Queue], _cause: Cause) -> Result<Served, Fault> {
            let mut served = Served::default();
            if queues.is_empty() {
                self.0.fetch_add(10_000, Ordering::SeqCst);
            }
            for (index, queue) in queues.iter_mut().enumerate().filter(|(_, queue)| queue.ready()) {
                let heads: Vec<u16> =
                    queue.iter(memory).map_err(Fault::of(index))?.map(|chain| chain.head_index()).collect();
                for head in heads {
                    queue.add_used(memory, head, 0).map_err(Fault::of(index))?;
                    served.used(index);
                }
            }
            Ok(served)
        }

        fn hosts(&self) -> Vec<BorrowedFd<'_>> {
            Vec::new()
        }
    }

    struct Board {
        transport: Transport,
        line: Event,
        started: Event,
        calls: Arc<AtomicU64>,
        memory: Memory,
    }

    fn board() -> Board {
        let memory = create(2, Backing::default()).unwrap();
        let (line, started, calls) = (Event::new().unwrap(), Event::new().unwrap(), Arc::default());
        let page = Shown::new(1).unwrap().page(0).unwrap();
        let interrupt = Interrupt::new(line.try_clone().unwrap(), page);
        let device = Box::new(Returning(Arc::clone(&calls)));
        let transport =
            Transport::new(device, memory.clone(), interrupt, started.try_clone().unwrap()).unwrap();
        Board { transport, line, started, calls, memory }
    }

    impl Board {
        fn get(&self, offset: u64) -> u32 {
            let mut data = [0; 4];
            self.transport.read(offset, &mut data);
            u32::from_le_bytes(data)
        }

        fn set(&self, offset: u64, value: u32) {
            self.transport.write(offset, &value.to_le_bytes());
        }

        /// What a driver does up to describing its queues.
        fn negotiate(&self) {
            self.set(0x70, 1);
            self.set(0x70, 3);
            self.set(0x24, 1);
            self.set(0x20, 1);
            self.set(0x70, 11);
        }

        fn describe(&self, queue: u32, at: u32) {
            self.set(0x30, queue);
            self.set(0x38, 16);
            for (register, offset) in [(0x80, 0), (0x90, 0x1000), (0xa0, 0x2000)] {
                self.set(register, at + offset);
            }
            self.set(0x44, 1);
        }
    }

    #[test]
    fn a_driver_finds_the_device_and_its_features() {
        let board = board();
        assert_eq!((board.get(0), board.get(4), board.get(8)), (MAGIC, 2, 4));
        assert_ne!(board.get(0x10) & 1 << 5, 0);
        board.set(0x14, 1);
        assert_eq!(board.get(0x10), 1);
        assert_eq!(board.get(0x34), 64);
    }

    #[test]
    fn a_feature_that_was_not_offered_is_not_accepted() {
        let board = board();
        board.set(0x70, 3);
        board.set(0x20, 1 << 6);
        board.set(0x24, 1);
        board.set(0x20, 1);
        board.set(0x70, 11);
        assert_eq!(board.get(0x70), 3);
    }

    #[test]
    fn a_driver_of_the_old_protocol_is_not_accepted() {
        let board = board();
        board.set(0x70, 3);
        board.set(0x70, 11);
        assert_eq!(board.get(0x70), 3);
    }

    #[test]
    fn a_chain_goes_to_the_device_and_back_with_an_interrupt() {
        let board = board();
        board.negotiate();
        board.describe(0, 0x1_0000);
        board.set(0x70, 15);
        assert_eq!((board.get(0x70), board.started.take()), (15, 1));
        // One chain of one descriptor is available.
        board.memory.write_obj(1_u16, GuestAddress(0x1_1002)).unwrap();
        assert_eq!(board.transport.serve(Cause::Queue(0)), Next::Event);
        assert_eq!(board.memory.read_obj::<u16>(GuestAddress(0x1_2002)).unwrap(), 1);
        assert_eq!((board.line.take(), board.get(0x60)), (1, 1));
        board.set(0x64, 1);
        assert_eq!(board.get(0x60), 0);
    }

    #[test]
    fn a_device_is_not_served_before_its_driver_is_ready() {
        let board = board();
        board.negotiate();
        board.describe(0, 0x1_0000);
        board.memory.write_obj(1_u16, GuestAddress(0x1_1002)).unwrap();
        board.transport.serve(Cause::Queue(0));
        assert_eq!(board.memory.read_obj::<u16>(GuestAddress(0x1_2002)).unwrap(), 0);
    }

    #[test]
    fn a_queue_outside_the_memory_stops_the_device() {
        let board = board();
        board.negotiate();
        board.describe(0, 0x20_0000);
        board.set(0x70, 15);
        assert_ne!(board.get(0x70) & NEEDS_RESET, 0);
        assert_eq!(board.transport.misuses(), (0, 1));
        assert_eq!((board.line.take(), board.started.take()), (1, 1));
        board.transport.serve(Cause::Again);
        board.set(0x70, 0);
        // Stopped by the fault, told to let go, and stopped by the driver.
        assert_eq!(board.calls.load(Ordering::SeqCst), 10_200);
    }

    #[test]
    fn a_ring_that_runs_ahead_of_itself_stops_the_device_until_it_is_reset() {
        let board = board();
        board.negotiate();
        board.describe(0, 0x1_0000);
        board.set(0x70, 15);
        board.memory.write_obj(17_u16, GuestAddress(0x1_1002)).unwrap();
        board.transport.serve(Cause::Queue(0));
        assert_ne!(board.get(0x70) & NEEDS_RESET, 0);
        board.set(0x70, 0);
        assert_eq!((board.get(0x70), board.get(0x60)), (0, 0));
    }

    #[test]
    fn a_device_that_a_fault_stopped_lets_go_of_the_host_at_once_and_later() {
        let board = board();
        board.negotiate();
        board.describe(0, 0x1_0000);
        board.set(0x70, 15);
        board.memory.write_obj(17_u16, GuestAddress(0x1_1002)).unwrap();
        assert_eq!(board.transport.serve(Cause::Queue(0)), Next::Event);
        assert_eq!(board.calls.load(Ordering::SeqCst), 10_101);
        assert_eq!(board.transport.serve(Cause::Host(0)), Next::Event);
        assert_eq!(board.calls.load(Ordering::SeqCst), 20_101);
        board.set(0x70, 0);
        assert_eq!(board.transport.serve(Cause::Host(0)), Next::Event);
        assert_eq!(board.calls.load(Ordering::SeqCst) / 10_000, 2);
    }

    #[test]
    fn a_queue_described_after_the_start_is_not_taken() {
        let board = board();
        board.negotiate();
        board.set(0x70, 15);
        board.describe(1, 0x1_0000);
        assert_eq!(board.get(0x44), 0);
    }

    #[test]
    fn the_device_is_started_and_stopped_once() {
        let board = board();
        board.negotiate();
        board.set(0x70, 15);
        board.set(0x70, 15);
        board.set(0x70, 0);
        board.set(0x70, 0);
        assert_eq!(board.calls.load(Ordering::SeqCst), 101);
    }

    #[test]
    fn configuration_is_read_byte_by_byte() {
        let board = board();
        let mut byte = [9];
        board.transport.read(0x107, &mut byte);
        assert_eq!(byte, [7]);
    }

    proptest! {
        #[test]
        fn nothing_that_is_written_to_registers_and_rings_is_harmful(
            writes in proptest::collection::vec((0_u64..0x110, any::<u32>(), 0_u64..0x4000, any::<u16>()), 0..200)
        ) {
            let board = board();
            board.negotiate();
            board.describe(0, 0x1_0000);
            board.describe(1, 0x1_4000);
            board.set(0x70, 15);
            for (register, value, place, bytes) in writes {
                board.memory.write_obj(bytes, GuestAddress(0x1_0000 + place)).unwrap();
                board.set(register & !3, value);
                board.get(register & !3);
                board.transport.serve(Cause::Queue(usize::try_from(value).unwrap()));
            }
            board.set(0x70, 0);
            prop_assert_eq!(board.get(0x70), 0);
        }
    }
}
