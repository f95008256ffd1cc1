//! The two times that a guest sees an encrypted blob.

use std::io::{self, Cursor, ErrorKind, Read};

use aes::Aes256;
use coffer_protocol::Digest;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};

use super::error::PassError;
use super::key::LayerKey;
use super::{CHUNK, MAX_BYTES};

/// A blob that can be had again from its beginning.
pub trait Source: Read {
    /// What is read next is the blob's first byte again. Called at its end, and once.
    ///
    /// # Errors
    /// Of whoever has the blob.
    fn once_more(&mut self) -> io::Result<()>;
}

impl<T: AsRef<[u8]>> Source for Cursor<T> {
    fn once_more(&mut self) -> io::Result<()> {
        self.set_position(0);
        Ok(())
    }
}

impl<S: Source + ?Sized> Source for &mut S {
    fn once_more(&mut self) -> io::Result<()> {
        (**self).once_more()
    }
}

/// A blob that was seen whole and is what its key was used for. Nothing of it is kept but, for each MiB, the hash of all bytes up to
/// its end.
pub struct Authenticated {
    key: LayerKey,
    size: u64,
    hashes: Vec<[u8; 32]>,
}

/// The plaintext of a blob that comes for the second time.
pub struct Plain<R> {
    source: R,
    blob: Authenticated,
    cipher: Ctr128BE<Aes256>,
    /// Of what came so far.
    digest: Sha256,
    /// The MiB that is being read, and how many there were.
    chunk: Vec<u8>,
    taken: usize,
    chunks: u64,
    left: u64,
    ended: Option<Ended>,
}

/// Why nothing more is read: also the next time.
#[derive(Clone, Copy)]
enum Ended {
    Changed,
    Failed(ErrorKind),
}

impl LayerKey {
    /// Reads `size` bytes, and no more, and holds them against the manifest's digest and the HMAC.
    ///
    /// # Errors
    /// [`PassError`]
    pub fn authenticate(
        self,
        blob: &mut impl Read,
        size: u64,
        expected: &Digest,
    ) -> Result<Authenticated, PassError> {
        if size > MAX_BYTES {
            return Err(PassError::Long { found: size });
        }
        let mut mac = mac(&self).ok_or(PassError::Hmac)?;
        let (mut digest, mut hashes, mut read) = (Sha256::new(), Vec::new(), 0);
        let mut chunk = Vec::new();
        while read < size {
            fill(blob, &mut chunk, size - read).map_err(|source| PassError::Read { read, source })?;
            digest.update(&chunk);
            mac.update(&chunk);
            hashes.push(so_far(&digest));
            read += chunk.len() as u64;
        }
        let found = Digest::from_bytes(digest.finalize().into());
        if found != *expected {
            return Err(PassError::Digest { expected: *expected, found });
        }
        mac.verify_slice(&self.hmac).map_err(|_| PassError::Hmac)?;
        Ok(Authenticated { key: self, size, hashes })
    }
}

impl Authenticated {
    /// What is in the blob, which `source` gives once more.
    pub fn decrypt<R: Read>(self, source: R) -> Plain<R> {
        let cipher = cipher(&self.key);
        let left = self.size;
        let (digest, chunk) = (Sha256::new(), Vec::new());
        Plain { source, blob: self, cipher, digest, chunk, taken: 0, chunks: 0, left, ended: None }
    }

    /// Of what is in the blob, if whoever encrypted it said so.
    pub fn digest(&self) -> Option<&Digest> {
        self.key.digest()
    }
}

impl<R> Plain<R> {
    /// Why nothing more is read, if other bytes came than the first time.
    pub fn changed(&self) -> Option<PassError> {
        matches!(self.ended, Some(Ended::Changed)).then_some(PassError::Changed { chunk: self.chunks })
    }
}

impl<R: Read> Plain<R> {
    fn next(&mut self) -> io::Result<()> {
        if let Err(error) = fill(&mut self.source, &mut self.chunk, self.left) {
            self.ended = Some(Ended::Failed(error.kind()));
            return Err(error);
        }
        self.digest.update(&self.chunk);
        let hash = so_far(&self.digest);
        let index = usize::try_from(self.chunks).unwrap_or(usize::MAX);
        if self.blob.hashes.get(index) != Some(&hash) {
            self.ended = Some(Ended::Changed);
            self.chunk.clear();
            return Err(changed(self.chunks));
        }
        self.cipher.apply_keystream(&mut self.chunk);
        self.chunks += 1;
        self.left = self.left.saturating_sub(self.chunk.len() as u64);
        Ok(())
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.ended {
            Some(Ended::Changed) => return Err(changed(self.chunks)),
            Some(Ended::Failed(kind)) => return Err(kind.into()),
            None => {}
        }
        if self.taken == self.chunk.len() {
            if self.left == 0 {
                return Ok(0);
            }
            self.taken = 0;
            self.next()?;
        }
        let rest = self.chunk.get(self.taken..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        let (Some(from), Some(to)) = (rest.get(..count), buffer.get_mut(..count)) else { return Ok(0) };
        to.copy_from_slice(from);
        self.taken += count;
        Ok(count)
    }
}

fn so_far(digest: &Sha256) -> [u8; 32] {
    digest.clone().finalize().into()
}

fn changed(chunk: u64) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, PassError::Changed { chunk })
}

/// Reads the next MiB of a blob of which `left` bytes are missing, whole or nothing of it.
fn fill(source: &mut impl Read, chunk: &mut Vec<u8>, left: u64) -> io::Result<()> {
    chunk.clear();
    let wanted = left.min(CHUNK);
    let read = source.take(wanted).read_to_end(chunk);
    let whole = read.and_then(|_| match chunk.len() as u64 {
        found if found < wanted => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    });
    if whole.is_err() {
        chunk.clear();
    }
    whole
}

pub(super) fn cipher(key: &LayerKey) -> Ctr128BE<Aes256> {
    Ctr128BE::<Aes256>::new(&(*key.key).into(), &key.nonce.into())
}

/// `None` never comes: it takes keys of any length.
pub(super) fn mac(key: &LayerKey) -> Option<Hmac<Sha256>> {
    Hmac::<Sha256>::new_from_slice(&*key.key).ok()
}
