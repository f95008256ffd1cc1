//! A node that is handed on to the next test, where that is wanted: in a nested machine a node's start takes as long as a test.
//!
//! Whoever sets `COFFER_KEEP_NODE` sees to it that the machine goes away with the process: the last node is not ended.

use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use super::Node;
use crate::containerd::{Runtime, Version};

static KEPT: Mutex<Option<Node>> = Mutex::new(None);

/// Whether nodes are kept in this process.
pub(super) fn wanted() -> bool {
    std::env::var_os("COFFER_KEEP_NODE").is_some()
}

/// Keeps a node whose test has passed, and of whose pods nothing is left.
pub(super) fn keep(node: Node) {
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
}

/// The node that was kept, if it is of this kind, without what its test kept there as a kubelet; one of another kind is ended.
pub(super) fn take(version: Version, runtime: Runtime) -> Result<Option<Node>> {
    match KEPT.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(node) if node.version == version && node.runtime == runtime => {
            match fs::remove_dir_all(node.layout.kubelet()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(Some(node)),
            }
        }
        Some(node) => node.end().map(|()| None),
        None => Ok(None),
    }
}
