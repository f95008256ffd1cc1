//! Names that come over the border: volume ids, and paths inside a volume.

use coffer_protocol::{MAX_SNAPSHOT_DEPTH, VOLUME_SOURCE};

use super::VolumeError;

/// The longest volume id in bytes.
const MAX_ID: usize = 128;
/// The longest path inside a volume in bytes (`PATH_MAX` with its NUL).
const MAX_PATH: usize = 4095;
/// The longest name of a directory entry in bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;
/// The deepest path that a mount's source may name.
const MAX_SOURCE_DEPTH: usize = 64;

/// Accepts an id that is safe as a file name.
pub(super) fn check_id(id: &str) -> Result<&str, VolumeError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if id.is_empty() || id.len() > MAX_ID || id.starts_with('.') || !id.bytes().all(plain) {
        return Err(VolumeError::Id { id: id.chars().take(MAX_ID).collect() });
    }
    Ok(id)
}

/// A path inside a volume: relative, without empty, `.` or `..` components. The empty path is the volume's root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RelPath(String);

impl RelPath {
    /// Reads a snapshot entry's path.
    pub(super) fn entry(id: &str, path: &str) -> Result<RelPath, VolumeError> {
        RelPath::parse(id, path, MAX_SNAPSHOT_DEPTH)
    }

    /// Reads a path that a mount or a call names.
    pub(super) fn named(id: &str, path: &str) -> Result<RelPath, VolumeError> {
        RelPath::parse(id, path, MAX_SOURCE_DEPTH)
    }

    fn parse(id: &str, path: &str, depth: usize) -> Result<RelPath, VolumeError> {
        let plain = |name: &str| {
            !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME && !name.bytes().any(|b| b == 0)
        };
        let well = path.is_empty()
            || (path.len() <= MAX_PATH && path.split('/').count() <= depth && path.split('/').all(plain));
        if well {
            return Ok(RelPath(path.to_owned()));
        }
        Err(VolumeError::Path { id: id.to_owned(), path: path.chars().take(MAX_NAME).collect(), depth })
    }

    /// The path as text; empty for the root.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the volume's root.
    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The parent's path (empty for a top-level entry) and the last name.
    pub(super) fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }

    /// The path as the directory that it is relative to sees it: `.` for the root.
    pub(super) fn below_root(&self) -> &str {
        dot_if_empty(&self.0)
    }

    /// A leading part of a path, as [`RelPath::prefixes`] gives it.
    pub(super) fn prefix(part: &str) -> RelPath {
        RelPath(part.to_owned())
    }

    /// Every leading part of the path, shortest first, the path itself last.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = &str> {
        let ends =
            self.0.match_indices('/').map(|(at, _)| at).chain((!self.is_root()).then_some(self.0.len()));
        ends.filter_map(|end| self.0.get(..end))
    }
}

/// `.` for the empty path, which no system call takes.
pub(super) fn dot_if_empty(path: &str) -> &str {
    if path.is_empty() { "." } else { path }
}

/// Splits a mount's `coffer-volume:<id>[/<path>]`; `None` when the source names no volume.
pub(super) fn parse_source(source: &str) -> Option<Result<(&str, RelPath), VolumeError>> {
    let name = source.strip_prefix(VOLUME_SOURCE)?;
    let (id, path) = name.split_once('/').unwrap_or((name, ""));
    Some(check_id(id).and_then(|id| Ok((id, RelPath::named(id, path)?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_names_another_directory_is_refused() {
        assert!(matches!(check_id(".."), Err(VolumeError::Id { .. })));
        assert!(matches!(check_id("a/b"), Err(VolumeError::Id { .. })));
        assert!(matches!(check_id(""), Err(VolumeError::Id { .. })));
        assert!(matches!(check_id(&"a".repeat(129)), Err(VolumeError::Id { .. })));
    }

    #[test]
    fn a_path_that_climbs_is_refused() {
        assert!(matches!(RelPath::entry("v", "a/../../b"), Err(VolumeError::Path { .. })));
        assert!(matches!(RelPath::entry("v", "/a"), Err(VolumeError::Path { .. })));
        assert!(matches!(RelPath::entry("v", "a//b"), Err(VolumeError::Path { .. })));
        assert!(matches!(RelPath::entry("v", "a\0b"), Err(VolumeError::Path { .. })));
    }

    #[test]
    fn names_that_only_begin_with_two_dots_are_plain() {
        assert_eq!(
            RelPath::entry("v", "..data/key").map(|path| path.as_str().to_owned()).ok().as_deref(),
            Some("..data/key")
        );
    }

    #[test]
    fn a_path_over_the_depth_is_refused() {
        let deep = vec!["d"; MAX_SNAPSHOT_DEPTH + 1].join("/");
        assert!(matches!(RelPath::entry("v", &deep), Err(VolumeError::Path { .. })));
    }

    #[test]
    fn a_source_splits_into_its_volume_and_the_path_inside() {
        let (id, path) = parse_source("coffer-volume:cache/a/b").unwrap().unwrap();
        assert_eq!((id, path.as_str()), ("cache", "a/b"));
        assert_eq!(path.prefixes().collect::<Vec<_>>(), ["a", "a/b"]);
    }

    #[test]
    fn a_source_of_the_guest_itself_is_no_volume() {
        assert!(parse_source("/dev/shm").is_none());
    }
}
