//! What the machine has besides processors and memory. Each device is small, and knows no other.
//!
//! ```text
//! serial   one 16550, the kernel's console: output only
//! reset    the keyboard controller's one line that resets a PC
//! clock    the battery-backed clock, read-only
//! disk     a file or block device as sectors: what every kind of disk does the same way; requests are the queues of both kinds
//! balloon  gives pages that the guest does not use, or is asked for, back to the node; ration is what it is asked
//! block    a disk as virtio-blk
//! scsi     all disks behind one controller, so that they can come and go; scsi_command is what it is asked
//! net      an attached tap queue as virtio-net; seat is where one may come later, tap what either has
//! vsock    the vsock device (`crate::vsock`) behind this monitor's transport
//! random   virtio-rng
//! ```

mod balloon;
mod block;
mod clock;
mod disk;
mod net;
mod random;
mod ration;
mod requests;
mod reset;
mod scsi;
mod scsi_command;
mod seat;
mod serial;
mod tap;
mod vsock;

pub use balloon::Balloon;
pub use block::Block;
pub use clock::Clock;
pub use disk::{Disk, DiskError};
pub use net::Net;
pub use random::Random;
pub use ration::{Ration, RationError};
pub use requests::MAX_QUEUES;
pub use reset::ResetPort;
pub use scsi::{AttachError, Disks, Scsi};
pub use seat::{Seat, SeatError};
pub use serial::Serial;
pub use tap::{NetError, Tap};
pub use vsock::Vsock;
