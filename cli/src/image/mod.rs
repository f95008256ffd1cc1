//! `coffer image`: what a policy says about images, on any machine and without a network.
//!
//! ```text
//! verify --layout DIR --policy FILE --name NAME [--reference TAG] [--platform OS/ARCH] [--at TIME] [--json]
//! sign DIR --key FILE [--reference TAG] [--tag-scheme --name NAME]
//! inspect --layout DIR [--json]
//! policy explain --policy FILE NAME …
//! policy test --policy FILE NAME=POINTER …
//! ```
//! The verdict is the exit code too: 0 for an image that may run, 3 for one that is refused. Input that cannot be read is an
//! error (1) and no verdict.
//!
//! Never here: a check. What is right and wrong is decided by `coffer-image`, which guests use too.

mod inspect;
mod key;
mod password;
mod policy;
mod run;
mod sign;
mod signature;
mod verify;

pub(crate) use run::{ImageCommand, run};
