//! A machine with a real `/dev/kvm` on any host: QEMU emulates a processor with AMD's virtualization, and a Debian kernel
//! in it runs guests with coffer-vmm.
//!
//! ```text
//! initrd    kernel modules, the static program of tests/lab as /init, coffer-vmm with its libraries, the guest image
//! emulator  this machine's QEMU without a fault that makes nested guests hang
//! nested    boots it, and reads what the program says on the console
//! node      the same machine as a node, with this one's root file system, on which the pods' test suites run
//! beside    both beside other suites, as `cargo full-test` runs them
//! bench     what the benchmark's figures say; guests are what it boots, monitors those that ours is compared with
//! io        what the figures of guests' I/O say
//! ```
//! It is booted anew each time, in a few seconds, from packages in the cache; it has no disk and no network.

mod bench;
mod beside;
mod emulator;
mod guests;
mod initrd;
mod io;
mod monitors;
mod nested;
mod node;

pub use bench::Figures;
pub use beside::{Beside, lacking};
pub use io::Exchanges;
pub use monitors::Monitor;
pub use nested::{Benchmark, Outcome, Time, Wanted, run};
pub use node::{COST, Node, Suite, run_suites, sample};
