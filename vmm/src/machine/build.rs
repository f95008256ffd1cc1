//! Puts a machine together: what is where, which interrupt line is whose, and what the kernel is told.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::cpuid;
use super::events::Events;
use crate::boot::{self, Boot, BootError};
use crate::bus::{Bus, Registers, Taken};
use crate::devices::{Clock, ResetPort, Serial};
use crate::event::Event;
use crate::kvm::{BareVm, Cpu, CpuidLeaf, Kvm, KvmError, MachineKind, Msr, Notification, Vm};
use crate::memory::{self, Backing, DEVICES, MemoryError, Shown};
use crate::virtio::{Device, Interrupt, Transport};

/// Bytes of a virtio device's registers: one page.
const REGISTERS: u64 = 0x1000;

/// The IOAPIC's lines for virtio devices: not the timer's, the cascade's, the serial port's and the clock's.
const LINES: [u8; 18] = [5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];

/// The interval timer's line, where there is one.
const TIMER: u8 = 0;

/// The most virtio devices: lines are shared from the nineteenth on.
const MAX_DEVICES: usize = 64;

/// `KVM_CAP_TSC_DEADLINE_TIMER`: the local APIC's timer can be set to a time.
const CAP_DEADLINE: u32 = 72;

/// What every processor starts with: fast string operations, and all memory cached unless a page says otherwise.
const MSRS: [Msr; 2] = [Msr { index: 0x1a0, value: 1 }, Msr { index: 0x2ff, value: 0x806 }];

/// A machine that KVM is making, on a thread of its own: most of the time is spent waiting.
#[derive(Debug)]
pub struct Making {
    supported: Vec<CpuidLeaf>,
    thread: JoinHandle<Result<(Kvm, BareVm), MachineError>>,
}

impl Making {
    /// Begins to make a machine with an open `/dev/kvm`.
    pub fn begin(kvm: OwnedFd) -> Result<Making, MachineError> {
        let kvm = Kvm::new(kvm)?;
        let supported = kvm.supported_cpuid()?;
        let make = move || {
            let names = kvm.lacking()?;
            if !names.is_empty() {
                return Err(MachineError::Lacking { names });
            }
            let vm = kvm.begin(MachineKind::Plain)?;
            Ok((kvm, vm))
        };
        let thread = std::thread::Builder::new().name("making".to_owned()).spawn(make)?;
        Ok(Making { supported, thread })
    }

    /// Whether the machine's processors give random numbers.
    pub fn gives_random_numbers(&self) -> bool {
        cpuid::give_random_numbers(&self.supported)
    }

    fn finish(self) -> Result<(Kvm, BareVm), MachineError> {
        self.thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that made the machine failed").into()))
    }
}

/// Everything that a machine is made of.
#[derive(Debug)]
pub struct Hardware {
    /// A machine that is being made.
    pub making: Making,
    /// The guest's kernel.
    pub kernel: File,
    /// Its initrd.
    pub initrd: Option<File>,
    /// Its command line, to which the machine adds where its devices are.
    pub command_line: String,
    /// Number of processors, 1 to 64.
    pub cpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// What the memory is made of.
    pub backing: Backing,
    /// Virtio devices, in the order in which the guest finds them.
    pub devices: Vec<Box<dyn Device>>,
    /// Where the serial console goes.
    pub console: File,
}

/// Why a machine cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A number is out of range.
    #[error("a machine cannot have {found} {what}, but at most {most}")]
    Spec {
        /// Of what.
        what: &'static str,
        /// What was asked for.
        found: usize,
        /// The most, at least one being needed.
        most: usize,
    },
    /// KVM lacks something.
    #[error("/dev/kvm lacks {}", .names.join(", "))]
    Lacking {
        /// The capabilities.
        names: Vec<&'static str>,
    },
    /// KVM refused something.
    #[error("KVM does not give the machine what it needs")]
    Kvm(#[from] KvmError),
    /// The memory cannot be made.
    #[error("the machine's memory cannot be made")]
    Memory(#[from] MemoryError),
    /// The kernel cannot be loaded.
    #[error("the machine cannot be booted")]
    Boot(#[from] BootError),
    /// An event descriptor or thread cannot be made.
    #[error("the machine's own events cannot be made")]
    Event(#[from] io::Error),
    /// A device's queues are none.
    #[error("a device's queues cannot be made")]
    Queue(#[from] virtio_queue::Error),
    /// Two devices lie at one place.
    #[error("two devices lie at one place")]
    Place(#[from] Taken),
}

/// A machine that has not run yet.
#[derive(Debug)]
pub struct Machine {
    pub(super) vm: Vm,
    pub(super) cpus: Vec<Cpu>,
    pub(super) board: Arc<Board>,
    pub(super) events: Events,
}

/// What processors reach.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) ports: Bus,
    pub(super) memory: Bus,
    pub(super) serial: Arc<Serial>,
    pub(super) transports: Vec<Arc<Transport>>,
}

impl Machine {
    /// Puts a machine together and loads its kernel.
    pub fn build(hardware: Hardware) -> Result<Machine, MachineError> {
        let cpus = usize::from(hardware.cpus);
        if !(1..=64).contains(&cpus) {
            return Err(MachineError::Spec { what: "processors", found: cpus, most: 64 });
        }
        if hardware.devices.len() > MAX_DEVICES {
            let found = hardware.devices.len();
            return Err(MachineError::Spec { what: "devices", found, most: MAX_DEVICES });
        }
        let memory = memory::create(hardware.memory_mib, hardware.backing)?;
        let mut command_line = hardware.command_line;
        // The guest resets itself by the one line that tells a reset from a crash.
        command_line.push_str(" reboot=k");
        // Whether a port raises its line is not to be tried out at each opening of ours, which does.
        command_line.push_str(" 8250.skip_txen_test=1");
        // Each processor's data in pages of its own: the kernel's other way takes 2 MiB, and touches all of it to free the rest.
        command_line.push_str(" percpu_alloc=page");
        if hardware.initrd.is_some() && !hardware.backing.huge_pages {
            // Its pages are the file's, which all guests share. A kernel that frees it first writes into each of them.
            command_line.push_str(" retain_initrd");
        }
        let mut lines = vec![TIMER, Serial::LINE];
        for index in 0..hardware.devices.len() {
            let (address, line) = place(index);
            lines.push(line);
            // Writing into a string does not fail.
            let _ = write!(command_line, " virtio_mmio.device=4K@{address:#x}:{line}");
        }
        let boot = Boot {
            kernel: &hardware.kernel,
            initrd: hardware.initrd.as_ref(),
            command_line: &command_line,
            cpus: hardware.cpus,
            lines: &lines,
        };
        let start = boot::load(&memory, boot)?;
        let supported = hardware.making.supported.clone();
        let (kvm, vm) = hardware.making.finish()?;
        let mut vm = vm.with_memory(memory)?;
        vm.create_interrupt_controllers()?;
        let deadline = kvm.capability(CAP_DEADLINE)? != 0;
        if !deadline {
            // A kernel whose local APIC can be set to a time, and never sleeps, needs no other timer.
            vm.create_timer()?;
        }
        let (board, events) = assemble(&mut vm, hardware.devices, hardware.console)?;
        let cpus = processors(&supported, &vm, hardware.cpus, deadline)?;
        if let Some(first) = cpus.first() {
            first.start(start)?;
        }
        Ok(Machine { vm, cpus, board: Arc::new(board), events })
    }
}

/// Address and interrupt line of a device.
fn place(index: usize) -> (u64, u8) {
    let address = DEVICES + REGISTERS * (index as u64);
    (address, LINES[index % LINES.len()])
}

fn processors(supported: &[CpuidLeaf], vm: &Vm, count: u8, deadline: bool) -> Result<Vec<Cpu>, MachineError> {
    let mut cpus = Vec::with_capacity(usize::from(count));
    for number in 0..count {
        let cpu = vm.create_cpu(number)?;
        // Registers that depend on CPUID can be set only after it.
        cpu.set_cpuid(&cpuid::leaves(supported, number, count, deadline))?;
        cpu.set_msrs(&MSRS)?;
        cpu.connect_local_interrupts()?;
        cpus.push(cpu);
    }
    Ok(cpus)
}

fn assemble(
    vm: &mut Vm,
    devices: Vec<Box<dyn Device>>,
    console: File,
) -> Result<(Board, Events), MachineError> {
    let mut events = Events::new()?;
    let (mut ports, mut memory) = (Bus::default(), Bus::default());
    let line = Event::new()?;
    vm.connect_interrupt(line.as_fd(), u32::from(Serial::LINE))?;
    let serial = Arc::new(Serial::new(console, line));
    let (start, length) = Serial::PORTS;
    ports.insert(start, length, Arc::clone(&serial) as Arc<dyn Registers>)?;
    let (start, length) = ResetPort::PORTS;
    ports.insert(start, length, Arc::new(ResetPort))?;
    let (start, length) = Clock::PORTS;
    ports.insert(start, length, Arc::new(Clock::default()))?;
    let shown = Shown::new(devices.len().max(1))?;
    vm.show(shown.clone(), DEVICES)?;
    let seen = Event::new()?;
    let mut transports = Vec::with_capacity(devices.len());
    for (index, device) in devices.into_iter().enumerate() {
        let (address, number) = place(index);
        let line = Event::new()?;
        vm.connect_interrupt(line.as_fd(), u32::from(number))?;
        for (number, host) in device.hosts().into_iter().enumerate() {
            events.watch_host(index, number, host)?;
        }
        let queues = device.identity().queues.len();
        let started = events.watch_start(index)?;
        let page = shown.page(index).ok_or_else(|| io::Error::other("fewer pages than devices"))?;
        let interrupt = Interrupt::new(line, page);
        let transport = Transport::new(device, vm.memory().clone(), interrupt, started)?;
        // Nobody takes these counts: that the driver need not be waited for is all that they are for.
        let value = Interrupt::SEEN_USED;
        let notification = Notification::Memory { address: address + Transport::ACKNOWLEDGE, value };
        vm.connect_notification(seen.as_fd(), notification)?;
        for queue in 0..queues {
            let event = events.watch_queue(index, queue)?;
            let value = u32::try_from(queue).unwrap_or(u32::MAX);
            let notification = Notification::Memory { address: address + Transport::NOTIFY, value };
            vm.connect_notification(event.as_fd(), notification)?;
        }
        let transport = Arc::new(transport);
        memory.insert(address, REGISTERS, Arc::clone(&transport) as Arc<dyn Registers>)?;
        transports.push(transport);
    }
    Ok((Board { ports, memory, serial, transports }, events))
}
