//! What a guest unpacks: layers, of which it knows a digest only after it has written them.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use coffer_layer::erofs::Superblock;
use coffer_layer::sealed::Sealed;
use coffer_layer::unpack::{Expected, Limits, unpack};
use coffer_protocol::Digest;

const BLOCK: usize = 512;

/// The first byte says the compression; with 3 the archive's checksums are made right, which no fuzzer would guess.
pub(crate) fn layer(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    let suffix = match kind % 4 {
        1 => "+gzip",
        2 => "+zstd",
        _ => "",
    };
    let mut blob = bytes.to_vec();
    if kind % 4 == 3 {
        blob.chunks_exact_mut(BLOCK).for_each(sum);
    }
    let expected = Expected {
        digest: Digest::of(&blob),
        size: blob.len() as u64,
        diff_id: Digest::of(&blob),
        media_type: format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
    };
    let limits = Limits { bytes: 4 << 20, entries: 64, ..Limits::default() };
    // Memory is quicker than a disk.
    let place = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let (target, outside) = (place.path().join("target"), place.path().join("outside"));
    fs::create_dir(&target).expect("a directory");
    fs::write(&outside, b"outside").expect("a file");
    let result = unpack(blob.as_slice(), &expected, File::open(&target).expect("it").as_fd(), &limits);
    if let Ok(unpacked) = result {
        assert!(unpacked.bytes <= limits.bytes && unpacked.entries <= limits.entries, "more than allowed");
    }
    assert_eq!(fs::read_dir(place.path()).expect("it").count(), 2, "something was made outside");
    assert_eq!(fs::read(&outside).expect("it"), b"outside", "something outside was written");
    assert_eq!(fs::metadata(&outside).expect("it").nlink(), 1, "something outside was linked");
}

/// The first byte says whether the magic is made right.
pub(crate) fn erofs(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    let mut disk = vec![0; 1024];
    disk.extend_from_slice(bytes);
    if kind % 4 != 0 && disk.len() >= 1028 {
        disk[1024..1028].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
    }
    let length = disk.len() as u64;
    if let Ok(believed) = Superblock::read(std::io::Cursor::new(disk)) {
        assert!(believed.bytes <= length, "a file system that is longer than its disk");
    }
}

pub(crate) fn sealed(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(sealed) = Sealed::parse(text) else { return };
    let again = Sealed::parse(&sealed.to_string()).expect("what it wrote itself");
    assert_eq!(again, sealed, "an annotation that changes when it is written");
}

/// A header's checksum, of its other bytes.
fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
