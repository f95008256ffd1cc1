//! Pieces of a sparse file: where each goes, in GNU's own form and in the three of pax.

use std::io::Read;

use super::error::{ArchiveFault, Bound, UnpackError, within};
use super::header::{BLOCK, Header, number};
use super::limits::Limits;
use super::pax::{Sparse, decimal};
use super::stream::Stream;

/// Bytes of a file that are in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// A sparse file: its pieces in order, and how long it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Map {
    pub(super) pieces: Vec<Piece>,
    pub(super) size: u64,
    /// Bytes of the entry's data before the first piece's.
    pub(super) before: u64,
}

/// Bytes of one place in GNU's own form: two numbers of twelve characters.
const PLACE: usize = 24;

/// Reads the places behind a header of GNU's own form, whose entry has `stored` bytes.
pub(super) fn of_header<R: Read>(
    header: &Header,
    stored: u64,
    stream: &mut Stream<R>,
    limits: &Limits,
) -> Result<Map, UnpackError> {
    let position = stream.position();
    let at = |fault| UnpackError::Archive { position, fault };
    let (places, mut more, size) = header.sparse().map_err(at)?;
    let mut pieces = Vec::new();
    gather(places, &mut pieces).map_err(at)?;
    while more {
        let mut block = [0; BLOCK];
        if stream.read(&mut block)? < BLOCK {
            return Err(at(ArchiveFault::Truncated));
        }
        gather(block.get(..PLACE * 21).unwrap_or_default(), &mut pieces).map_err(at)?;
        more = block.get(PLACE * 21) != Some(&0);
        within(Bound::Pieces, limits.pieces, pieces.len() as u64)?;
    }
    checked(Map { pieces, size, before: 0 }, stored).map_err(at)
}

/// Makes the map that an extended header says, of an entry with `stored` bytes; in version 1.0 its data begin with it.
pub(super) fn of_extended<R: Read>(
    said: &Sparse,
    stored: u64,
    stream: &mut Stream<R>,
    limits: &Limits,
) -> Result<Map, UnpackError> {
    let position = stream.position();
    let at = |fault| UnpackError::Archive { position, fault };
    let size = said.size.ok_or(at(ArchiveFault::Sparse))?;
    let (places, before) = match (said.major, said.minor) {
        (Some(1), Some(0)) => in_data(stored, stream, limits)?,
        (None | Some(0), None | Some(0 | 1)) => (said.places.clone(), 0),
        _ => return Err(at(ArchiveFault::Sparse)),
    };
    within(Bound::Pieces, limits.pieces, places.len() as u64 / 2)?;
    let (pairs, rest) = places.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(at(ArchiveFault::Sparse));
    }
    let pieces = pairs.iter().map(|[offset, length]| Piece { offset: *offset, length: *length }).collect();
    checked(Map { pieces, size, before }, stored).map_err(at)
}

/// Reads numbers of lines: how many pairs, then the pairs, then zeroes up to a whole block.
fn in_data<R: Read>(
    stored: u64,
    stream: &mut Stream<R>,
    limits: &Limits,
) -> Result<(Vec<u64>, u64), UnpackError> {
    let position = stream.position();
    let at = |fault| UnpackError::Archive { position, fault };
    let mut numbers: Vec<u64> = Vec::new();
    let mut wanted = None;
    let mut line = Vec::new();
    let mut before = 0;
    while wanted != Some(numbers.len()) {
        let mut block = [0; BLOCK];
        before += BLOCK as u64;
        if before > stored || stream.read(&mut block)? < BLOCK {
            return Err(at(ArchiveFault::Sparse));
        }
        for byte in block {
            if wanted == Some(numbers.len()) {
                break;
            }
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            let number = decimal(&line, "a piece's place").map_err(at)?;
            line.clear();
            if wanted.is_some() {
                numbers.push(number);
            } else {
                within(Bound::Pieces, limits.pieces, number)?;
                wanted = usize::try_from(number).ok().and_then(|pairs| pairs.checked_mul(2));
            }
        }
        if line.len() > 20 {
            return Err(at(ArchiveFault::Sparse));
        }
    }
    Ok((numbers, before))
}

fn gather(places: &[u8], pieces: &mut Vec<Piece>) -> Result<(), ArchiveFault> {
    let field = |part: &[u8]| number(part).and_then(|number| u64::try_from(number).ok());
    for place in places.chunks_exact(PLACE) {
        let (offset, length) = place.split_at(PLACE / 2);
        if place.first() == Some(&0) || length.first() == Some(&0) {
            break;
        }
        match (field(offset), field(length)) {
            (Some(offset), Some(length)) => pieces.push(Piece { offset, length }),
            _ => return Err(ArchiveFault::Number { field: "a piece's place" }),
        }
    }
    Ok(())
}

/// Pieces are in order, do not overlap, lie in the file, and are all that the entry stores.
fn checked(map: Map, stored: u64) -> Result<Map, ArchiveFault> {
    let mut end = 0;
    let mut sum = map.before;
    for piece in &map.pieces {
        let next = piece.offset.checked_add(piece.length).filter(|next| *next <= map.size);
        end = next.filter(|_| piece.offset >= end).ok_or(ArchiveFault::Sparse)?;
        sum = sum.checked_add(piece.length).ok_or(ArchiveFault::Sparse)?;
    }
    if sum == stored { Ok(map) } else { Err(ArchiveFault::Sparse) }
}
