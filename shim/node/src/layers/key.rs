//! What tells that a directory is the one that was converted before.
//!
//! A committed snapshot is known by its directory alone: device, inode, birth time, change time. containerd never
//! writes into it again; a snapshot that took a removed one's inode has another birth (and change) time, because
//! unpacking lies between. The change time also catches whoever replaces entries of the directory by hand.
//!
//! Any other directory may be changed deep inside by its owner, so it is known by the same facts of every entry in
//! it: no file can change without its change time. That costs one walk, far less than a conversion.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::Digest;

/// Changes with the form of keys and with the way in which images are made, so that older entries are not found.
const GENERATION: &str = "coffer-erofs-1";

/// Key of a directory that does not change.
pub(super) fn of_snapshot(dir: &Path) -> io::Result<Digest> {
    let metadata = fs::metadata(dir)?;
    if !metadata.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let facts = format!(
        "{GENERATION} snapshot dev={} ino={} born={:?} ctime={}.{:09} mtime={}.{:09}",
        metadata.dev(),
        metadata.ino(),
        born,
        metadata.ctime(),
        metadata.ctime_nsec(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    );
    Ok(Digest::of(facts.as_bytes()))
}

/// Key of a directory that may change, by everything in it.
pub(super) fn of_tree(dir: &Path) -> io::Result<Digest> {
    let metadata = fs::metadata(dir)?;
    if !metadata.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    let mut facts = format!("{GENERATION} tree\n").into_bytes();
    let mut pending = vec![dir.to_owned()];
    describe(&mut facts, Path::new(""), &metadata);
    while let Some(parent) = pending.pop() {
        let mut entries = fs::read_dir(&parent)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path)?;
            describe(&mut facts, &path, &metadata);
            if metadata.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(Digest::of(&facts))
}

fn describe(facts: &mut Vec<u8>, path: &Path, metadata: &fs::Metadata) {
    let numbers = format!(
        "\0{} {} {:o} {} {} {}.{:09}\n",
        metadata.dev(),
        metadata.ino(),
        metadata.mode(),
        metadata.rdev(),
        metadata.size(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    );
    facts.extend_from_slice(path.as_os_str().as_bytes());
    facts.extend_from_slice(numbers.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_key() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(of_snapshot(dir.path()).expect("key"), of_snapshot(dir.path()).expect("key"));
        assert_eq!(of_tree(dir.path()).expect("key"), of_tree(dir.path()).expect("key"));
    }

    #[test]
    fn a_new_entry_changes_the_key_of_a_snapshot() {
        let dir = tempfile::tempdir().expect("a directory");
        // Long ago, because some kernels count file times in ticks of several milliseconds.
        fs::File::open(dir.path()).and_then(|dir| dir.set_modified(UNIX_EPOCH)).expect("set back");
        let before = of_snapshot(dir.path()).expect("key");
        fs::write(dir.path().join("new"), "").expect("written");
        assert_ne!(of_snapshot(dir.path()).expect("key"), before);
    }

    #[test]
    fn a_change_deep_inside_changes_the_key_of_a_tree() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("sub")).expect("made");
        fs::write(dir.path().join("sub/file"), "a").expect("written");
        let before = of_tree(dir.path()).expect("key");
        fs::write(dir.path().join("sub/file"), "bc").expect("written");
        assert_ne!(of_tree(dir.path()).expect("key"), before);
    }

    #[test]
    fn a_file_is_no_layer() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(of_snapshot(file.path()).is_err());
        assert!(of_tree(file.path()).is_err());
    }
}
