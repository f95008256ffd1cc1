//! Pod-level volumes: what containers mount besides their root file system.
//!
//! ```text
//! AddVolume ──► Volumes::add ── files    tmpfs, filled by snapshots: Stage ──► apply (one atomic turn)
//!                            ├─ tmpfs    of its own size
//!                            ├─ scratch  a directory on the pod's scratch
//!                            ├─ share    9P over a stream that `Volumes::offer_share_stream` brought
//!                            └─ disk     found by its serial: mounted, or a device node
//! container's mount `coffer-volume:<id>/<path>` ──► Volumes::resolve ──► Location, to be mounted within its root
//! ```
//!
//! A volume belongs to the pod: it is added once, shared by containers, and removed by the shim when the last
//! container that names it is gone. Containers may write into volumes, so no path in one is ever followed through a
//! symbolic link by the agent, and nothing is deleted by recursion.
//!
//! Never here: RPC status codes, the containers' own mounts, what the host's side of a volume is.

mod apply;
mod error;
mod files;
mod inside;
mod live;
mod mounts;
mod path;
mod remove;
mod share;
mod stage;
mod table;

pub(crate) use error::{ErrorKind, VolumeError};
pub(crate) use table::Volumes;
