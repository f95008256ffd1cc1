//! Volumes of a pod: what the mounts of a container become in its guest, and who keeps them up to date.
//!
//! ```text
//! specification ── plan ── facts (what is it?) ── classify (what does it become?) ──► Plan
//! Plan ── pod ── snapshot + sync   files: copied, followed, read back
//!             ├─ share             a file server process on a stream of its own, see `ninep`
//!             └─ disk              a block device attached to the machine
//! ```
//!
//! Volumes belong to the pod and are counted by the containers that use them. The guest never names a path of the
//! host: what it may reach was opened when the container was created.
//!
//! Never here: containerd's types, the agent's connection (see `Guest`), the hypervisor (see `Machine`).

mod classify;
mod content;
mod device;
mod facts;
mod guest;
mod identity;
mod kubelet;
mod part;
mod plan;
mod pod;
mod refused;
mod share;
mod snapshot;
mod sync;
mod watch;

pub(crate) use guest::{Answer, Guest, Machine};
pub(crate) use kubelet::Kubelet;
pub(crate) use plan::Plan;
pub(crate) use pod::PodVolumes;
