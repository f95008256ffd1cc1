//! `/dev/kvm`: what it can do, and a new virtual machine.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use kvm_bindings as kernel;

use super::call::{Handle, Kernel, KvmError, Sys};
use super::cpu::CpuidLeaf;
use super::machine::{BareVm, Vm};
use super::request;
use crate::memory::Memory;

/// The most CPUID leaves that are asked for: KVM's own limit.
const MAX_LEAVES: usize = 256;

/// What kind of virtual machine is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineKind {
    /// An ordinary one, which the host can look into.
    Plain,
}

impl MachineKind {
    fn number(self) -> u64 {
        match self {
            MachineKind::Plain => 0,
        }
    }
}

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct Kvm {
    handle: Handle,
}

impl Kvm {
    /// Takes over an open `/dev/kvm`.
    pub fn new(device: OwnedFd) -> Result<Kvm, KvmError> {
        Kvm::with(device, Arc::new(Kernel))
    }

    /// The same, with every request carried out by `sys`.
    pub fn with(device: OwnedFd, sys: Arc<dyn Sys>) -> Result<Kvm, KvmError> {
        let kvm = Kvm { handle: Handle::new(sys, device) };
        let version = kvm.handle.value(request::GET_API_VERSION, 0)?;
        // The version has been 12 since 2007 and will not change; anything else is not KVM.
        if version != 12 {
            let source = std::io::Error::other(format!("API version {version} is not 12"));
            return Err(KvmError { request: request::GET_API_VERSION, source });
        }
        Ok(kvm)
    }

    /// What KVM says of the capability `number` (`KVM_CAP_…`): 0 is that it lacks it.
    pub fn capability(&self, number: u32) -> Result<u32, KvmError> {
        let answer = self.handle.value(request::CHECK_EXTENSION, u64::from(number))?;
        Ok(u32::try_from(answer).unwrap_or(0))
    }

    /// The capabilities without which no machine of ours runs, and that this KVM lacks, by name.
    pub fn lacking(&self) -> Result<Vec<&'static str>, KvmError> {
        let needed = [
            (kernel::KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"),
            (kernel::KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"),
            (kernel::KVM_CAP_IRQFD, "KVM_CAP_IRQFD"),
            (kernel::KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"),
            (kernel::KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM"),
            (kernel::KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"),
        ];
        let mut lacking = Vec::new();
        for (number, name) in needed {
            if self.capability(number)? == 0 {
                lacking.push(name);
            }
        }
        Ok(lacking)
    }

    /// The CPUID leaves that the host's CPU and KVM can give a guest.
    pub fn supported_cpuid(&self) -> Result<Vec<CpuidLeaf>, KvmError> {
        let mut list = CpuidLeaf::list_of(MAX_LEAVES);
        self.handle.call(super::call::Call::memory(request::GET_SUPPORTED_CPUID, &mut list))?;
        Ok(CpuidLeaf::parse(&list))
    }

    /// Makes a virtual machine whose memory is `memory`.
    pub fn create(&self, kind: MachineKind, memory: Memory) -> Result<Vm, KvmError> {
        self.begin(kind)?.with_memory(memory)
    }

    /// Makes a virtual machine without memory. The kernel may be waited for here: a thread of its own for this
    /// machine must find its cgroup, which takes until every processor of the node has been elsewhere.
    pub fn begin(&self, kind: MachineKind) -> Result<BareVm, KvmError> {
        let run_size = self.handle.value(request::GET_VCPU_MMAP_SIZE, 0)?;
        let handle = loop {
            match self.handle.descriptor(request::CREATE_VM, kind.number()) {
                // A signal may interrupt the making, which can be begun again.
                Err(KvmError { source, .. }) if source.kind() == std::io::ErrorKind::Interrupted => {}
                outcome => break outcome?,
            }
        };
        Ok(BareVm::new(handle, usize::try_from(run_size).unwrap_or(0)))
    }
}
