//! A verifier beside a node, and what its guests are to say of themselves.
//!
//! ```text
//! service   the real coffer-verifier as a process, with keys, certificate, secrets and reference values of its own
//! initdata  what a pod's author gives the guest, as the annotation has it
//! guest     the guest image with one byte changed
//! log       the audit log, read by rules that are written here a second time
//! ```

mod guest;
mod initdata;
mod log;
mod service;

pub use guest::{Change, changed_guest};
pub use initdata::{ANY_IMAGE, Initdata};
pub use log::AuditLog;
pub use service::{HOST, Reference, Verifier};
