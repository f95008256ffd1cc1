//! The digest of a file too large for memory.

use std::io::{self, Read};

use coffer_protocol::Digest;
use sha2::{Digest as _, Sha256};

/// Bytes hashed between two reads.
const CHUNK: usize = 1 << 20;

/// The digest of everything that `reader` still gives.
pub(super) fn of_reader(mut reader: impl Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(Digest::from_bytes(hasher.finalize().into())),
            Ok(count) => hasher.update(chunk.get(..count).unwrap_or_default()),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_has_the_digest_of_its_bytes() {
        let bytes = vec![7; CHUNK + 1];
        assert_eq!(of_reader(bytes.as_slice()).expect("reads"), Digest::of(&bytes));
    }
}
