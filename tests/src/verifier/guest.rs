//! The guest image with one byte of what boots changed, so that it boots as before and is another.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::initdata::hexadecimal;
use crate::node::Node;

/// Which part is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The kernel.
    Kernel,
    /// The initrd.
    Initrd,
    /// The command line.
    CommandLine,
}

/// In ELF's first 16 bytes, where nobody has given it a meaning.
const KERNEL_BYTE: usize = 15;

/// The last digit of the time at which the archive's first entry was written (cpio, "newc").
const INITRD_BYTE: usize = 6 + 5 * 8 + 7;

/// A copy of the node's guest image with one byte changed, and a manifest that says so.
pub fn changed_guest(node: &Node, change: Change) -> Result<PathBuf> {
    let copy = node.copied_guest(&format!("guest-{change:?}"))?;
    let path = copy.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path)?)?;
    match change {
        Change::Kernel => change_file(&copy, &mut manifest, "kernel", KERNEL_BYTE)?,
        Change::Initrd => change_file(&copy, &mut manifest, "initrd", INITRD_BYTE)?,
        Change::CommandLine => {
            let line = manifest.pointer_mut("/boot/cmdline").context("a manifest without a command line")?;
            let text = line.as_str().context("a command line is text")?;
            ensure!(text.contains("loglevel=4"), "the command line is {text}");
            *line = json!(text.replace("loglevel=4", "loglevel=3"));
        }
    }
    fs::write(&path, manifest.to_string())?;
    Ok(copy)
}

fn change_file(copy: &Path, manifest: &mut Value, role: &str, at: usize) -> Result<()> {
    let name = manifest.pointer(&format!("/boot/{role}")).and_then(Value::as_str);
    let name = name.with_context(|| format!("a manifest without a {role}"))?.to_owned();
    let path = copy.join(&name);
    let mut bytes = fs::read(&path)?;
    *bytes.get_mut(at).context("a file of some length")? ^= 1;
    fs::write(&path, &bytes)?;
    let digest = manifest.get_mut("files").and_then(|files| files.get_mut(&name));
    let digest = digest.and_then(|file| file.get_mut("digest")).context("a manifest without that file")?;
    *digest = json!(format!("sha256:{}", hexadecimal(&Sha256::digest(&bytes))));
    Ok(())
}
