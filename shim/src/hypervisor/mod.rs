//! The seam between a pod and whatever runs its virtual machine.
//!
//! ```text
//! choose ── which hypervisor, and why ──▶ Hypervisor::boot(VmSpec) ──▶ Machine
//! builtin ─ control: the machine as one process, our own monitor on /dev/kvm
//! qemu ──── arguments, qmp, disks: the machine as two processes, QEMU and the vsock device
//! process ─ jail, child, console: how a process of either is started, locked in, listened to and ended
//! outcome ─ how a machine ends, and why it does not boot or obey
//! dial ──── connections to the guest's ports, and the guest's one connection that says it is up
//! ```
//! A machine's processes end with the shim, whatever kills it. Everything is called on the shim's main thread, which
//! lives as long as the process: the kernel ends the children when the thread that started them ends.
//!
//! Never here: what runs inside the guest, records, cgroup limits, who decides when a machine ends.

mod arguments;
#[cfg(test)]
mod boot_tests;
mod builtin;
mod child;
mod choose;
mod console;
mod control;
mod dial;
mod disks;
mod jail;
mod outcome;
mod process;
mod qemu;
mod qmp;

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use coffer_vmm::spec::{Disk, VmSpec};

pub(crate) use choose::{Choice, choose};
pub(crate) use dial::{ConnectError, Ready, connect, listen_for_guest, ready_listener};
pub(crate) use outcome::{BootError, MachineError, Tail, VmEnd, corruption};

/// Something that boots virtual machines.
#[async_trait]
pub(crate) trait Hypervisor: Send + Sync {
    /// Starts a machine. When this returns the guest's kernel runs; the agent is not up yet. On an error nothing is
    /// left but files in the run directory.
    async fn boot(&self, spec: VmSpec) -> Result<Started, BootError>;

    /// How many queues an interface's tap is to have for a machine of so many processors.
    fn nic_queues(&self, _vcpus: u8) -> usize {
        1
    }
}

/// A machine that was started.
pub(crate) struct Started {
    /// The machine.
    pub(crate) machine: Arc<dyn Machine>,
    /// When its processors began to run.
    pub(crate) running: Instant,
    /// What the names of its processors' threads begin with, before a number.
    pub(crate) processors: &'static str,
}

/// A virtual machine. Dropping the last reference kills it.
#[async_trait]
pub(crate) trait Machine: Send + Sync {
    /// Process id, on the host, of the process that runs the guest's CPUs.
    fn pid(&self) -> u32;

    /// Adds a disk while the guest runs. It appears in the guest by itself.
    async fn attach_disk(&self, disk: Disk) -> Result<(), MachineError>;

    /// Takes a disk away. The guest must have unmounted it.
    async fn detach_disk(&self, serial: &str) -> Result<(), MachineError>;

    /// Kills and reaps all processes of the machine. Idempotent; returns within seconds even if the kernel does not
    /// let go of a process.
    async fn kill(&self);

    /// Waits until the machine has ended, and says why. Every caller gets the same answer, at any time.
    async fn ended(&self) -> VmEnd;

    /// The last 64 KiB of the guest's serial console, and what the hypervisor had to say.
    fn console_tail(&self) -> String;
}
