//! What a node without keys unpacks in an encrypted layer's place.

use coffer_protocol::Digest;

const BLOCK: usize = 512;

/// What a placeholder's one file is called, before the 64 digits of the encrypted blob's digest.
pub const PLACEHOLDER_PREFIX: &str = ".coffer-encrypted-sha256-";

/// An archive with one empty file, which is named after the encrypted blob's digest, and the two blocks of zeroes that end an
/// archive.
///
/// It differs from layer to layer, because containerd knows unpacked layers by their diff ids: of two layers with one placeholder
/// it would never fetch the second.
pub fn placeholder(blob: &Digest) -> [u8; 3 * BLOCK] {
    let mut archive = [0; 3 * BLOCK];
    let name = format!("{PLACEHOLDER_PREFIX}{}", blob.hex());
    let fields: [(usize, &[u8]); 9] = [
        (0, name.as_bytes()),
        (100, b"0000444"),
        (108, b"0000000"),
        (116, b"0000000"),
        (124, b"00000000000"),
        (136, b"00000000000"),
        (148, b"        "),
        (156, b"0"),
        (257, b"ustar\x0000"),
    ];
    for (place, field) in fields {
        if let Some(room) = archive.get_mut(place..place + field.len()) {
            room.copy_from_slice(field);
        }
    }
    let sum: u32 = archive.iter().map(|byte| u32::from(*byte)).sum();
    if let Some(room) = archive.get_mut(148..156) {
        room.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::{Content, Expected, Limits, unpack};
    use std::os::fd::AsFd;

    #[test]
    fn it_is_an_archive_with_an_empty_file_of_the_layers_own_name() {
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let archive = placeholder(&one);
        assert_ne!(archive, placeholder(&other));
        let place = tempfile::tempdir().unwrap();
        let expected = Expected {
            content: Content::Archive(Digest::of(&archive)),
            size: archive.len() as u64,
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
        };
        let target = std::fs::File::open(place.path()).unwrap();
        unpack(archive.as_slice(), &expected, target.as_fd(), &Limits::default()).unwrap();
        let files: Vec<_> = std::fs::read_dir(place.path()).unwrap().flatten().collect();
        let [file] = files.as_slice() else { panic!("{files:?}") };
        assert_eq!(file.file_name().to_str().unwrap(), format!(".coffer-encrypted-sha256-{}", one.hex()));
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
