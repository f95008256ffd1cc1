//! One layer of an image: what it adds and what it hides.

use std::path::Path;

use anyhow::Result;
use tar::{Builder, EntryType, Header};

/// A layer under construction; entries are kept in the order in which they were added.
pub struct Layer {
    tar: Builder<Vec<u8>>,
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Self {
        Self { tar: Builder::new(Vec::new()) }
    }

    /// Adds a directory.
    pub fn directory(mut self, path: &str, mode: u32) -> Result<Self> {
        let header = header(EntryType::Directory, mode, 0);
        self.append(header, path, &[])?;
        Ok(self)
    }

    /// Adds a regular file.
    pub fn file(mut self, path: &str, mode: u32, bytes: impl AsRef<[u8]>) -> Result<Self> {
        let bytes = bytes.as_ref();
        let header = header(EntryType::Regular, mode, bytes.len() as u64);
        self.append(header, path, bytes)?;
        Ok(self)
    }

    /// Adds a regular file of another owner.
    pub fn owned_file(mut self, path: &str, owner: (u64, u64), bytes: &[u8]) -> Result<Self> {
        let mut header = header(EntryType::Regular, 0o644, bytes.len() as u64);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        self.append(header, path, bytes)?;
        Ok(self)
    }

    /// Adds a symbolic link.
    pub fn symlink(mut self, path: &str, target: impl AsRef<Path>) -> Result<Self> {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// Adds another name for the file `target` of this layer.
    pub fn hard_link(mut self, path: &str, target: &str) -> Result<Self> {
        let mut header = header(EntryType::Link, 0o755, 0);
        self.tar.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// Hides `directory/name` of the layers below.
    pub fn hide(self, directory: &str, name: &str) -> Result<Self> {
        self.file(&format!("{directory}/.wh.{name}"), 0o644, [])
    }

    /// Hides everything that the layers below have in `directory`.
    pub fn hide_all(self, directory: &str) -> Result<Self> {
        self.directory(directory, 0o755)?.file(&format!("{directory}/.wh..wh..opq"), 0o644, [])
    }

    /// The finished tar.
    pub(super) fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }

    fn append(&mut self, mut header: Header, path: &str, bytes: &[u8]) -> Result<()> {
        Ok(self.tar.append_data(&mut header, path, bytes)?)
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    // Fixed, so that the same image has the same digest everywhere.
    header.set_mtime(1_700_000_000);
    header
}
