//! Reading a log as somebody who trusts nobody: every line is recomputed, and every damaged one is named.

use sha2::{Digest, Sha256};

use super::checkpoint::Checkpoint;
use super::merkle::{Hash, leaf_hash, root};

/// The link before the first line.
const FIRST_LINK: Hash = [0; 32];

/// A log in which nothing is damaged. Only [`verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// Hash of each entry.
    pub leaves: Vec<Hash>,
    /// The last line's link.
    pub last_link: Hash,
}

/// A log that is read line by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    line: u64,
    offset: usize,
    last_link: Hash,
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
    let (mut chain, mut leaves) = (Chain::default(), Vec::new());
    for bytes in log.split_inclusive(|byte| *byte == b'\n') {
        match chain.follow(bytes) {
            Ok(leaf) => leaves.push(leaf),
            Err(damage) => {
                damages.push(damage);
                leaves.push(FIRST_LINK);
            }
        }
    }
    if damages.is_empty() {
        damages.extend(checkpoint.and_then(|checkpoint| compare(&leaves, checkpoint)));
    }
    if damages.is_empty() { Ok(Whole { leaves, last_link: chain.last_link }) } else { Err(damages) }
}

impl Default for Chain {
    fn default() -> Self {
        Self { line: 0, offset: 0, last_link: FIRST_LINK }
    }
}

impl Chain {
    /// Checks the next line, with its end, and answers the hash of its entry.
    ///
    /// # Errors
    /// What was changed. What follows is then held against the link that was written, so that one change is reported once.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<Hash, Damage> {
        let (line, from) = (self.line, self.offset);
        self.line += 1;
        self.offset += bytes.len();
        match check_line(bytes, line, &self.last_link) {
            Ok((leaf, link)) => {
                self.last_link = link;
                Ok(leaf)
            }
            Err((what, link)) => {
                self.last_link = link.unwrap_or(self.last_link);
                Err(Damage::Line { line, from, to: self.offset, what })
            }
        }
    }

    /// The link of the last line that was followed.
    pub fn last_link(&self) -> Hash {
        self.last_link
    }
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
pub fn link_after(before: &Hash, leaf: &Hash) -> Hash {
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
