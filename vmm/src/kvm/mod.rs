//! KVM, through a boundary of one method: every request to the kernel's virtual machine monitor is an ioctl.
//!
//! ```text
//! call     one ioctl as a value, and [`Sys`], which carries it out: the kernel, or whatever stands before it in a test
//! request  every ioctl that is used, by number and name
//! system   /dev/kvm: what it can do, and a new virtual machine
//! machine  one virtual machine: memory slots, interrupts, notifications
//! cpu      one virtual CPU: its state, and running it
//! page     the page that kernel and monitor share per virtual CPU: why it stopped
//! start    the state in which a boot protocol wants a CPU
//! kick     gets a CPU that runs back
//! ```
//! KVM's own structures stop here: the rest of the monitor sees the types of this folder.
//!
//! Never here: what a device is, what is in the guest's memory, when a machine ends.

mod call;
mod cpu;
mod kick;
mod machine;
mod page;
mod request;
mod start;
mod system;

pub use call::{Call, Kernel, KvmError, Request, Sys};
pub use cpu::{Cpu, CpuidLeaf, Msr};
pub use kick::{Kick, prepare_thread};
pub use machine::{BareVm, Notification, Vm};
pub use page::{Exit, PortData};
pub use request::requests_while_running;
pub use start::Start;
pub use system::{Kvm, MachineKind};
