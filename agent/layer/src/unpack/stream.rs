//! An archive's bytes: hashed and counted as they are decompressed, lent in large pieces.

use std::io::{ErrorKind, Read};

use coffer_protocol::Digest;
use sha2::{Digest as _, Sha256};

use super::Unpacked;
use super::blob::Blob;
use super::compression::{Compression, Decoder};
use super::error::{ArchiveFault, Bound, UnpackError, within};
use super::limits::Limits;

/// Bytes decompressed before they are hashed and written: large enough for few calls, small enough for a processor's cache.
const CHUNK: usize = 256 << 10;

pub(super) struct Stream<R: Read> {
    decoder: Decoder<R>,
    compression: Compression,
    buffer: Vec<u8>,
    /// What is filled and not yet taken of the buffer.
    from: usize,
    to: usize,
    hasher: Sha256,
    /// Bytes decompressed.
    bytes: u64,
    limits: Limits,
}

impl<R: Read> Stream<R> {
    pub(super) fn new(blob: Blob<R>, compression: Compression, limits: &Limits) -> Self {
        Self {
            decoder: Decoder::new(compression, blob, limits.window_bytes),
            compression,
            buffer: vec![0; CHUNK],
            from: 0,
            to: 0,
            hasher: Sha256::new(),
            bytes: 0,
            limits: limits.clone(),
        }
    }

    /// Where in the archive the next byte is.
    pub(super) fn position(&self) -> u64 {
        self.bytes.saturating_sub((self.to - self.from) as u64)
    }

    /// The next bytes, at least one unless the archive is over.
    pub(super) fn peek(&mut self) -> Result<&[u8], UnpackError> {
        if self.from == self.to {
            self.fill()?;
        }
        Ok(self.buffer.get(self.from..self.to).unwrap_or_default())
    }

    /// Takes `count` of the bytes that were lent.
    pub(super) fn take(&mut self, count: usize) {
        self.from = self.from.saturating_add(count).min(self.to);
    }

    /// Fills `into` and says by how much: less only where the archive is over.
    pub(super) fn read(&mut self, into: &mut [u8]) -> Result<usize, UnpackError> {
        let mut done = 0;
        while let Some(room) = into.get_mut(done..).filter(|room| !room.is_empty()) {
            let lent = self.peek()?;
            let count = lent.len().min(room.len());
            if count == 0 {
                break;
            }
            if let (Some(room), Some(lent)) = (room.get_mut(..count), lent.get(..count)) {
                room.copy_from_slice(lent);
            }
            self.take(count);
            done += count;
        }
        Ok(done)
    }

    /// Passes over `count` bytes.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<(), UnpackError> {
        while count > 0 {
            let lent = self.peek()?.len() as u64;
            if lent == 0 {
                return Err(UnpackError::Archive {
                    position: self.position(),
                    fault: ArchiveFault::Truncated,
                });
            }
            let step = lent.min(count);
            self.take(usize::try_from(step).unwrap_or(usize::MAX));
            count -= step;
        }
        Ok(())
    }

    /// Reads the archive to its end, where nothing but zeroes may follow.
    pub(super) fn padding(&mut self) -> Result<(), UnpackError> {
        loop {
            let position = self.position();
            let lent = self.peek()?;
            if lent.iter().any(|byte| *byte != 0) {
                return Err(UnpackError::Archive { position, fault: ArchiveFault::Trailing });
            }
            match lent.len() {
                0 => return Ok(()),
                count => self.take(count),
            }
        }
    }

    /// The digest of the archive, which is over, and the blob.
    pub(super) fn finish(self, entries: u64) -> (Option<Digest>, Blob<R>, Unpacked) {
        // An archive that is not compressed is its blob, which is hashed already.
        let packed = self.compression != Compression::Plain;
        let diff_id = packed.then(|| Digest::from_bytes(self.hasher.finalize().into()));
        (diff_id, self.decoder.into_blob(), Unpacked { bytes: self.bytes, entries })
    }

    /// The blob, when the rest of the archive does not matter any more.
    pub(super) fn into_blob(self) -> Blob<R> {
        self.decoder.into_blob()
    }

    fn fill(&mut self) -> Result<(), UnpackError> {
        let mut filled = 0;
        while let Some(room) = self.buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.decoder.read(room) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failure(error)),
            }
        }
        let fresh = self.buffer.get(..filled).unwrap_or_default();
        if self.compression != Compression::Plain {
            self.hasher.update(fresh);
        }
        (self.from, self.to) = (0, fresh.len());
        self.bytes = self.bytes.saturating_add(fresh.len() as u64);
        within(Bound::Bytes, self.limits.bytes, self.bytes)?;
        self.weigh()
    }

    fn weigh(&self) -> Result<(), UnpackError> {
        let packed = self.decoder.blob().bytes();
        let allowed = packed.saturating_mul(self.limits.ratio).saturating_add(self.limits.ratio_from);
        if self.bytes <= allowed {
            return Ok(());
        }
        let found = self.bytes / packed.max(1);
        Err(UnpackError::TooMuch { bound: Bound::Ratio, most: self.limits.ratio, found })
    }

    fn failure(&self, source: std::io::Error) -> UnpackError {
        if self.decoder.blob().failed() {
            return UnpackError::Read { read: self.decoder.blob().bytes(), source };
        }
        match self.decoder.wide() {
            Some(found) => {
                UnpackError::TooMuch { bound: Bound::WindowBytes, most: self.limits.window_bytes, found }
            }
            None => {
                UnpackError::Decompress { compression: self.compression.name(), bytes: self.bytes, source }
            }
        }
    }
}
