//! Files that are there whole or not at all, whenever the power fails: written beside their place, and put there when every
//! byte is on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How names of files begin that are being written. One that is left over is nobody's.
const UNFINISHED: &str = ".unfinished-";

/// Writes a file in the place of one that may be there.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let unfinished = Unfinished::write(path, bytes, mode)?;
    fs::rename(&unfinished.path, path)?;
    sync_folder(path)
}

/// Writes a file that must not be there: [`io::ErrorKind::AlreadyExists`] if it is.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let unfinished = Unfinished::write(path, bytes, mode)?;
    // A link is never made over another file, also not when two do this at once.
    fs::hard_link(&unfinished.path, path)?;
    sync_folder(path)
}

/// Whether a file of this name is one that was never finished.
pub(crate) fn is_unfinished(name: &str) -> bool {
    name.starts_with(UNFINISHED)
}

/// A file beside its place. It goes when this is dropped, unless it was put there.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let mut chance = [0; 8];
        getrandom::fill(&mut chance).map_err(io::Error::other)?;
        let beside = path.with_file_name(format!("{UNFINISHED}{}", hex::encode(chance)));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        let unfinished = Self { path: beside };
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(unfinished)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a rename there is nothing of this name.
        let _ = fs::remove_file(&self.path);
    }
}

/// A name is on the disk when its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_is_written_with_its_mode_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        create(&path, b"one", 0o600).expect("created");
        assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o777, 0o600);
        replace(&path, b"two", 0o600).expect("replaced");
        assert_eq!(fs::read(&path).expect("a file"), b"two");
        assert_eq!(names(folder.path()), ["key"]);
    }

    #[test]
    fn what_is_there_is_not_created_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        create(&path, b"one", 0o600).expect("created");
        let again = create(&path, b"two", 0o600).expect_err("refused");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("a file"), b"one");
        assert_eq!(names(folder.path()), ["key"]);
    }
}
