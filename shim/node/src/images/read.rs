//! Reads files of a directory of images whole, and none that is longer than it may be.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};

use super::LayoutError;

/// The regular file `name` of `directory`, of at most `most` bytes. The directory was opened at `called`, for errors.
pub(super) fn bounded(
    directory: &File,
    called: &Path,
    name: &Path,
    most: usize,
) -> Result<Vec<u8>, LayoutError> {
    let path = || called.join(name);
    let failed = |source| LayoutError::Read { path: path(), source };
    let mut file = open(directory, name).map_err(failed)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.by_ref().take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        return Err(LayoutError::TooLong { path: path(), limit: most });
    }
    Ok(bytes)
}

/// A pipe or a device in a file's place would keep the reader for ever, and a link would show files of others.
fn open(directory: &File, name: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file)
}
