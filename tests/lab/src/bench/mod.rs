//! Monitors side by side: the same guests, booted by each in turn, and what every start took.
//!
//! ```text
//! compare   every guest × monitor × round, in turn; one line "LAB figure …" per start
//! monitor   how a monitor is started: ours as the shim does it, any other by the line that describes it
//! places    where a pod's guest was left for devices, once before all rounds; one line "LAB place …" each
//! measure   from the fork to the mark on the console, then memory, threads and KVM's own counts
//! ```
//! Whether a figure is good is judged outside, where all of them are seen together.

mod compare;
mod measure;
mod monitor;
mod places;

pub(crate) use compare::run;
