//! Archives made byte by byte, so that they can be wrong, and what becomes of them.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use coffer_layer::unpack::{
    ArchiveFault, Bound, Content, EntryFault, Expected, Limits, UnpackError, Unpacked, unpack,
};
use coffer_protocol::Digest;
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

pub(crate) const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// An archive that grows.
#[derive(Default, Clone)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

/// A header whose checksum is made when it is added.
#[derive(Clone)]
pub(crate) struct Head(pub(crate) [u8; 512]);

impl Head {
    pub(crate) fn new(flag: u8, name: impl AsRef<[u8]>) -> Self {
        let mut head = Self([0; 512]).put(0, name.as_ref()).put(257, b"ustar\x0000").put(156, &[flag]);
        head.octal(100, 8, 0o644).octal(108, 8, 0).octal(116, 8, 0).octal(136, 12, 1000);
        head
    }

    pub(crate) fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn octal(&mut self, at: usize, width: usize, number: u64) -> &mut Self {
        let text = format!("{number:00$o}\0", width - 1);
        self.0[at..at + width].copy_from_slice(text.as_bytes());
        self
    }

    pub(crate) fn mode(mut self, mode: u64) -> Self {
        self.octal(100, 8, mode);
        self
    }

    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.octal(108, 8, uid).octal(116, 8, gid);
        self
    }

    pub(crate) fn link(self, target: impl AsRef<[u8]>) -> Self {
        self.put(157, target.as_ref())
    }

    pub(crate) fn device(mut self, major: u64, minor: u64) -> Self {
        self.octal(329, 8, major).octal(337, 8, minor);
        self
    }
}

impl Tar {
    pub(crate) fn add(self, mut head: Head, data: &[u8]) -> Self {
        head.octal(124, 12, data.len() as u64);
        self.header(head).data(data)
    }

    /// Adds a header as it is, with its checksum.
    pub(crate) fn header(mut self, head: Head) -> Self {
        let mut head = head.put(148, b"        ");
        let sum: u64 = head.0.iter().map(|byte| u64::from(*byte)).sum();
        head.octal(148, 7, sum);
        self.0.extend_from_slice(&head.0);
        self
    }

    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.add(Head::new(b'0', name), data)
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.add(Head::new(b'5', name).mode(0o755), b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.add(Head::new(b'2', name).link(target), b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.add(Head::new(b'1', name).link(target), b"")
    }

    /// Records that extend the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| record(key.as_bytes(), value)).collect();
        self.add(Head::new(b'x', "pax"), &data)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..).find(|length| length.to_string().len() + rest == *length).unwrap();
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// A target beside a file that must never change.
pub(crate) struct Place {
    outer: TempDir,
}

const SECRET: &str = "outside";

impl Place {
    pub(crate) fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir(outer.path().join("target")).unwrap();
        fs::write(outer.path().join(SECRET), SECRET).unwrap();
        Self { outer }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.outer.path().join("target").join(name)
    }

    /// Unpacks, and sees that nothing outside the target changed.
    pub(crate) fn unpack(
        &self,
        blob: &[u8],
        expected: &Expected,
        limits: &Limits,
    ) -> Result<Unpacked, UnpackError> {
        let target = File::open(self.path("")).unwrap();
        let result = unpack(blob, expected, target.as_fd(), limits);
        self.untouched();
        result
    }

    pub(crate) fn untouched(&self) {
        let mut names: Vec<_> =
            fs::read_dir(self.outer.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [SECRET, "target"], "something was made outside");
        let secret = self.outer.path().join(SECRET);
        let found = fs::metadata(&secret).unwrap();
        assert_eq!((found.nlink(), found.mode() & 0o7777), (1, 0o644), "a file outside was changed");
        assert_eq!(fs::read(&secret).unwrap(), SECRET.as_bytes());
    }

    pub(crate) fn read(&self, name: &str) -> String {
        String::from_utf8(fs::read(self.path(name)).unwrap()).unwrap()
    }

    pub(crate) fn stat(&self, name: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path(name)).unwrap()
    }

    pub(crate) fn xattr(&self, name: &str, key: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 1 << 16];
        let count = rustix::fs::lgetxattr(self.path(name), key, value.as_mut_slice()).ok()?;
        value.truncate(count);
        Some(value)
    }
}

/// What is said of `blob`, which holds `archive`.
pub(crate) fn expected(blob: &[u8], archive: &[u8], media_type: &str) -> Expected {
    Expected {
        content: Content::Both { digest: Digest::of(blob), diff_id: Digest::of(archive) },
        size: blob.len() as u64,
        media_type: media_type.to_owned(),
    }
}

pub(crate) fn unpacked(archive: &[u8]) -> (Place, Result<Unpacked, UnpackError>) {
    within(archive, &Limits::default())
}

pub(crate) fn within(archive: &[u8], limits: &Limits) -> (Place, Result<Unpacked, UnpackError>) {
    let place = Place::new();
    let result = place.unpack(archive, &expected(archive, archive, PLAIN), limits);
    (place, result)
}

/// Unpacks what must be good.
pub(crate) fn good(archive: Tar) -> Place {
    let (place, result) = unpacked(&archive.end());
    result.unwrap();
    place
}

/// Why an entry of `archive` is refused.
pub(crate) fn entry_fault(archive: Tar) -> EntryFault {
    match unpacked(&archive.end()).1 {
        Err(UnpackError::Entry { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

/// What is wrong with `archive`.
pub(crate) fn archive_fault(archive: &[u8]) -> ArchiveFault {
    match unpacked(archive).1 {
        Err(UnpackError::Archive { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

/// Of what there is too much, how much is allowed, and how much was found.
pub(crate) fn too_much(result: Result<Unpacked, UnpackError>) -> (Bound, u64, u64) {
    match result {
        Err(UnpackError::TooMuch { bound, most, found }) => (bound, most, found),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Whether the tests may make devices and set owners; they say by name that they are skipped.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// Every path below `root`, with what it is.
pub(crate) fn listing(root: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let found = entry.metadata().unwrap();
            all.push(format!(
                "{:?} {:o} {}:{} {}.{} {} {}",
                entry.path().strip_prefix(root).unwrap(),
                found.mode(),
                found.uid(),
                found.gid(),
                found.mtime(),
                found.mtime_nsec(),
                if found.is_dir() { 0 } else { found.size() },
                found.rdev(),
            ));
            if found.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    all.sort();
    all
}
