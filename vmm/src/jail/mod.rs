//! How a process of the machine gives up what it does not need, before it touches a byte of the guest's.
//!
//! ```text
//! process     limits; own user, no groups, no capabilities, no new privileges
//! supervisor  a process id namespace: the machine is the first process in it, and its parent only waits
//! namespaces  mounts (the working directory, read-only, is the root), network, IPC, host name; at last a user namespace
//! landlock    no file is opened, made or removed any more
//! filter      which system calls are left, and what becomes of a process that makes another one
//! ```
//! Each step is one way. What a node does not allow ends the process with an error: there is no weaker jail.

mod filter;
mod landlock;
mod namespaces;
mod process;
mod report;
mod supervisor;

pub use filter::{Bound, Rules, allow_only};
pub use landlock::{LandlockError, give_up_files};
pub use namespaces::{become_nobody, leave_the_node};
pub use process::{JailError, drop_privileges, limit_resources};
pub use report::report_refused_calls;
pub use supervisor::{Lifeline, enter_own_processes};
