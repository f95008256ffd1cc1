//! The audit log, read by somebody who has only its description: `number link entry` in each line, a link being
//! SHA-256(2, link before, leaf), a leaf SHA-256(0, entry), and a tree over the leaves (RFC 6962, section 2.1).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::initdata::hexadecimal;

type Hash = [u8; 32];

/// A log whose every line hangs together with the one before.
#[derive(Debug)]
pub struct AuditLog {
    entries: Vec<Value>,
    leaves: Vec<Hash>,
}

impl AuditLog {
    /// Reads a log, also one that is being written.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&fs::read(path)?)
    }

    /// Reads the whole lines of a log.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let (mut entries, mut leaves, mut link) = (Vec::new(), Vec::new(), [0; 32]);
        for (number, line) in std::str::from_utf8(bytes)?.split_inclusive('\n').enumerate() {
            let Some(line) = line.strip_suffix('\n') else { break };
            let mut parts = line.splitn(3, ' ');
            let (Some(place), Some(written), Some(entry)) = (parts.next(), parts.next(), parts.next()) else {
                bail!("line {number} has not three parts");
            };
            let leaf = hash(0, &[entry.as_bytes()]);
            link = hash(2, &[&link, &leaf]);
            ensure!(
                place == number.to_string() && written == hexadecimal(&link),
                "line {number} was changed"
            );
            let entry: Value = serde_json::from_str(entry).with_context(|| format!("line {number}"))?;
            entries.push(entry.get("what").cloned().unwrap_or_default());
            leaves.push(leaf);
        }
        Ok(Self { entries, leaves })
    }

    /// What was decided, oldest first.
    pub fn entries(&self) -> &[Value] {
        &self.entries
    }

    /// Whether the hashes beside the way from entry `index` to the root lead to the root of the whole.
    pub fn proves(&self, index: usize) -> bool {
        let (Some(leaf), beside) = (self.leaves.get(index), path(index, &self.leaves)) else { return false };
        climb(*leaf, index, self.leaves.len(), &beside) == Some(root(&self.leaves))
    }
}

fn hash(kind: u8, parts: &[&[u8]]) -> Hash {
    let mut hash = Sha256::new();
    hash.update([kind]);
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        more => {
            let (left, right) = more.split_at(split(more.len()));
            hash(1, &[&root(left), &root(right)])
        }
    }
}

/// The roots of what lies beside the way, the lowest first.
fn path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let at = split(leaves.len());
    let (left, right) = leaves.split_at(at);
    let (mut below, beside) =
        if index < at { (path(index, left), root(right)) } else { (path(index - at, right), root(left)) };
    below.push(beside);
    below
}

/// Goes up from a leaf with what lies beside.
fn climb(leaf: Hash, index: usize, count: usize, beside: &[Hash]) -> Option<Hash> {
    if count < 2 {
        return beside.is_empty().then_some(leaf);
    }
    let (last, below) = beside.split_last()?;
    let at = split(count);
    if index < at {
        Some(hash(1, &[&climb(leaf, index, at, below)?, last]))
    } else {
        Some(hash(1, &[last, &climb(leaf, index - at, count - at, below)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[&str]) -> Vec<u8> {
        let (mut text, mut link) = (String::new(), [0; 32]);
        for (number, entry) in entries.iter().enumerate() {
            link = hash(2, &[&link, &hash(0, &[entry.as_bytes()])]);
            text += &format!("{number} {} {entry}\n", hexadecimal(&link));
        }
        text.into_bytes()
    }

    #[test]
    fn every_entry_of_seven_is_proven() {
        let log = AuditLog::parse(&log(&["{}", "1", "2", "3", "4", "5", "6"])).unwrap();
        assert!((0..7).all(|index| log.proves(index)) && !log.proves(7));
    }

    #[test]
    fn a_flipped_byte_is_found_at_its_line() {
        let mut bytes = log(&["1", "2", "3"]);
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        assert!(AuditLog::parse(&bytes).unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn the_root_of_an_empty_tree_is_that_of_nothing() {
        assert!(hexadecimal(&root(&[])).starts_with("e3b0c44298fc1c14"));
    }
}
