//! How a machine ends, and why one does not boot or does not obey.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Why a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VmEnd {
    /// The guest switched itself off, or its kernel panicked.
    Off,
    /// The guest's kernel panicked or a processor of it gave up, as far as the hypervisor can tell.
    Crashed {
        /// In which way.
        how: String,
    },
    /// The hypervisor was killed by this signal.
    Killed {
        /// Signal number.
        signal: i32,
    },
    /// The hypervisor gave up.
    Failed {
        /// Its exit code.
        code: i32,
        /// The last lines of its standard error.
        message: String,
    },
    /// The vsock device's process ended first, so the machine was killed.
    DeviceLost {
        /// How it ended, and the last lines of its standard error.
        message: String,
    },
}

impl fmt::Display for VmEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VmEnd::Off => write!(f, "the guest switched itself off"),
            VmEnd::Crashed { how } => write!(f, "the guest crashed: {how}"),
            VmEnd::Killed { signal: libc::SIGSYS } => {
                write!(f, "the hypervisor was ended for a system call that is not on its list (SIGSYS)")
            }
            VmEnd::Killed { signal } => write!(f, "the hypervisor was killed by signal {signal}"),
            VmEnd::Failed { code, message } => write!(f, "the hypervisor ended with code {code}: {message}"),
            VmEnd::DeviceLost { message } => write!(f, "the vsock device's process ended: {message}"),
        }
    }
}

/// A layer with other bytes than its image's signer sealed: what a guest's console says of it, as a part of an error's text.
pub(crate) fn corruption(console: &str) -> Option<String> {
    let mut said =
        console.lines().filter(|line| line.contains("device-mapper: verity") && line.contains("corrupted"));
    let panicked = console.contains("dm-verity device corrupted");
    let line = said.next().map(|line| line.trim().chars().take(200).collect::<String>());
    let line = line.or_else(|| panicked.then(|| "dm-verity device corrupted".to_owned()))?;
    Some(format!(
        "; a layer of a sealed image is not what its signer sealed, so the guest gave up ({line}): the file on this node was \
         changed or its disk is damaged, pull the image again"
    ))
}

/// Why a machine did not boot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    /// QEMU is not installed, or not where the configuration says.
    #[error(
        "QEMU is not found as {path}: install Debian's package qemu-system-x86, or set paths.qemu in the configuration"
    )]
    QemuMissing {
        /// As configured.
        path: PathBuf,
    },
    /// The built-in monitor's program, which is also QEMU's vsock device, is not there.
    #[error(
        "coffer-vmm, the machine's own program, is not found at {path}: run `coffer install`, or set paths.vmm in the configuration"
    )]
    DeviceMissing {
        /// As configured.
        path: PathBuf,
    },
    /// The built-in monitor was asked for on a processor that cannot run it.
    #[error(
        "the built-in monitor needs a processor with virtualization, and this one offers neither VMX nor SVM: enable \
         nested virtualization, or set hypervisor to \"auto\" or \"qemu\""
    )]
    NoVirtualization,
    /// The processor could, but /dev/kvm cannot be opened.
    #[error("cannot open /dev/kvm: load kvm-intel or kvm-amd, and give root access to it")]
    Kvm {
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The specification cannot be met.
    #[error("the machine asks for {what}, which is {found}; {limit}")]
    Spec {
        /// Which part.
        what: &'static str,
        /// What it is.
        found: String,
        /// What is possible.
        limit: &'static str,
    },
    /// Kernel or initrd cannot be opened.
    #[error("cannot open the guest's {what} {path}: build it with coffer-guest-image, or set guest_dir")]
    GuestFile {
        /// Kernel or initrd.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A socket, pipe or file for the machine cannot be made.
    #[error("cannot {action} for the machine")]
    Prepare {
        /// What was tried.
        action: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A process of the machine cannot be started.
    #[error("cannot start {program}, at the step {step:?}")]
    Spawn {
        /// Which.
        program: PathBuf,
        /// How far it came between fork and exec.
        step: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The machine ended while it was being set up.
    #[error("the machine ended while it was set up: {end}{tail}")]
    Ended {
        /// Why.
        end: VmEnd,
        /// Console and standard error.
        tail: Tail,
    },
    /// The hypervisor refused a command.
    #[error("the hypervisor does not come up{tail}")]
    Monitor {
        /// Console and standard error.
        tail: Tail,
        /// Which command, and why.
        source: MachineError,
    },
}

/// Why a running machine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    /// The hypervisor refused a command.
    #[error("the hypervisor refuses {command}: {message}")]
    Refused {
        /// The command.
        command: String,
        /// Its reason.
        message: String,
    },
    /// The hypervisor did not answer in time.
    #[error("the hypervisor did not answer {command} within {waited:?}; the host may be overloaded")]
    Deadline {
        /// The command, or the event awaited.
        command: String,
        /// How long it was given.
        waited: Duration,
    },
    /// The connection to the hypervisor is closed: the machine has ended.
    #[error("the machine has ended, {command} was not done")]
    Ended {
        /// The command.
        command: String,
    },
    /// A command could not be sent.
    #[error("cannot send {command} to the hypervisor")]
    Send {
        /// The command.
        command: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A disk cannot be named so.
    #[error("disk serial {serial:?} must be 1 to 20 of a-z, 0-9 and '-', and not in use")]
    Serial {
        /// As given.
        serial: String,
    },
    /// There is no such disk.
    #[error("the machine has no disk {serial:?}")]
    NoDisk {
        /// As given.
        serial: String,
    },
    /// All addresses on the controller are taken.
    #[error("the machine has {count} disks, and no more fit")]
    TooManyDisks {
        /// How many there are.
        count: usize,
    },
    /// The disk's file is neither a file nor a block device.
    #[error("disk {serial:?} is backed by something that is neither a file nor a block device")]
    NoBlocks {
        /// Its serial.
        serial: String,
    },
}

/// What console and standard error said last, as the end of an error's text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tail(pub(crate) String);

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trim() {
            "" => Ok(()),
            text => write!(f, "; it said last:\n{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corrupt_block_on_the_console_is_named() {
        let console = "[ 1.0] device-mapper: verity: 8:16: data block 5 is corrupted\n[ 1.0] Kernel panic - not syncing: dm-verity device corrupted\n";
        assert!(corruption(console).is_some_and(|text| text.contains("data block 5 is corrupted")));
    }

    #[test]
    fn a_panic_for_corruption_alone_is_enough() {
        assert!(corruption("Kernel panic - not syncing: dm-verity device corrupted").is_some());
    }

    #[test]
    fn another_panic_is_none() {
        assert_eq!(
            corruption("device-mapper: verity: sha256 using shash\nKernel panic - not syncing: Fatal"),
            None
        );
    }
}
