//! What the kernel has read of a file, kept where it is.
#![allow(unsafe_code)] // Only a mapping can be locked.

use std::fs::File;
use std::path::Path;
use std::ptr;

use anyhow::{Context, Result};
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap};

/// Has the kernel keep what it read of a file for as long as this process lives: a machine that gives memory back while nothing is
/// short of it would otherwise read the file again for each pod that comes a little later, and that is not the pods' doing.
pub fn keep_in_memory(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    let bytes = usize::try_from(file.metadata()?.len())?;
    // SAFETY: the kernel chooses the address, so no other mapping is replaced, and nothing is read through the new one.
    let place = unsafe { mmap(ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, &file, 0) }?;
    // SAFETY: these are the bytes that were just mapped, and nobody unmaps them.
    unsafe { mlock(place, bytes) }.context("cannot lock a file in memory")
}
