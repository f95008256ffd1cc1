//! Reads files of a directory of images whole, and none that is longer than it may be.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::LayoutError;

/// The regular file at `path`, of at most `most` bytes.
pub(super) fn bounded(path: &Path, most: usize) -> Result<Vec<u8>, LayoutError> {
    let failed = |source| LayoutError::Read { path: path.to_owned(), source };
    let mut file = open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.by_ref().take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        return Err(LayoutError::TooLong { path: path.to_owned(), limit: most });
    }
    Ok(bytes)
}

/// A pipe or a device in a file's place would keep the reader for ever.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file)
}
