//! What a node keeps for its pods, shared by the shim and the operator's command.
//!
//! ```text
//! config ── what the operator wants          record ── what a pod has made, named before it is made
//! layers ── image layers as EROFS files      net ───── tap devices beside the interfaces that CNI left
//! cgroup ── where the VM's processes live     uid ───── the unprivileged user of one pod's processes
//! cleanup ─ undoes a record                  trace ─── how long each phase of a start took
//! host ──── what this machine can do       tee ───── which secure processor its pods have
//! limits ── how much its pods' machines may move
//! images ── directories of images, and the signature objects that guests are told of
//! ```
//!
//! Everything here is synchronous and returns in bounded time, except a layer's first conversion and the wait for
//! another process's conversion. Never here: containerd's types, the guest agent's connection, a hypervisor.

pub mod cgroup;
pub mod cleanup;
pub mod config;
pub mod host;
pub mod images;
pub mod layers;
mod limits;
pub mod net;
pub mod process;
pub mod record;
pub mod tee;
pub mod trace;
pub mod uid;
