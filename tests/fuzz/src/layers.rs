//! What a guest unpacks: layers, of which it knows a digest only after it has written them.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use base64ct::{Base64, Encoding};
use coffer_layer::encrypted::{Envelope, Fresh, KEY_ANNOTATION, OPTIONS_ANNOTATION, encrypt};
use coffer_layer::erofs::Superblock;
use coffer_layer::sealed::Sealed;
use coffer_layer::unpack::{Content, Expected, Limits, unpack};
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
        content: Content::Both { digest: Digest::of(&blob), diff_id: Digest::of(&blob) },
        size: blob.len() as u64,
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

/// The first byte says what the rest is: both annotations as they are, or the JSON in them (either way with a zero between them),
/// or a blob that comes twice, of which the second time is whatever follows the first.
pub(crate) fn encrypted(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    if kind % 4 == 3 {
        return twice(bytes);
    }
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let mut part = || {
        let part = parts.next().unwrap_or_default();
        if kind % 4 == 0 { String::from_utf8_lossy(part).into_owned() } else { Base64::encode_string(part) }
    };
    let annotations = [(KEY_ANNOTATION, part()), (OPTIONS_ANNOTATION, part())];
    let annotations = annotations.map(|(name, text)| (name.to_owned(), text)).into();
    let Ok(envelope) = Envelope::parse(&annotations) else { return };
    let written = envelope.annotations().map(|(name, text)| (name.to_owned(), text)).into();
    assert_eq!(Envelope::parse(&written).expect("what it wrote itself"), envelope, "another envelope");
    assert!(envelope.open(&[7; 32]).is_err(), "a key that nobody wrapped");
}

/// Whatever comes the second time, only what is authentic is decrypted.
fn twice(bytes: &[u8]) {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let fresh = Fresh { key: [1; 32].into(), nonce: [2; 16], iv: [3; 12] };
    let mut blob = Vec::new();
    let encrypting = encrypt(&mut &*first, &mut blob, Digest::of(first), fresh).expect("memory");
    let envelope = encrypting.wrap("kbs:///a/b/c", &[7; 32]).expect("a key");
    let opened = envelope.open(&[7; 32]).expect("the key");
    let (size, digest) = (blob.len() as u64, Digest::of(&blob));
    let authentic = opened.authenticate(&mut blob.as_slice(), size, &digest).expect("what was encrypted");
    let mut plain = Vec::new();
    let read = authentic.decrypt(second).read_to_end(&mut plain);
    assert!(read.is_err() || plain == first, "other bytes than what was encrypted");
    assert!(first.starts_with(&plain), "bytes that are not authentic");
}

/// A header's checksum, of its other bytes.
fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
