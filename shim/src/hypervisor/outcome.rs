//! How a machine ends, and why one does not boot or does not obey.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Why a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VmEnd {
    /// The guest switched itself off, or its kernel panicked.
    Off,
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
            VmEnd::Killed { signal } => write!(f, "the hypervisor was killed by signal {signal}"),
            VmEnd::Failed { code, message } => write!(f, "the hypervisor ended with code {code}: {message}"),
            VmEnd::DeviceLost { message } => write!(f, "the vsock device's process ended: {message}"),
        }
    }
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
    /// The vsock device's program is not there.
    #[error(
        "the vsock device is not found at {path}: run `coffer install`, or set paths.vmm in the configuration"
    )]
    DeviceMissing {
        /// As configured.
        path: PathBuf,
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
    /// QEMU refused a command.
    #[error("QEMU does not come up{tail}")]
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
    /// QEMU refused a command.
    #[error("QEMU refuses {command}: {message}")]
    Refused {
        /// The command.
        command: String,
        /// Its reason.
        message: String,
    },
    /// QEMU did not answer in time.
    #[error("QEMU did not answer {command} within {waited:?}; the host may be overloaded")]
    Deadline {
        /// The command, or the event awaited.
        command: String,
        /// How long it was given.
        waited: Duration,
    },
    /// The connection to QEMU is closed: the machine has ended.
    #[error("the machine has ended, {command} was not done")]
    Ended {
        /// The command.
        command: String,
    },
    /// A command could not be sent.
    #[error("cannot send {command} to QEMU")]
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
