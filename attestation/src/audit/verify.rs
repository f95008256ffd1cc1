//! Reading a log as somebody who trusts nobody: every line is recomputed, and every damaged one is named.

use sha2::{Digest, Sha256};

use super::checkpoint::Checkpoint;
use super::merkle::{Hash, leaf_hash, root};

/// The link before the first line.
pub(super) const FIRST_LINK: Hash = [0; 32];

/// A log in which nothing is damaged. Only [`verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// Hash of each entry.
    pub leaves: Vec<Hash>,
    /// The last line's link.
    pub last_link: Hash,
}

/// What is wrong with a log. Lines are counted from 0, bytes from the beginning of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A line whose number, link or entry was changed.
    #[error("line {line}, bytes {from} to {to}, was changed: {what}")]
    Line {
        /// The line.
        line: u64,
        /// Offset of its first byte.
        from: usize,
        /// Offset behind its last byte.
        to: usize,
        /// Which part of it.
        what: &'static str,
    },
    /// Lines at the end are missing.
    #[error("the log has {found} entries, the checkpoint speaks of {expected}")]
    Missing {
        /// Entries found.
        found: u64,
        /// Entries that there must be.
        expected: u64,
    },
    /// All was written anew.
    #[error("the first {size} entries are not those of the checkpoint")]
    Rewritten {
        /// Entries that the checkpoint covers.
        size: u64,
    },
}

/// Checks a whole log, and that it begins with what `checkpoint` speaks of.
///
/// # Errors
/// Every place that is damaged.
pub fn verify(log: &[u8], checkpoint: Option<&Checkpoint>) -> Result<Whole, Vec<Damage>> {
    let mut damages = Vec::new();
    let mut whole = Whole { leaves: Vec::new(), last_link: FIRST_LINK };
    let (mut offset, mut line) = (0, 0);
    for bytes in log.split_inclusive(|byte| *byte == b'\n') {
        let to = offset + bytes.len();
        match check_line(bytes, line, &whole.last_link) {
            Ok((leaf, link)) => {
                whole.leaves.push(leaf);
                whole.last_link = link;
            }
            Err((what, link)) => {
                damages.push(Damage::Line { line, from: offset, to, what });
                // What follows hangs on the link that was written, so that one change is reported once.
                whole.last_link = link.unwrap_or(whole.last_link);
                whole.leaves.push(FIRST_LINK);
            }
        }
        offset = to;
        line += 1;
    }
    if damages.is_empty() {
        damages.extend(checkpoint.and_then(|checkpoint| compare(&whole.leaves, checkpoint)));
    }
    if damages.is_empty() { Ok(whole) } else { Err(damages) }
}

fn compare(leaves: &[Hash], checkpoint: &Checkpoint) -> Option<Damage> {
    let covered = usize::try_from(checkpoint.size).ok().and_then(|size| leaves.get(..size));
    match covered {
        None => Some(Damage::Missing { found: leaves.len() as u64, expected: checkpoint.size }),
        Some(covered) if root(covered) != checkpoint.root => {
            Some(Damage::Rewritten { size: checkpoint.size })
        }
        Some(_) => None,
    }
}

/// The link of the line behind `before`.
pub(super) fn link_after(before: &Hash, leaf: &Hash) -> Hash {
    Sha256::new().chain_update([2]).chain_update(before).chain_update(leaf).finalize().into()
}

type Broken = (&'static str, Option<Hash>);

fn check_line(bytes: &[u8], line: u64, before: &Hash) -> Result<(Hash, Hash), Broken> {
    let whole = bytes.strip_suffix(b"\n").ok_or(("it does not end", None))?;
    let mut parts = whole.splitn(3, |byte| *byte == b' ');
    let (Some(number), Some(link), Some(entry)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(("it has not three parts", None));
    };
    // Compared as text: a digit in another case is a change too.
    let leaf = leaf_hash(entry);
    let computed = link_after(before, &leaf);
    let written = hex::decode(link).ok().and_then(|link| link.try_into().ok());
    if hex::encode(computed).as_bytes() != link {
        return Err(("its link is not that of its entry and of the line before", written));
    }
    if line.to_string().as_bytes() != number {
        return Err(("its number is not that of its place", written));
    }
    Ok((leaf, computed))
}
