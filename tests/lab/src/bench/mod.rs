//! Monitors side by side: the same guests, booted by each in turn, and what every start took.
//!
//! ```text
//! compare   every guest × monitor × round, in turn; one line "LAB figure …" per start
//! monitor   how a monitor is started: ours as the shim does it, any other by the line that describes it
//! places    where a pod's guest was left for devices, once before all rounds; one line "LAB place …" each
//! measure   from the fork to the mark on the console, then memory, threads and KVM's own counts
//! io        what a guest moves with each monitor's devices; one line "LAB io …" per exchange
//! exchange  what an exchange is, and the guest's side of it
//! ```
//! Whether a figure is good is judged outside, where all of them are seen together.

mod compare;
mod exchange;
mod io;
mod measure;
mod monitor;
mod places;

pub(crate) use compare::run;
pub(crate) use exchange::answer;
pub(crate) use io::run as run_io;
