//! `coffer image`: what a policy says about images, on any machine; signing it, and bringing its signatures to a node.
//!
//! ```text
//! verify IMAGE --policy FILE [--name NAME] [--at TIME]
//! sign IMAGE --key FILE [--tag-scheme [--name NAME]]
//! sign IMAGE [--identity-token FILE] [--signing-config FILE | --fulcio URL --rekor URL [--tsa URL]] [--trusted-root FILE]
//! fetch IMAGE [--store DIR]
//! inspect IMAGE
//! seal DIRECTORY --to DIRECTORY [--reference TAG] [--tag TAG] [--platform OS/ARCH]
//! encrypt DIRECTORY --to DIRECTORY --key URI=FILE [--reference TAG] [--tag TAG] [--platform OS/ARCH]
//! placeholder
//!     IMAGE is docker://NAME, or a directory with [--reference TAG]; both with [--platform OS/ARCH]
//!     docker:// with [--ca FILE] [--mirror FROM=TO] [--insecure-plain-http HOST] [--lookaside DIR|URL | --registries-d DIR]
//! policy explain --policy FILE NAME …
//! policy test --policy FILE NAME=POINTER …
//! ```
//! The verdict is the exit code too: 0 for an image that may run, 3 for one that is refused. Input that cannot be read is an
//! error (1) and no verdict.
//!
//! Never here: a check. What is right and wrong is decided by `coffer-image`, which guests use too.

mod encrypt;
mod fetch;
mod inspect;
mod key;
mod local;
mod lookaside;
mod password;
mod plugin;
mod policy;
mod registries_d;
mod run;
mod seal;
mod sealed_file;
mod sign;
mod signature;
mod source;
mod verify;

pub(crate) use plugin::verify as verify_pull;
pub(crate) use run::{ImageCommand, run};

/// What this program is called where containerd runs it at each pull.
pub(crate) const PROGRAM: &str = "coffer-image-verifier";
