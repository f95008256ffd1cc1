//! What all virtio devices have in common: queues in the guest's memory, and the registers that describe them.
//!
//! ```text
//! guest ── registers ──▶ transport ── features, start, stop ──▶ device
//!       ── notification ─▶ (event) ──▶ transport ── serve ──▶ device ── used ──▶ interrupt
//!
//! buffer     the door to guest memory: one descriptor chain as a list of bounded slices
//! device     what a device is, and what one call of it did
//! interrupt  the one line of a device
//! file       bytes between a file and a chain's memory
//! kept       a chain's memory that stays mapped while a request waits
//! rate       how much a device may move, and how long it has to wait for more
//! transport  virtio over memory-mapped registers, version 2 (virtio 1.2, section 4.2)
//! waits      transfers that wait, in an io_uring
//! ```
//! The guest writes every descriptor, ring and register; none of it is believed. A device that is misused stops, says
//! so to the guest in its status, and is counted; the process goes on.

mod buffer;
mod device;
mod file;
mod interrupt;
mod kept;
mod rate;
mod transport;
mod waits;

pub use buffer::{Access, BadChain, Buffer, Chain, pop, walk};
pub use device::{Cause, Device, Fault, Identity, Next, Served};
pub use file::{Patience, read_at, read_from, write_at, write_to};
pub use interrupt::Interrupt;
pub use kept::Kept;
pub use rate::Limiter;
pub use transport::Transport;
pub use waits::{Ring, Transfer, Waits};
