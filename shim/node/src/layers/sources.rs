//! From containerd's rootfs mounts to what each layer is made of, lowest first.
//!
//! | mount | layers |
//! |---|---|
//! | overlay | its lower directories, then its upper directory if that holds anything |
//! | bind | the directory |
//! | erofs, ext4, xfs, … of a file or block device | that file or device |

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use coffer_layer::encrypted::PLACEHOLDER_PREFIX;

use super::{LayerError, RootfsMount};

/// What one layer is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A committed snapshot: containerd never changes it again.
    Snapshot(PathBuf),
    /// A directory that its owner may change between two pods.
    Tree(PathBuf),
    /// What was written for one container alone.
    Upper(PathBuf),
    /// A file or block device that is a file system already.
    Image {
        /// The file or device.
        path: PathBuf,
        /// The file system on it.
        fs_type: String,
    },
}

/// Most layers of one root file system: the guest's overlayfs takes 500 lower directories.
const MAX_LAYERS: usize = 500;

/// File systems that a guest mounts from a disk.
const DISK_FILE_SYSTEMS: [&str; 5] = ["erofs", "ext4", "xfs", "btrfs", "squashfs"];

/// Reads the mounts.
pub(super) fn read(mounts: &[RootfsMount]) -> Result<Vec<Source>, LayerError> {
    let [mount] = mounts else {
        let Some(first) = mounts.first() else { return Err(LayerError::NoRootfs) };
        return Err(unsupported(
            first,
            "a root file system of several mounts; configure a snapshotter that gives one",
        ));
    };
    let sources = match mount.fs_type.as_str() {
        "overlay" => overlay(mount)?,
        "bind" | "rbind" => vec![Source::Tree(PathBuf::from(&mount.source))],
        fs_type if DISK_FILE_SYSTEMS.contains(&fs_type) => vec![image(mount)?],
        _ => {
            return Err(unsupported(
                mount,
                "supported are overlay, bind, and erofs, ext4, xfs, btrfs, squashfs on a disk",
            ));
        }
    };
    if sources.len() > MAX_LAYERS {
        return Err(unsupported(
            mount,
            &format!("{} layers, at most {MAX_LAYERS} can be stacked", sources.len()),
        ));
    }
    Ok(sources)
}

fn overlay(mount: &RootfsMount) -> Result<Vec<Source>, LayerError> {
    let mut lowest_last = Vec::new();
    let mut upper = None;
    for option in &mount.options {
        match option.split_once('=') {
            Some(("lowerdir", value)) => lowest_last = split_lower(mount, value)?,
            Some(("lowerdir+", value)) => lowest_last.push(PathBuf::from(value)),
            Some(("upperdir", value)) => upper = Some(PathBuf::from(unescape(value))),
            Some(("datadir+", _)) => return Err(unsupported(mount, "data-only layers cannot become disks")),
            None if option == "userxattr" => {
                return Err(unsupported(
                    mount,
                    "layers of a rootless snapshotter mark whiteouts in another way",
                ));
            }
            _ => {}
        }
    }
    let mut sources: Vec<Source> = lowest_last.into_iter().rev().map(snapshot).collect();
    if let Some(upper) = upper.filter(|dir| !is_empty(dir)) {
        sources.push(Source::Upper(upper));
    }
    if sources.is_empty() {
        return Err(unsupported(mount, "it has no lower directory"));
    }
    Ok(sources)
}

/// `a:b:c`, topmost first; a backslash takes a colon literally, and `::` begins data-only layers.
fn split_lower(mount: &RootfsMount, value: &str) -> Result<Vec<PathBuf>, LayerError> {
    let mut dirs = vec![String::new()];
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match (character, dirs.last_mut()) {
            (':', _) => dirs.push(String::new()),
            ('\\', Some(dir)) => dir.extend(characters.next()),
            (other, Some(dir)) => dir.push(other),
            (_, None) => {}
        }
    }
    if dirs.iter().any(|dir| !dir.starts_with('/')) {
        return Err(unsupported(mount, "each lower directory must be an absolute path"));
    }
    Ok(dirs.into_iter().map(PathBuf::from).collect())
}

fn unescape(value: &str) -> String {
    let mut characters = value.chars();
    let mut plain = String::new();
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    plain
}

/// containerd's EROFS snapshotter mounts `snapshots/N/layer.erofs` on `snapshots/N/fs` and names the latter.
fn snapshot(dir: PathBuf) -> Source {
    let beside = dir.parent().map(|parent| parent.join("layer.erofs"));
    match beside.filter(|file| dir.ends_with("fs") && file.is_file()) {
        Some(path) => Source::Image { path, fs_type: "erofs".to_owned() },
        None => Source::Snapshot(dir),
    }
}

fn image(mount: &RootfsMount) -> Result<Source, LayerError> {
    let path = PathBuf::from(&mount.source);
    let metadata = fs::metadata(&path).map_err(|source| LayerError::Source { path: path.clone(), source })?;
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        return Err(unsupported(mount, "its source is neither a file nor a block device"));
    }
    if mount.options.iter().any(|option| option.starts_with("device=")) {
        return Err(unsupported(mount, "an EROFS image with further devices cannot be one disk"));
    }
    Ok(Source::Image { path, fs_type: mount.fs_type.clone() })
}

/// Refuses a root file system of which a layer is a placeholder: what runs without some of its files may do anything.
pub(super) fn check_present(sources: &[Source]) -> Result<(), LayerError> {
    let snapshots = sources.iter().filter_map(|source| match source {
        Source::Snapshot(dir) => Some(dir),
        _ => None,
    });
    for dir in snapshots {
        let unreadable = |source| LayerError::Source { path: dir.clone(), source };
        for entry in fs::read_dir(dir).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name();
            if name.as_bytes().starts_with(PLACEHOLDER_PREFIX.as_bytes()) {
                return Err(LayerError::Encrypted { path: dir.clone() });
            }
        }
    }
    Ok(())
}

/// An unreadable directory is not empty: reading it later gives the error.
fn is_empty(dir: &Path) -> bool {
    match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(err) => err.kind() == io::ErrorKind::NotFound,
    }
}

fn unsupported(mount: &RootfsMount, reason: &str) -> LayerError {
    LayerError::Unsupported {
        fs_type: mount.fs_type.clone(),
        fs_source: mount.source.clone(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fs_type: &str, source: &str, options: &[&str]) -> RootfsMount {
        RootfsMount {
            fs_type: fs_type.to_owned(),
            source: source.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    #[test]
    fn lower_directories_come_lowest_first() {
        let sources = read(&[mount("overlay", "overlay", &["index=off", "lowerdir=/s/2/fs:/s/1/fs"])]);
        let expected = vec![Source::Snapshot("/s/1/fs".into()), Source::Snapshot("/s/2/fs".into())];
        assert_eq!(sources.expect("read"), expected);
    }

    #[test]
    fn an_upper_directory_with_contents_is_the_topmost_layer() {
        let upper = tempfile::tempdir().expect("a directory");
        fs::write(upper.path().join("file"), "x").expect("written");
        let option = format!("upperdir={}", upper.path().display());
        let sources = read(&[mount("overlay", "overlay", &["lowerdir=/s/1/fs", &option])]).expect("read");
        assert_eq!(sources.last(), Some(&Source::Upper(upper.path().to_owned())));
    }

    #[test]
    fn an_empty_upper_directory_is_no_layer() {
        let upper = tempfile::tempdir().expect("a directory");
        let option = format!("upperdir={}", upper.path().display());
        let sources = read(&[mount("overlay", "overlay", &["lowerdir=/s/1/fs", &option])]).expect("read");
        assert_eq!(sources, vec![Source::Snapshot("/s/1/fs".into())]);
    }

    #[test]
    fn a_colon_after_a_backslash_belongs_to_the_name() {
        let sources = read(&[mount("overlay", "overlay", &[r"lowerdir=/s/a\:b:/s/1"])]).expect("read");
        assert_eq!(sources, vec![Source::Snapshot("/s/1".into()), Source::Snapshot("/s/a:b".into())]);
    }

    #[test]
    fn the_file_beside_an_erofs_snapshot_is_used_itself() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("fs");
        fs::create_dir(&dir).expect("made");
        fs::write(root.path().join("layer.erofs"), "x").expect("written");
        let sources = read(&[mount("overlay", "overlay", &[&format!("lowerdir={}", dir.display())])]);
        let path = root.path().join("layer.erofs");
        assert_eq!(sources.expect("read"), vec![Source::Image { path, fs_type: "erofs".to_owned() }]);
    }

    #[test]
    fn a_root_file_system_with_a_placeholder_among_its_layers_is_refused() {
        let root = tempfile::tempdir().expect("a directory");
        let (plain, encrypted) = (root.path().join("plain"), root.path().join("encrypted"));
        for (dir, name) in [(&plain, "bin".to_owned()), (&encrypted, format!("{PLACEHOLDER_PREFIX}00"))] {
            fs::create_dir(dir).expect("made");
            fs::write(dir.join(name), "").expect("written");
        }
        let options = |dirs: &[&Path]| {
            let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
            read(&[mount("overlay", "overlay", &[&format!("lowerdir={}", dirs.join(":"))])]).expect("read")
        };
        check_present(&options(&[&plain])).expect("it is all there");
        let refused = check_present(&options(&[&plain, &encrypted])).expect_err("refused");
        assert!(matches!(refused, LayerError::Encrypted { path } if path == encrypted));
    }

    #[test]
    fn no_mount_is_refused() {
        assert!(matches!(read(&[]), Err(LayerError::NoRootfs)));
    }

    #[test]
    fn data_only_layers_are_refused() {
        let found = read(&[mount("overlay", "overlay", &["lowerdir=/a::/b"])]);
        assert!(matches!(found, Err(LayerError::Unsupported { .. })));
    }

    #[test]
    fn rootless_layers_are_refused() {
        let found = read(&[mount("overlay", "overlay", &["lowerdir=/a", "userxattr"])]);
        assert!(matches!(found, Err(LayerError::Unsupported { .. })));
    }

    #[test]
    fn an_unknown_mount_type_is_refused_by_name() {
        let found = read(&[mount("format/overlay", "overlay", &[])]).expect_err("refused").to_string();
        assert!(found.contains("format/overlay"), "{found}");
    }

    #[test]
    fn a_disk_that_is_missing_is_reported_by_path() {
        let found = read(&[mount("ext4", "/nonexistent/disk", &[])]);
        assert!(matches!(found, Err(LayerError::Source { .. })));
    }
}
