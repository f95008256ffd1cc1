//! Frames of zstd one after the other, among them those that are to be skipped.

use std::io::{self, BufRead, ErrorKind, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

pub(super) struct Frames<S> {
    source: S,
    decoder: FrameDecoder,
    /// Whether the decoder is inside a frame.
    inside: bool,
    wide: Option<u64>,
}

impl<S: BufRead> Frames<S> {
    /// Reads frames of `source` whose windows have `window` bytes at most.
    pub(super) fn new(source: S, window: u64) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(window);
        Self { source, decoder, inside: false, wide: None }
    }

    pub(super) fn source(&self) -> &S {
        &self.source
    }

    pub(super) fn into_source(self) -> S {
        self.source
    }

    /// The window that a frame asked for, if it was too large.
    pub(super) fn wide(&self) -> Option<u64> {
        self.wide
    }

    /// Enters the next frame. `false` at the end of the source.
    fn enter(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.inside = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    self.skip(length.into())?;
                }
                Err(error) => {
                    if let FrameDecoderError::WindowSizeTooBig { requested, .. } = error {
                        self.wide = Some(requested);
                    }
                    return Err(io::Error::new(ErrorKind::InvalidData, error));
                }
            }
        }
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
        if skipped == length { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}

impl<S: BufRead> Read for Frames<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.inside && !self.enter()? {
                return Ok(0);
            }
            // A block has 128 KiB at most, so that this is all that is held beyond the window.
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let block =
                    self.decoder.decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1));
                block.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            self.inside = !self.decoder.is_finished();
        }
    }
}
