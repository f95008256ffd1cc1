//! The Merkle tree of RFC 6962, section 2.1, over SHA-256.

use sha2::{Digest, Sha256};

/// A node of the tree.
pub type Hash = [u8; 32];

/// Why a proof does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// An entry that the tree does not have.
    #[error("entry {index} is not in a tree of {size} entries")]
    Index {
        /// Number of the entry, from 0.
        index: u64,
        /// Number of entries.
        size: u64,
    },
    /// More or fewer hashes than the tree's shape asks for.
    #[error("the proof has {found} hashes, the tree's shape asks for another number")]
    Length {
        /// Number found.
        found: usize,
    },
    /// Another entry, another tree.
    #[error("the proof leads to another root")]
    Mismatch,
}

/// Hash of an entry.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// Root of a tree over `leaves`.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(largest_power_below(many.len()));
            node(&root(left), &root(right))
        }
    }
}

/// The hashes beside the way from entry `index` to the root, lowest first (section 2.1.1).
pub fn inclusion_proof(leaves: &[Hash], index: usize) -> Result<Vec<Hash>, ProofError> {
    if index >= leaves.len() {
        return Err(ProofError::Index { index: index as u64, size: leaves.len() as u64 });
    }
    let mut proof = Vec::new();
    let (mut leaves, mut index) = (leaves, index);
    while leaves.len() > 1 {
        let (left, right) = leaves.split_at(largest_power_below(leaves.len()));
        if index < left.len() {
            proof.push(root(right));
            leaves = left;
        } else {
            proof.push(root(left));
            index -= left.len();
            leaves = right;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that an entry with this leaf hash is number `index` of the `size` entries under `root`.
///
/// # Errors
/// [`ProofError`]
pub fn verify_inclusion(
    leaf: Hash,
    place: (u64, u64),
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if inclusion_root(leaf, place, proof)? == *root { Ok(()) } else { Err(ProofError::Mismatch) }
}

/// The root that `proof` leads to from an entry with this leaf hash, which is number `index` of `size` (RFC 9162, section
/// 2.1.3.2).
///
/// # Errors
/// [`ProofError::Index`], [`ProofError::Length`]
pub fn inclusion_root(leaf: Hash, (index, size): (u64, u64), proof: &[Hash]) -> Result<Hash, ProofError> {
    if index >= size {
        return Err(ProofError::Index { index, size });
    }
    let length = ProofError::Length { found: proof.len() };
    let (mut place, mut last, mut hash) = (index, size - 1, leaf);
    for beside in proof {
        if last == 0 {
            return Err(length);
        }
        if place & 1 == 1 || place == last {
            hash = node(beside, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, beside);
        }
        place >>= 1;
        last >>= 1;
    }
    if last == 0 { Ok(hash) } else { Err(length) }
}

/// A tree that only grows, of which nothing is kept but the roots of its complete parts: 64 hashes at most.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// One root for each bit of `size`, the largest part first.
    peaks: Vec<Hash>,
}

impl Frontier {
    /// Adds an entry's hash at the end.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            // One peak for each bit that is set: there is one for each of these.
            if let Some(left) = self.peaks.pop() {
                hash = node(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Root of the tree over all of them.
    pub fn root(&self) -> Hash {
        let mut parts = self.peaks.iter().rev().copied();
        match parts.next() {
            None => root(&[]),
            Some(last) => parts.fold(last, |right, left| node(&left, &right)),
        }
    }
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The largest power of two that is smaller than `count`, which is at least 2.
fn largest_power_below(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inputs that Certificate Transparency's own tests use.
    fn leaves() -> Vec<Hash> {
        let entries = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        entries.iter().map(|entry| leaf_hash(&hex::decode(entry).expect("hex"))).collect()
    }

    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let leaves = leaves();
        let roots = [0, 1, 2, 3, 8].map(|size| hex::encode(root(&leaves[..size])));
        let expected = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        assert_eq!(roots, expected);
    }

    #[test]
    fn a_frontier_has_the_root_of_the_whole_tree_at_every_size() {
        let leaves: Vec<Hash> = (0..70_u8).map(|number| leaf_hash(&[number])).collect();
        let mut frontier = Frontier::default();
        assert_eq!(frontier.root(), root(&[]));
        leaves.iter().enumerate().for_each(|(index, leaf)| {
            frontier.push(*leaf);
            assert_eq!(frontier.root(), root(&leaves[..=index]));
        });
        assert_eq!(frontier.size(), 70);
    }

    #[test]
    fn every_entry_of_every_small_tree_has_a_proof() {
        let leaves: Vec<Hash> = (0..40_u8).map(|number| leaf_hash(&[number])).collect();
        let all = (1..=leaves.len()).flat_map(|size| (0..size).map(move |index| (index, size)));
        let held = all.map(|(index, size)| {
            let proof = inclusion_proof(&leaves[..size], index).expect("a proof");
            verify_inclusion(leaves[index], (index as u64, size as u64), &proof, &root(&leaves[..size]))
        });
        assert_eq!(held.filter(Result::is_ok).count(), 820);
    }

    #[test]
    fn a_proof_of_another_entry_or_place_or_length_does_not_hold() {
        let leaves = leaves();
        let (top, proof) = (root(&leaves), inclusion_proof(&leaves, 3).expect("a proof"));
        assert_eq!(verify_inclusion(leaves[4], (3, 8), &proof, &top), Err(ProofError::Mismatch));
        assert_eq!(verify_inclusion(leaves[3], (2, 8), &proof, &top), Err(ProofError::Mismatch));
        assert_eq!(
            verify_inclusion(leaves[3], (3, 8), &proof[1..], &top),
            Err(ProofError::Length { found: 2 })
        );
        assert_eq!(
            verify_inclusion(leaves[3], (8, 8), &proof, &top),
            Err(ProofError::Index { index: 8, size: 8 })
        );
    }
}
