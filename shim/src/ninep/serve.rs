//! Reads frames from the stream and writes replies, until the stream ends or the guest breaks the framing.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use super::session::{MAX_MSIZE, Session, parse_header};
use super::wire::{HEADER, Writer};

/// Why serving ended before the stream did.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    /// The stream.
    #[error("the stream failed")]
    Stream {
        /// The system's answer.
        source: io::Error,
    },
    /// Where the next message would begin cannot be known any more.
    #[error("the guest sent a frame of {size} bytes, the limits are {HEADER} and {limit}")]
    Frame {
        /// What the frame's header says.
        size: u32,
        /// What was agreed.
        limit: u32,
    },
}

/// Serves until the stream ends.
pub(super) fn serve(mut session: Session, mut stream: UnixStream) -> Result<(), ServeError> {
    let mut writer = Writer::new(usize::try_from(session.msize()).unwrap_or_default());
    let mut body = Vec::new();
    let failed = |source| ServeError::Stream { source };
    while let Some(header) = read_header(&mut stream).map_err(failed)? {
        let (size, message, tag) = parse_header(header);
        let limit = session.msize().min(MAX_MSIZE);
        let length = usize::try_from(size).ok().and_then(|size| size.checked_sub(HEADER));
        let Some(length) = length.filter(|_| size <= limit) else {
            return Err(ServeError::Frame { size, limit });
        };
        body.resize(length, 0);
        stream.read_exact(&mut body).map_err(failed)?;
        session.answer(message, tag, &body, &mut writer);
        stream.write_all(writer.finish()).map_err(failed)?;
    }
    Ok(())
}

/// `None` at the end of the stream between two frames.
fn read_header(stream: &mut UnixStream) -> io::Result<Option<[u8; HEADER]>> {
    let mut header = [0; HEADER];
    let mut filled = 0;
    while let Some(rest) = header.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(header))
}
