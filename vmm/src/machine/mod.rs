//! A virtual machine put together: memory, processors, devices, and the loop that serves them.
//!
//! ```text
//! build   hardware ──▶ machine: what is where, which interrupt line is whose, what the kernel is told
//! cpuid   what each processor says about itself
//! run     one thread per processor ── exits ──▶ bus;   the calling thread ── events ──▶ devices
//! filter  what each kind of thread may ask of the kernel
//! gate    stops processors for a pause or for good
//! end     how a machine ends
//! ```
//! Devices are served by the one thread that called [`Running::turn`]; processors only reach their registers.
//!
//! Never here: where descriptors come from, and what the process may do.

mod build;
mod cpuid;
mod end;
mod events;
mod filter;
mod gate;
mod run;

pub use build::{Hardware, Machine, MachineError, Making};
pub use end::End;
pub use events::Turn;
pub use filter::{Thread, allowed, listing};
pub use run::{Counters, Running};
