//! One virtual machine: its memory slots, its interrupts, and the writes of the guest that become notifications.

use std::os::fd::{AsRawFd, BorrowedFd};

use kvm_bindings as kernel;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use super::call::{Call, Handle, KvmError};
use super::cpu::Cpu;
use super::request;
use crate::memory::{Memory, Shown};

/// Where Intel's processors keep a task state segment for real mode: three pages that no device and no memory uses.
const TSS: u64 = 0xfffb_d000;

/// Where they keep an identity page table: the page before.
const IDENTITY_MAP: u64 = 0xfffb_c000;

/// A write of the guest's that is turned into a count on an event descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification {
    /// Four bytes of this value at this guest-physical address.
    Memory {
        /// Where.
        address: u64,
        /// What is written.
        value: u32,
    },
    /// Four bytes of this value to this port.
    Port {
        /// Which.
        port: u16,
        /// What is written.
        value: u32,
    },
}

/// A virtual machine that has no memory yet.
#[derive(Debug)]
pub struct BareVm {
    handle: Handle,
    run_size: usize,
}

impl BareVm {
    pub(super) fn new(handle: Handle, run_size: usize) -> BareVm {
        BareVm { handle, run_size }
    }

    /// Gives the machine its memory: one slot per region.
    pub fn with_memory(self, memory: Memory) -> Result<Vm, KvmError> {
        Vm::new(self.handle, memory, self.run_size)
    }
}

/// A virtual machine. It keeps the memory that KVM maps for the guest.
#[derive(Debug)]
pub struct Vm {
    handle: Handle,
    memory: Memory,
    shown: Option<Shown>,
    run_size: usize,
}

impl Vm {
    fn new(handle: Handle, memory: Memory, run_size: usize) -> Result<Vm, KvmError> {
        let vm = Vm { handle, memory, shown: None, run_size };
        for (slot, region) in vm.memory.iter().enumerate() {
            // The region is part of `memory`, which this Vm and each of its CPUs keep: it is mapped as long as KVM uses it.
            let place = (region.as_ptr().expose_provenance() as u64, region.len());
            vm.map(slot, region.start_addr().raw_value(), place, 0)?;
        }
        Ok(vm)
    }

    /// Has the guest find pages that it can only read at `address`; what it writes there goes to the monitor. To be called
    /// once, and before the first CPU is made.
    pub fn show(&mut self, shown: Shown, address: u64) -> Result<(), KvmError> {
        // Kept first, by this Vm and by each of its CPUs.
        let place = self.shown.insert(shown).place();
        self.map(self.memory.num_regions(), address, place, kernel::KVM_MEM_READONLY)
    }

    /// Fills a slot with memory of this process: `place` is where it is, and its length.
    fn map(&self, slot: usize, address: u64, place: (u64, u64), flags: u32) -> Result<(), KvmError> {
        let (userspace_addr, memory_size) = place;
        let mut slot = kernel::kvm_userspace_memory_region {
            slot: u32::try_from(slot).unwrap_or(u32::MAX),
            flags,
            guest_phys_addr: address,
            memory_size,
            userspace_addr,
        };
        self.handle.structure(request::SET_USER_MEMORY_REGION, &mut slot).map(drop)
    }

    /// The guest's memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Makes the interrupt controllers (two i8259, one IOAPIC, one local APIC per CPU), and tells KVM which addresses it
    /// may use for itself. To be called before the first CPU is made.
    pub fn create_interrupt_controllers(&self) -> Result<(), KvmError> {
        let mut map = IDENTITY_MAP.to_ne_bytes();
        self.handle.call(Call::memory(request::SET_IDENTITY_MAP_ADDR, &mut map))?;
        self.handle.value(request::SET_TSS_ADDR, TSS)?;
        self.handle.value(request::CREATE_IRQCHIP, 0).map(drop)
    }

    /// Makes the interval timer. To be called after the interrupt controllers are made.
    pub fn create_timer(&self) -> Result<(), KvmError> {
        // The speaker's port is a part of it that some kernels poll.
        let mut config =
            kernel::kvm_pit_config { flags: kernel::KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        self.handle.structure(request::CREATE_PIT2, &mut config).map(drop)
    }

    /// From now on each count on `event` is an interrupt on line `line` of the IOAPIC.
    pub fn connect_interrupt(&self, event: BorrowedFd<'_>, line: u32) -> Result<(), KvmError> {
        let mut irqfd = kernel::kvm_irqfd { fd: number_of(event), gsi: line, ..Default::default() };
        self.handle.structure(request::IRQFD, &mut irqfd).map(drop)
    }

    /// From now on the guest's write `notification` adds one to `event`, and does not stop the CPU.
    pub fn connect_notification(
        &self,
        event: BorrowedFd<'_>,
        notification: Notification,
    ) -> Result<(), KvmError> {
        let (addr, value, port) = match notification {
            Notification::Memory { address, value } => (address, value, 0),
            Notification::Port { port, value } => (u64::from(port), value, 1 << 1),
        };
        // struct kvm_ioeventfd: what to match, address, length, descriptor, flags (1: match the value, 2: it is a
        // port), and padding.
        let mut bytes = [0; 64];
        let descriptor = number_of(event).to_ne_bytes();
        bytes[..8].copy_from_slice(&u64::from(value).to_ne_bytes());
        bytes[8..16].copy_from_slice(&addr.to_ne_bytes());
        bytes[16..20].copy_from_slice(&4_u32.to_ne_bytes());
        bytes[20..24].copy_from_slice(&descriptor);
        bytes[24..28].copy_from_slice(&(1_u32 | port).to_ne_bytes());
        self.handle.call(Call::memory(request::IOEVENTFD, &mut bytes)).map(drop)
    }

    /// Makes the CPU with this number, which is also its APIC id.
    pub fn create_cpu(&self, number: u8) -> Result<Cpu, KvmError> {
        let handle = self.handle.descriptor(request::CREATE_VCPU, u64::from(number))?;
        Cpu::new(handle, self.run_size, (self.memory.clone(), self.shown.clone()))
    }

    /// Switches the capability `number` (`KVM_CAP_…`) on.
    pub fn enable(&self, number: u32, argument: u64) -> Result<(), KvmError> {
        let mut cap = kernel::kvm_enable_cap { cap: number, ..Default::default() };
        cap.args[0] = argument;
        self.handle.structure(request::ENABLE_CAP, &mut cap).map(drop)
    }
}

fn number_of(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is open, and open descriptors are not negative.
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}
