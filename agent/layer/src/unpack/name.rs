//! Names of entries: where below the root they lie, and which of them stand for what a layer takes away.

use super::error::{Bound, EntryFault, UnpackError, shown, within};
use super::limits::Limits;

const WHITEOUT: &[u8] = b".wh.";
const RESERVED: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Where an entry lies, and what it is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// The root itself.
    Root,
    /// Something in a directory.
    At(Path<'a>),
    /// `.wh.NAME`: whatever is called so in lower layers is gone.
    Whiteout(Path<'a>),
    /// `.wh..wh..opq`: whatever lower layers have in this directory is gone.
    Opaque(Vec<&'a [u8]>),
}

/// A path below the root, of components that are names: neither empty, nor `.` or `..`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path<'a> {
    /// The directories.
    pub(super) parents: Vec<&'a [u8]>,
    /// The last component.
    pub(super) name: &'a [u8],
}

/// Where the entry `name` lies. A leading `/` is the layer's root, as it is for containerd.
pub(super) fn place<'a>(name: &'a [u8], limits: &Limits) -> Result<Place<'a>, UnpackError> {
    let refused = |fault| UnpackError::Entry { entry: shown(name), fault };
    let Some(Path { parents, name: last }) = path(name, limits)?.map_err(refused)? else {
        return if name.is_empty() { Err(refused(EntryFault::Nameless)) } else { Ok(Place::Root) };
    };
    if parents.iter().any(|parent| parent.starts_with(WHITEOUT)) {
        return Err(refused(EntryFault::Reserved));
    }
    match last.strip_prefix(WHITEOUT) {
        None => Ok(Place::At(Path { parents, name: last })),
        Some(_) if last == OPAQUE => Ok(Place::Opaque(parents)),
        Some(b"" | b"." | b"..") => Err(refused(EntryFault::Reserved)),
        Some(_) if last.starts_with(RESERVED) => Err(refused(EntryFault::Reserved)),
        Some(hidden) => Ok(Place::Whiteout(Path { parents, name: hidden })),
    }
}

/// The file that a hard link names; nothing if that is the root.
pub(super) fn target<'a>(link: &'a [u8], limits: &Limits) -> Result<Option<Path<'a>>, UnpackError> {
    path(link, limits)?.map_err(|fault| UnpackError::Entry { entry: shown(link), fault })
}

/// The components of `text`; none for the root.
fn path<'a>(text: &'a [u8], limits: &Limits) -> Result<Result<Option<Path<'a>>, EntryFault>, UnpackError> {
    within(Bound::PathBytes, limits.path_bytes, text.len() as u64)?;
    if text.contains(&0) {
        return Ok(Err(EntryFault::Nul));
    }
    let parts = text.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let mut parents: Vec<&[u8]> = parts.collect();
    within(Bound::Depth, limits.depth, parents.len() as u64)?;
    if parents.contains(&b"..".as_slice()) {
        return Ok(Err(EntryFault::Climbs));
    }
    Ok(Ok(parents.pop().map(|name| Path { parents, name })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str) -> Result<Place<'_>, UnpackError> {
        place(name.as_bytes(), &Limits::default())
    }

    fn fault(name: &str) -> Option<EntryFault> {
        match at(name) {
            Err(UnpackError::Entry { fault, .. }) => Some(fault),
            _ => None,
        }
    }

    fn path<'a>(parents: &[&'a str], name: &'a str) -> Path<'a> {
        Path { parents: parents.iter().map(|part| part.as_bytes()).collect(), name: name.as_bytes() }
    }

    #[test]
    fn dots_and_doubled_slashes_are_left_out() {
        assert_eq!(at("./a//b/./c/").unwrap(), Place::At(path(&["a", "b"], "c")));
    }

    #[test]
    fn an_absolute_name_lies_below_the_root() {
        assert_eq!(at("/etc/passwd").unwrap(), Place::At(path(&["etc"], "passwd")));
    }

    #[test]
    fn the_root_is_an_entry_and_no_name_is_none() {
        assert_eq!(
            [at("./").unwrap(), at("/").unwrap(), at(".").unwrap()],
            [Place::Root, Place::Root, Place::Root]
        );
        assert_eq!(fault(""), Some(EntryFault::Nameless));
    }

    #[test]
    fn names_that_climb_are_refused() {
        let climbing = ["..", "../a", "a/..", "a/../b", "/../a", "a/../../b"];
        assert!(climbing.iter().all(|name| fault(name) == Some(EntryFault::Climbs)));
    }

    #[test]
    fn whiteouts_are_told_apart() {
        assert_eq!(at("a/.wh.b").unwrap(), Place::Whiteout(path(&["a"], "b")));
        assert_eq!(at("a/.wh..wh..opq").unwrap(), Place::Opaque(vec![b"a"]));
        assert_eq!(at("a/wh.b").unwrap(), Place::At(path(&["a"], "wh.b")));
    }

    #[test]
    fn whiteouts_of_no_name_are_refused() {
        let odd = [
            ".wh.",
            ".wh..",
            ".wh...",
            "a/.wh.",
            ".wh..wh.plnk",
            ".wh..wh.aufs",
            ".wh.a/b",
            ".wh..wh..opq/a",
        ];
        assert!(odd.iter().all(|name| fault(name) == Some(EntryFault::Reserved)));
    }

    #[test]
    fn names_with_zero_bytes_are_refused() {
        assert_eq!(fault("a\0b"), Some(EntryFault::Nul));
    }

    #[test]
    fn long_and_deep_names_are_refused() {
        let found = [at(&"a".repeat(4096)).err(), at(&"a/".repeat(129)).err()];
        let bounds = found.map(|error| match error {
            Some(UnpackError::TooMuch { bound, most, found }) => Some((bound, most, found)),
            _ => None,
        });
        assert_eq!(bounds, [Some((Bound::PathBytes, 4095, 4096)), Some((Bound::Depth, 128, 129))]);
    }
}
