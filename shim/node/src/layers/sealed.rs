//! The files of a sealed image: each is a layer with its dm-verity tree behind it, as its publisher made it.
//!
//! ```text
//! <the image's only layer>/.coffer/0.erofs, 1.erofs, …      lowest first, opened beneath the layer and through no link
//! ```
//! Never here: converting, hashing, copying. The guest holds every block that it reads against the root that the image's signed
//! manifest names.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::sources::{self, Source};
use super::{Layer, LayerError, RootfsMount};

/// The folder of the files.
const FOLDER: &str = ".coffer";

/// Digits of a root hash in a serial: with `v-` before them they are as long as a serial may be.
const DIGITS: usize = 18;

/// Opens the files of a sealed image, lowest layer first; `roots` are the root hashes (64 hexadecimal digits each) that its
/// manifest names. What was written above the image's layer is no part of it.
///
/// # Errors
/// [`LayerError`]
pub fn sealed(mounts: &[RootfsMount], roots: &[String]) -> Result<Vec<Layer>, LayerError> {
    let directory = directory(mounts)?;
    let failed = |source| LayerError::Source { path: directory.clone(), source };
    let layer = File::open(&directory).map_err(failed)?;
    roots.iter().enumerate().map(|(number, root)| file(&layer, &directory, number, root)).collect()
}

/// The directory into which containerd unpacked the image's only layer.
fn directory(mounts: &[RootfsMount]) -> Result<PathBuf, LayerError> {
    let refused =
        |path: &Path, reason: &str| LayerError::Seal { path: path.to_owned(), reason: reason.to_owned() };
    let mut found = sources::read(mounts)?.into_iter().filter_map(|source| match source {
        Source::Snapshot(directory) | Source::Tree(directory) => Some(Ok(directory)),
        Source::Upper(_) => None,
        // containerd's EROFS snapshotter mounts the file beside the directory on it.
        Source::Image { path, .. } => Some(match path.parent().map(|parent| parent.join("fs")) {
            Some(directory) if directory.join(FOLDER).is_dir() => Ok(directory),
            _ => Err(refused(&path, "its snapshotter gives a disk, not a directory: use overlayfs")),
        }),
    });
    let directory = found.next().unwrap_or(Err(LayerError::NoRootfs))?;
    match found.next() {
        None => Ok(directory),
        Some(_) => Err(refused(&directory, "there are layers above it, and a sealed image has one")),
    }
}

fn file(layer: &File, directory: &Path, number: usize, root: &str) -> Result<Layer, LayerError> {
    let name = format!("{FOLDER}/{number}.erofs");
    let path = directory.join(&name);
    let digits = root.get(..DIGITS).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let digits = digits.ok_or_else(|| LayerError::Seal {
        path: path.clone(),
        reason: format!("its root hash {root:?} is no hexadecimal number"),
    })?;
    let file = open(layer, &name).map_err(|source| LayerError::Source { path, source })?;
    let serial = format!("v-{}", digits.to_ascii_lowercase());
    Ok(Layer { serial, fs_type: "erofs".to_owned(), file, digest: None })
}

fn open(layer: &File, name: &str) -> io::Result<OwnedFd> {
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(layer, name, flags, Mode::empty(), within)?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(io::Error::other("it is no regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A snapshot with a folder for sealed layers.
    fn snapshot() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join(FOLDER)).expect("made");
        dir
    }

    fn overlay(lower: &str, upper: &Path) -> RootfsMount {
        let options = vec![format!("lowerdir={lower}"), format!("upperdir={}", upper.display())];
        RootfsMount { fs_type: "overlay".to_owned(), source: "overlay".to_owned(), options }
    }

    fn opened(lower: &str, roots: &[String]) -> Result<Vec<Layer>, LayerError> {
        let upper = tempfile::tempdir().expect("a directory");
        // containerd or a plugin may have written there already.
        fs::write(upper.path().join("x"), "x").expect("written");
        sealed(&[overlay(lower, upper.path())], roots)
    }

    fn roots() -> Vec<String> {
        vec!["a".repeat(64), "b".repeat(64)]
    }

    #[test]
    fn the_files_are_opened_in_their_order_and_named_by_their_roots() {
        let dir = snapshot();
        fs::write(dir.path().join(".coffer/0.erofs"), "lower").expect("written");
        fs::write(dir.path().join(".coffer/1.erofs"), "upper").expect("written");
        let layers = opened(&dir.path().display().to_string(), &roots()).expect("opened");
        let texts =
            layers.into_iter().map(|layer| (layer.serial, io::read_to_string(File::from(layer.file))));
        let texts: Vec<(String, String)> =
            texts.map(|(serial, text)| (serial, text.expect("read"))).collect();
        let expected = [("v-aaaaaaaaaaaaaaaaaa", "lower"), ("v-bbbbbbbbbbbbbbbbbb", "upper")];
        assert_eq!(texts, expected.map(|(serial, text)| (serial.to_owned(), text.to_owned())));
        assert!(texts.iter().all(|(serial, _)| serial.len() <= 20));
    }

    #[test]
    fn a_link_in_a_files_place_is_not_followed() {
        let dir = snapshot();
        symlink("/etc/passwd", dir.path().join(".coffer/0.erofs")).expect("linked");
        let refused = opened(&dir.path().display().to_string(), &roots());
        assert!(matches!(refused, Err(LayerError::Source { .. })));
    }

    #[test]
    fn a_link_in_the_folders_place_is_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let elsewhere = snapshot();
        fs::write(elsewhere.path().join(".coffer/0.erofs"), "x").expect("written");
        symlink(elsewhere.path().join(FOLDER), dir.path().join(FOLDER)).expect("linked");
        assert!(matches!(
            opened(&dir.path().display().to_string(), &roots()),
            Err(LayerError::Source { .. })
        ));
    }

    #[test]
    fn a_pipe_in_a_files_place_holds_nobody_up() {
        let dir = snapshot();
        let path = dir.path().join(".coffer/0.erofs");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("made");
        assert!(matches!(
            opened(&dir.path().display().to_string(), &roots()),
            Err(LayerError::Source { .. })
        ));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let dir = snapshot();
        let refused = opened(&dir.path().display().to_string(), &roots());
        assert!(matches!(refused, Err(LayerError::Source { path, .. }) if path.ends_with(".coffer/0.erofs")));
    }

    #[test]
    fn an_image_of_several_layers_is_none_that_is_sealed() {
        let (one, two) = (snapshot(), snapshot());
        let lower = format!("{}:{}", two.path().display(), one.path().display());
        assert!(matches!(opened(&lower, &roots()), Err(LayerError::Seal { .. })));
    }
}
