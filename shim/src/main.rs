//! `containerd-shim-coffer-v2`: runs one pod in one virtual machine for containerd.
//!
//! ```text
//! main ── bootstrap ── start, delete, -info                     answers and exits
//!              └────── daemon ── task ── pod ── hypervisor      serves until the pod is gone
//!                                         ├──── volume, ninep   what mounts become in the guest
//!                                         ├──── images          what the guest is told of images, and their blobs
//!                                         ├──── tee             a secure processor, where the host plays one
//!                                         ├──── stdio           what processes read and write
//!                                         └──── publisher       what containerd is told
//! ```
//! containerd's types stay in `task`, `stats`, `publisher` and `bootstrap/wire`.

mod bootstrap;
mod event;
mod group;
mod hold;
mod hypervisor;
mod images;
mod log;
mod memory;
mod metrics;
mod ninep;
mod options;
mod pod;
mod publisher;
mod stats;
mod stdio;
mod task;
mod tee;
mod volume;

use std::process::ExitCode;

fn main() -> ExitCode {
    match bootstrap::run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // containerd puts what `start` prints into its own error.
            eprintln!("{}: {err:#}", env!("CARGO_BIN_NAME"));
            ExitCode::FAILURE
        }
    }
}
