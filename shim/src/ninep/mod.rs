//! A 9P2000.L file server for one directory or file of the host, in a process of its own.
//!
//! ```text
//! containerd-shim-coffer-v2 share --root-fd N --stream-fd N [--read-only] [--recursive]
//!
//! command ── jail   own mount namespace whose root is the shared tree, few capabilities, seccomp allow-list
//!         └─ serve ── frame, bounded ── request (parsed) ── session ── attributes, files, names ── reply, bounded
//! ```
//!
//! The guest at the other end is hostile. Three things keep it inside, each alone enough: a name from the guest is one
//! path component and is looked up from the descriptor of a directory without following a link; the process sees no
//! file but the shared tree; and seccomp leaves it no system call to leave with.
//!
//! One request at a time, in order: `Tflush` has nothing to flush. Locks are granted, because the guest's kernel has
//! arbitrated between its own processes already; between guest and host, or two guests, they do not hold.
//!
//! Never here: access checks by user (the guest's kernel does them, the whole guest is one party), device nodes,
//! `..` below the root, `security.*` and `trusted.*` attributes, anything asynchronous.

mod attributes;
mod calls;
mod command;
mod fids;
mod files;
mod jail;
mod names;
mod reply;
mod request;
mod serve;
mod session;
#[cfg(test)]
mod tests;
mod tree;
mod wire;
mod xattr;

pub(crate) use command::{WORD, run};
