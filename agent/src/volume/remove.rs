//! Removes trees of any depth that a container may have made, without recursion and without following links.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};

/// Opens a directory itself, never what a symbolic link of that name points to.
pub(super) fn open_dir(parent: impl AsFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Moves `parent/name` into `trash` and removes it there with everything below it.
///
/// Subdirectories are first moved up into `trash`, which must be on the same file system and out of containers'
/// reach: so a tree of any depth needs two descriptors, and nobody can change it meanwhile but by open files.
pub(super) fn remove_tree(parent: impl AsFd, name: &str, trash: &OwnedFd) -> io::Result<()> {
    let mut number = 0_u64;
    let mut waiting = vec![take(parent, name, trash, &mut number)?];
    while let Some(name) = waiting.pop() {
        match open_dir(trash, &name) {
            Ok(dir) => {
                empty(&dir, trash, &mut waiting, &mut number)?;
                rustix::fs::unlinkat(trash, &name, AtFlags::REMOVEDIR)?;
            }
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
                rustix::fs::unlinkat(trash, &name, AtFlags::empty())?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Removes all that is in `dir`, moving its directories into `trash`.
fn empty(dir: &OwnedFd, trash: &OwnedFd, waiting: &mut Vec<String>, number: &mut u64) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        match kind {
            FileType::Directory => waiting.push(take(dir, name, trash, number)?),
            _ => rustix::fs::unlinkat(dir, name, AtFlags::empty())?,
        }
    }
    Ok(())
}

/// Moves an entry into `trash` under a name that is free there.
fn take(
    parent: impl AsFd,
    name: impl rustix::path::Arg + Copy,
    trash: &OwnedFd,
    number: &mut u64,
) -> io::Result<String> {
    loop {
        *number += 1;
        let fresh = format!("trash-{number}");
        match rustix::fs::renameat_with(parent.as_fd(), name, trash, &fresh, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(fresh),
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_tree_deeper_than_any_path_may_be_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let root = open_dir(rustix::fs::CWD, base.path().to_str().unwrap()).unwrap();
        fs::create_dir(base.path().join("trash")).unwrap();
        let trash = open_dir(&root, "trash").unwrap();
        rustix::fs::mkdirat(&root, "deep", Mode::RWXU).unwrap();
        let mut at = open_dir(&root, "deep").unwrap();
        (0..3000).for_each(|_| {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = open_dir(&at, "d").unwrap();
        });

        remove_tree(&root, "deep", &trash).unwrap();

        assert!(!base.path().join("deep").exists());
        assert_eq!(fs::read_dir(base.path().join("trash")).unwrap().count(), 0);
    }

    #[test]
    fn a_link_in_a_removed_tree_is_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let root = open_dir(rustix::fs::CWD, base.path().to_str().unwrap()).unwrap();
        let _ = ["trash", "old", "kept"].map(|name| fs::create_dir(base.path().join(name)).unwrap());
        fs::write(base.path().join("kept/file"), "x").unwrap();
        std::os::unix::fs::symlink("../kept", base.path().join("old/link")).unwrap();
        let trash = open_dir(&root, "trash").unwrap();

        remove_tree(&root, "old", &trash).unwrap();

        assert_eq!(fs::read(base.path().join("kept/file")).unwrap(), b"x");
    }
}
