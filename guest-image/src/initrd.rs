//! The initrd: an archive with the agent as `/init`, the directories it mounts on, and no other program.
//!
//! Equal content gives equal bytes: entries are sorted, times and owners are 0, inodes are counted from 1. The archive
//! is not compressed: the kernel unpacks it by copying, which is the fastest (docs/decisions/0002-guest-kernel.md).

use std::collections::BTreeMap;
use std::io::{self, Write};

use cpio::newc::{Builder, trailer};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// What one path of the archive is.
#[derive(Debug, Clone)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Symlink { target: String },
    Device { mode: u32, major: u32, minor: u32 },
}

/// An initrd in the making.
#[derive(Debug, Clone, Default)]
pub struct Initrd {
    entries: BTreeMap<String, Entry>,
}

impl Initrd {
    /// The initrd of a pod's guest, with `agent` as its first and only program.
    pub fn with_agent(agent: Vec<u8>) -> Self {
        let mut initrd = Self::default();
        for path in ["dev", "etc", "proc", "root", "run", "sys", "var"] {
            initrd.directory(path, 0o755);
        }
        initrd.directory("tmp", 0o1777);
        initrd.entries.insert("var/run".into(), Entry::Symlink { target: "/run".into() });
        // The kernel opens it as the standard streams of PID 1 before anything is mounted.
        initrd.entries.insert("dev/console".into(), Entry::Device { mode: 0o600, major: 5, minor: 1 });
        // Without these names the C library asks the network who `localhost` and `root` are.
        initrd.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/nonexistent\n");
        initrd.file("etc/group", 0o644, "root:x:0:\n");
        initrd.file("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost\n");
        initrd.file("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n");
        initrd.file("init", 0o755, agent);
        initrd
    }

    /// Adds a directory. Its parents are added by whoever wants them first: the kernel makes none.
    pub fn directory(&mut self, path: &str, mode: u32) {
        self.entries.insert(path.to_owned(), Entry::Directory { mode });
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.entries.insert(path.to_owned(), Entry::File { mode, content: content.into() });
    }

    /// Adds kernel modules, each by name and content, in the order in which the agent has to load them: it reads
    /// `/modules/load`, a path on each line.
    pub fn modules(&mut self, modules: Vec<(String, Vec<u8>)>) {
        self.directory("modules", 0o755);
        let list: String = modules.iter().map(|(name, _)| format!("/modules/{name}\n")).collect();
        self.file("modules/load", 0o644, list);
        for (name, content) in modules {
            self.file(&format!("modules/{name}"), 0o644, content);
        }
    }

    /// The archive in the format that the kernel calls newc.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut archive = Vec::new();
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            append(&mut archive, Builder::new(path).ino(inode), entry)?;
        }
        trailer(archive)
    }
}

fn append(archive: &mut Vec<u8>, header: Builder, entry: &Entry) -> io::Result<()> {
    let (header, content): (Builder, &[u8]) = match entry {
        Entry::Directory { mode } => (header.mode(DIRECTORY | mode).nlink(2), &[]),
        Entry::File { mode, content } => (header.mode(REGULAR | mode), content),
        Entry::Symlink { target } => (header.mode(SYMLINK | 0o777), target.as_bytes()),
        Entry::Device { mode, major, minor } => {
            (header.mode(CHARACTER | mode).rdev_major(*major).rdev_minor(*minor), &[])
        }
    };
    let size = u32::try_from(content.len()).map_err(io::Error::other)?;
    let mut writer = header.write(archive, size);
    writer.write_all(content)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use cpio::newc::Reader;

    use super::*;

    fn names(archive: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        let mut reader = Reader::new(archive).unwrap();
        while !reader.entry().is_trailer() {
            names.push(reader.entry().name().to_owned());
            reader = Reader::new(reader.finish().unwrap()).unwrap();
        }
        names
    }

    #[test]
    fn two_initrds_of_one_agent_are_the_same_bytes() {
        let first = Initrd::with_agent(b"agent".to_vec()).to_bytes().unwrap();
        let second = Initrd::with_agent(b"agent".to_vec()).to_bytes().unwrap();
        assert_eq!(first, second);
    }

    #[test]
    fn the_order_in_which_files_are_added_does_not_matter() {
        let mut one = Initrd::default();
        one.file("a", 0o644, "1");
        one.file("b", 0o644, "2");
        let mut other = Initrd::default();
        other.file("b", 0o644, "2");
        other.file("a", 0o644, "1");
        assert_eq!(one.to_bytes().unwrap(), other.to_bytes().unwrap());
    }

    #[test]
    fn the_agent_is_the_only_program() {
        let archive = Initrd::with_agent(b"\x7fELF agent".to_vec()).to_bytes().unwrap();
        let mut executables = Vec::new();
        let mut reader = Reader::new(archive.as_slice()).unwrap();
        while !reader.entry().is_trailer() {
            let entry = reader.entry();
            if entry.mode() & 0o170_000 == REGULAR && entry.mode() & 0o111 != 0 {
                executables.push(entry.name().to_owned());
            }
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 0));
            reader = Reader::new(reader.finish().unwrap()).unwrap();
        }
        assert_eq!(executables, ["init"]);
    }

    #[test]
    fn the_initrd_holds_these_paths_and_no_other() {
        let archive = Initrd::with_agent(b"agent".to_vec()).to_bytes().unwrap();
        assert_eq!(
            names(&archive),
            [
                "dev",
                "dev/console",
                "etc",
                "etc/group",
                "etc/hosts",
                "etc/nsswitch.conf",
                "etc/passwd",
                "init",
                "proc",
                "root",
                "run",
                "sys",
                "tmp",
                "var",
                "var/run",
            ]
        );
    }

    #[test]
    fn the_agent_s_bytes_are_the_content_of_init() {
        let archive = Initrd::with_agent(b"agent".to_vec()).to_bytes().unwrap();
        let mut reader = Reader::new(archive.as_slice()).unwrap();
        while reader.entry().name() != "init" {
            reader = Reader::new(reader.finish().unwrap()).unwrap();
        }
        let mut content = Vec::new();
        reader.to_writer(&mut content).unwrap();
        assert_eq!(content, b"agent");
    }
}
