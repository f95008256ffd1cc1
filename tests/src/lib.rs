//! What the tests, the demo and the benchmark stand on: real packages, real containerd, real images, and an inventory of
//! the node that finds what was left behind.
//!
//! ```text
//! packages    installs and unpacks what Debian has
//! artefacts   builds what this workspace has
//! figures     times and sizes of the benchmarks
//! memory      keeps what was read of a file
//! images      makes small OCI images without a network
//! containerd  one private daemon with its own directories
//! cri         the kubelet's side of the CRI
//! lab         a nested machine whose /dev/kvm is real
//! leftovers   what is on the node before and after
//! verifier    the service that releases secrets, its reference values, a guest's initdata
//! node        all of it together: what a test starts with
//! totals      counts what test runners print
//! publish     what publishers do with images, for nodes to run
//! ```
//!
//! It never touches a containerd, a network or a directory of the machine that it did not make itself.

pub mod artefacts;
pub mod containerd;
pub mod cri;
pub mod figures;
pub mod images;
pub mod lab;
pub mod leftovers;
pub mod matrix;
pub mod memory;
pub mod node;
pub mod packages;
pub mod progress;
pub mod publish;
pub mod run;
pub mod terminal;
pub mod totals;
pub mod verifier;
pub mod wait;
