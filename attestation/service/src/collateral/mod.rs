//! What makers of processors publish and evidence need not bring: AMD's certificates and revocation lists, Intel's statements.
//!
//! ```text
//! evidence ── Wanted ── Collateral ── Cache (memory, then a directory) ── Kept, verified by Item::read
//!                          └── Fetcher, one per maker: one question at a time ── Pace ── HTTPS ── Item::read ── Cache
//! ```
//! The directory can be filled without a network. What is in it is believed no more than what comes from the network: both
//! become [`Kept`] only after they verified, and every verdict looks at signatures and dates again.
//!
//! Never here: verdicts. Without a fetcher nothing is ever asked of anybody.

mod cache;
mod fetch;
mod https;
mod item;
mod line;
mod memory;
mod pace;
mod questions;
mod read;
mod recognise;
mod shelf;
mod supply;

pub use cache::{Cache, CacheError};
pub use fetch::{FetchError, Fetcher};
pub use https::{GetError, Https, Origin, OriginError};
pub use item::Item;
pub use pace::Pace;
pub use questions::Makers;
pub use read::{Content, Kept, Roots, Unusable};
pub use supply::{Absent, Collateral};
