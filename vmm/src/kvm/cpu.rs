#![allow(unsafe_code)] // That the shared page is not read while the CPU runs is known here, where it is run.
//! One virtual CPU: its state, and running it.

use std::io::ErrorKind;
use std::sync::Arc;

use kvm_bindings as kernel;

use super::call::{Call, Handle, KvmError};
use super::kick::Kick;
use super::page::{Exit, Page};
use super::request;
use super::start::Start;
use crate::memory::{Memory, Shown};

/// Bytes before the entries of a list that is passed to KVM, and bytes of one CPUID entry.
const HEADER: usize = 8;
const LEAF: usize = 40;

/// Offsets of the two local interrupt inputs' registers in the local APIC's state.
const LVT_LINT: [usize; 2] = [0x350, 0x360];

/// How a local APIC delivers an interrupt: from an i8259, or as a non-maskable one.
const DELIVERY_EXTERNAL: u32 = 0x700;
const DELIVERY_NMI: u32 = 0x400;
const DELIVERY_MASK: u32 = 0x700;

/// One leaf of CPUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuidLeaf {
    /// EAX before the instruction.
    pub function: u32,
    /// ECX before the instruction, where it matters.
    pub index: u32,
    /// KVM's flags: bit 0 says that the index matters.
    pub flags: u32,
    /// EAX, EBX, ECX and EDX after the instruction.
    pub registers: [u32; 4],
}

impl CpuidLeaf {
    /// Memory for a list of `count` leaves to be filled by KVM.
    pub(super) fn list_of(count: usize) -> Vec<u8> {
        let mut list = vec![0; HEADER + count * LEAF];
        list[..4].copy_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_ne_bytes());
        list
    }

    /// The leaves of a list that KVM filled.
    pub(super) fn parse(list: &[u8]) -> Vec<CpuidLeaf> {
        let Some((count, entries)) = list.split_at_checked(HEADER) else { return Vec::new() };
        let count = words(count).next().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        let leaf = |entry: &[u8]| {
            let mut words = words(entry);
            let mut next = || words.next().unwrap_or(0);
            let [function, index, flags] = [next(), next(), next()];
            CpuidLeaf { function, index, flags, registers: [next(), next(), next(), next()] }
        };
        entries.chunks_exact(LEAF).take(count).map(leaf).collect()
    }

    fn list(leaves: &[CpuidLeaf]) -> Vec<u8> {
        let mut list = CpuidLeaf::list_of(leaves.len());
        for (entry, leaf) in list[HEADER..].chunks_exact_mut(LEAF).zip(leaves) {
            let words = [leaf.function, leaf.index, leaf.flags].into_iter().chain(leaf.registers);
            for (place, word) in entry.chunks_exact_mut(4).zip(words) {
                place.copy_from_slice(&word.to_ne_bytes());
            }
        }
        list
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|word| word.try_into().map_or(0, u32::from_ne_bytes))
}

/// A model-specific register and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Msr {
    /// Its number.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// A virtual CPU. It runs on the thread that calls [`Cpu::run`].
#[derive(Debug)]
pub struct Cpu {
    handle: Handle,
    page: Arc<Page>,
    /// KVM maps all of it for the guest as long as there is a CPU, even after the machine's own descriptor is closed.
    _memory: (Memory, Option<Shown>),
}

impl Cpu {
    pub(super) fn new(
        handle: Handle,
        run_size: usize,
        memory: (Memory, Option<Shown>),
    ) -> Result<Cpu, KvmError> {
        let fail = |source| KvmError { request: request::CREATE_VCPU, source };
        let page = Arc::new(Page::map(handle.fd(), run_size).map_err(fail)?);
        Ok(Cpu { handle, page, _memory: memory })
    }

    /// What gets this CPU out of the guest while the calling thread runs it.
    pub fn kick(&self) -> Kick {
        Kick::of_this_thread(Arc::clone(&self.page))
    }

    /// Tells the guest what CPU it runs on. To be called before anything that depends on it.
    pub fn set_cpuid(&self, leaves: &[CpuidLeaf]) -> Result<(), KvmError> {
        self.handle.call(Call::memory(request::SET_CPUID2, &mut CpuidLeaf::list(leaves))).map(drop)
    }

    /// Sets model-specific registers, all or none of them.
    pub fn set_msrs(&self, msrs: &[Msr]) -> Result<(), KvmError> {
        let mut list = vec![0; HEADER];
        list[..4].copy_from_slice(&u32::try_from(msrs.len()).unwrap_or(u32::MAX).to_ne_bytes());
        for msr in msrs {
            list.extend(u64::from(msr.index).to_ne_bytes());
            list.extend(msr.value.to_ne_bytes());
        }
        let set = self.handle.call(Call::memory(request::SET_MSRS, &mut list))?;
        // KVM stops at the first one that it does not take, and says how many it took.
        match usize::try_from(set).ok().and_then(|set| msrs.get(set)) {
            None => Ok(()),
            Some(refused) => {
                let source = std::io::Error::other(format!("register {:#x} is not taken", refused.index));
                Err(KvmError { request: request::SET_MSRS, source })
            }
        }
    }

    /// Connects the local APIC's two inputs as a board does: the first to the i8259s, the second to NMI.
    pub fn connect_local_interrupts(&self) -> Result<(), KvmError> {
        let mut state = [0; 1024];
        self.handle.call(Call::memory(request::GET_LAPIC, &mut state))?;
        for (offset, mode) in LVT_LINT.into_iter().zip([DELIVERY_EXTERNAL, DELIVERY_NMI]) {
            if let Some(place) = state.get_mut(offset..offset + 4) {
                let now = words(place).next().unwrap_or(0);
                place.copy_from_slice(&((now & !DELIVERY_MASK) | mode).to_ne_bytes());
            }
        }
        self.handle.call(Call::memory(request::SET_LAPIC, &mut state)).map(drop)
    }

    /// Puts the CPU into the state that a boot protocol wants. CPUs that are not started stay as KVM makes them:
    /// waiting for the first one to wake them.
    pub fn start(&self, start: Start) -> Result<(), KvmError> {
        let mut special = kernel::kvm_sregs::default();
        self.handle.structure(request::GET_SREGS, &mut special)?;
        start.fill_special(&mut special);
        self.handle.structure(request::SET_SREGS, &mut special)?;
        self.handle.structure(request::SET_REGS, &mut start.general())?;
        // The values that a CPU has after it was switched on.
        let mut float = kernel::kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
        self.handle.structure(request::SET_FPU, &mut float).map(drop)
    }

    /// The instruction pointer, for a message about a CPU that stopped.
    pub fn instruction_pointer(&self) -> Result<u64, KvmError> {
        let mut registers = kernel::kvm_regs::default();
        self.handle.structure(request::GET_REGS, &mut registers)?;
        Ok(registers.rip)
    }

    /// Frequency of the time stamp counter, in kHz.
    pub fn tsc_khz(&self) -> Result<u32, KvmError> {
        self.handle.value(request::GET_TSC_KHZ, 0).map(|khz| u32::try_from(khz).unwrap_or(0))
    }

    /// Tells the guest's clock that the CPU was held, so that its watchdog does not take that for a hang.
    pub fn was_paused(&self) {
        // A guest that does not use the clock is refused, and needs none of it.
        let _ = self.handle.value(request::KVMCLOCK_CTRL, 0);
    }

    /// Runs the guest until it needs something.
    pub fn run(&mut self) -> Result<Exit<'_>, KvmError> {
        match self.handle.value(request::RUN, 0) {
            // SAFETY: the CPU has just stopped. It runs only here, with `&mut self`, which the result keeps borrowed.
            Ok(_) => Ok(unsafe { self.page.exit() }),
            Err(KvmError { source, .. }) if source.kind() == ErrorKind::Interrupted => {
                // Whoever asked is to be looked for by the caller; the next run is an ordinary one.
                self.page.set_immediate_exit(false);
                Ok(Exit::Interrupted)
            }
            // A CPU that waits for the first one to start it was woken for another reason.
            Err(KvmError { source, .. }) if source.kind() == ErrorKind::WouldBlock => Ok(Exit::Interrupted),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_leaves_is_parsed_as_it_was_written() {
        let leaves = [
            CpuidLeaf { function: 0, index: 0, flags: 0, registers: [1, 2, 3, 4] },
            CpuidLeaf { function: 4, index: 1, flags: 1, registers: [5, 6, 7, u32::MAX] },
        ];
        assert_eq!(CpuidLeaf::parse(&CpuidLeaf::list(&leaves)), leaves);
    }

    #[test]
    fn a_count_beyond_the_list_gives_what_is_there() {
        let mut list = CpuidLeaf::list_of(1);
        list[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(CpuidLeaf::parse(&list), [CpuidLeaf::default()]);
    }
}
