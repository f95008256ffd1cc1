//! Containers through `ctr`, each a pod of its own.

use anyhow::{Result, ensure};
use coffer_tests::containerd::{Runtime, Version};
use coffer_tests::node::{Node, with_node};

#[test]
fn first() -> Result<()> {
    with_node(Version::V1_6, Runtime::Runc, |node: &mut Node| {
        let out = node.ctr_run(&["--rm"], "c1", &["uname", "-r"]).text()?;
        ensure!(!out.is_empty());
        Ok(())
    })
}
