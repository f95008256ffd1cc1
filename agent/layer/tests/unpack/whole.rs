//! The bytes are those that were signed, all of them and no more.

use coffer_layer::unpack::UnpackError;
use coffer_protocol::Digest;

use crate::archives::{GZIP, PLAIN, Place, Tar, ZSTD, expected, gzip, zstd};

fn small() -> Vec<u8> {
    Tar::default().file("d/a", b"some text").hard_link("h", "d/a").end()
}

/// One of each compression, with its blob.
fn blobs(archive: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    [(PLAIN, archive.to_vec()), (GZIP, gzip(archive)), (ZSTD, zstd(archive))]
}

#[test]
fn bytes_and_entries_are_counted() {
    let archive = small();
    let counted = blobs(&archive).map(|(kind, blob)| {
        let unpacked =
            Place::new().unpack(&blob, &expected(&blob, &archive, kind), &Default::default()).unwrap();
        (unpacked.bytes, unpacked.entries)
    });
    assert_eq!(counted, [(archive.len() as u64, 2); 3]);
}

#[test]
fn a_blob_cut_at_any_place_is_refused_by_its_size() {
    let archive = small();
    let refused = blobs(&archive).map(|(kind, blob)| {
        let (said, place) = (expected(&blob, &archive, kind), Place::new());
        (0..blob.len()).all(|cut| {
            let result = place.unpack(&blob[..cut], &said, &Default::default());
            matches!(result, Err(UnpackError::Size { found, .. }) if found == cut as u64)
        })
    });
    assert_eq!(refused, [true; 3]);
}

#[test]
fn an_archive_cut_at_any_place_is_refused_although_its_digest_is_right() {
    let (archive, place) = (small(), Place::new());
    // Without the two blocks at its end an archive is whole, and so it is between two entries: nothing says how many there are.
    let whole: Vec<usize> = (0..archive.len())
        .filter(|cut| {
            let part = &archive[..*cut];
            place.unpack(part, &expected(part, part, PLAIN), &Default::default()).is_ok()
        })
        .collect();
    assert!(whole.iter().all(|cut| cut.is_multiple_of(512) || *cut > archive.len() - 1024), "{whole:?}");
    let compressed = gzip(&archive);
    let gzipped = (0..compressed.len()).filter(|cut| {
        let part = &compressed[..*cut];
        place.unpack(part, &expected(part, &archive, GZIP), &Default::default()).is_ok()
    });
    assert_eq!(gzipped.count(), 0);
}

#[test]
fn one_flipped_bit_at_any_place_is_refused_by_the_digest() {
    let archive = small();
    let refused = blobs(&archive).map(|(kind, blob)| {
        let (said, place) = (expected(&blob, &archive, kind), Place::new());
        (0..blob.len()).all(|at| {
            let mut blob = blob.clone();
            blob[at] ^= 1 << (at % 8);
            let result = place.unpack(&blob, &said, &Default::default());
            matches!(
                result,
                Err(UnpackError::Digest { .. } | UnpackError::TooMuch { .. } | UnpackError::Write { .. })
            )
        })
    });
    assert_eq!(refused, [true; 3]);
}

#[test]
fn a_byte_more_is_refused() {
    let archive = small();
    let refused = blobs(&archive).map(|(kind, mut blob)| {
        let said = expected(&blob, &archive, kind);
        blob.push(0);
        let result = Place::new().unpack(&blob, &said, &Default::default());
        matches!(result, Err(UnpackError::Size { found, expected }) if found == expected + 1)
    });
    assert_eq!(refused, [true; 3]);
}

#[test]
fn another_archive_than_the_configuration_says_is_refused() {
    let archive = small();
    let refused = blobs(&archive).map(|(kind, blob)| {
        let said = expected(&blob, b"another", kind);
        match Place::new().unpack(&blob, &said, &Default::default()) {
            Err(UnpackError::DiffId { expected, found }) => {
                expected == Digest::of(b"another") && found == Digest::of(&archive)
            }
            _ => false,
        }
    });
    assert_eq!(refused, [true; 3]);
}

#[test]
fn what_is_compressed_otherwise_than_said_is_refused() {
    let archive = small();
    let said = |kind| expected(&archive, &archive, kind);
    let refused = [GZIP, ZSTD].map(|kind| Place::new().unpack(&archive, &said(kind), &Default::default()));
    assert!(refused.iter().all(|result| matches!(result, Err(UnpackError::Decompress { .. }))));
    let blob = gzip(&archive);
    let refused = Place::new().unpack(&blob, &expected(&blob, &archive, PLAIN), &Default::default());
    assert!(matches!(refused, Err(UnpackError::Archive { .. })));
}

#[test]
fn an_encrypted_layer_is_refused_as_such() {
    let said = expected(b"", b"", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
    assert!(matches!(
        Place::new().unpack(b"", &said, &Default::default()),
        Err(UnpackError::Encrypted { .. })
    ));
}

#[test]
fn an_empty_archive_is_a_layer_without_files() {
    let archive = Tar::default().end();
    let unpacked = Place::new().unpack(&archive, &expected(&archive, &archive, PLAIN), &Default::default());
    assert_eq!(unpacked.unwrap().entries, 0);
}
