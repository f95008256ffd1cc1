//! A layer's bytes as they come: hashed, and never more than one beyond what the manifest says.

use std::io::{self, ErrorKind, Read};

use coffer_protocol::Digest;
use sha2::{Digest as _, Sha256};

use super::error::UnpackError;

/// Bytes read at once when nobody wants them.
const CHUNK: usize = 64 << 10;

pub(super) struct Blob<R> {
    source: R,
    hasher: Sha256,
    read: u64,
    size: u64,
    failed: bool,
}

impl<R: Read> Blob<R> {
    /// The blob of `size` bytes that `source` should give.
    pub(super) fn new(source: R, size: u64) -> Self {
        Self { source, hasher: Sha256::new(), read: 0, size, failed: false }
    }

    /// Bytes that came until now.
    pub(super) fn bytes(&self) -> u64 {
        self.read
    }

    /// Whether its source failed, so that a decoder's error is the source's.
    pub(super) fn failed(&self) -> bool {
        self.failed
    }

    /// Reads what is left, holds the length against the manifest's, and returns the digest.
    pub(super) fn finish(mut self) -> Result<Digest, UnpackError> {
        let mut chunk = vec![0; CHUNK];
        loop {
            match self.read(&mut chunk) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(UnpackError::Read { read: self.read, source }),
            }
        }
        if self.read != self.size {
            return Err(UnpackError::Size { expected: self.size, found: self.read });
        }
        Ok(Digest::from_bytes(self.hasher.finalize().into()))
    }
}

impl<R: Read> Read for Blob<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size.saturating_add(1).saturating_sub(self.read);
        let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let room = buffer.get_mut(..most).unwrap_or_default();
        if room.is_empty() {
            return Ok(0);
        }
        let found = self.source.read(room);
        self.failed = found.as_ref().is_err_and(|error| error.kind() != ErrorKind::Interrupted);
        let count = found?;
        self.hasher.update(room.get(..count).unwrap_or_default());
        self.read += count as u64;
        Ok(count)
    }
}
