//! How the shim speaks with a running machine: packets of text on a socket pair, one request or answer each.
//!
//! ```text
//! shim                      monitor
//! start | resume  ─────────▶  ok
//! pause           ─────────▶  ok                     when no processor runs any more
//! counters        ─────────▶  ok port_exits=… …
//! attach NAME ro|rw ───────▶  ok                     the disk's file comes as a descriptor with the packet
//! detach NAME     ─────────▶  ok                     the guest must have unmounted it
//! stop            ─────────▶  ok, then ended
//!                 ◀─────────  ended reset|panic|triple-fault|stopped|fault: …      unasked, the last packet
//! ```
//! A request that is not understood is answered with `error: …` and changes nothing. A shim that closes its end has the
//! machine stopped.

mod message;
mod serve;

pub use message::{Request, describe_end};
pub use serve::{Changeable, ControlError, serve};
