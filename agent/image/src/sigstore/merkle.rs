//! Inclusion of an entry in a log's tree (RFC 9162, section 2.1).

use coffer_attestation::audit::{Hash, inclusion_root, leaf_hash};

/// The root that `hashes` lead to from the entry at `index` of a tree of `size` entries. `None` if they are too few or too
/// many, or the entry is not below `size`.
pub(super) fn root(entry: &[u8], index: u64, size: u64, hashes: &[Vec<u8>]) -> Option<Hash> {
    let hashes: Option<Vec<Hash>> = hashes.iter().map(|hash| hash.as_slice().try_into().ok()).collect();
    inclusion_root(leaf_hash(entry), (index, size), &hashes?).ok()
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn leaf(entry: &[u8]) -> Hash {
        Sha256::new_with_prefix([0]).chain_update(entry).finalize().into()
    }

    fn pair(left: &Hash, right: &Hash) -> Hash {
        Sha256::new_with_prefix([1]).chain_update(left).chain_update(right).finalize().into()
    }

    #[test]
    fn the_only_entry_is_the_root() {
        assert_eq!(root(b"a", 0, 1, &[]), Some(leaf(b"a")));
    }

    #[test]
    fn each_of_three_entries_leads_to_the_root() {
        let (a, b, c) = (leaf(b"a"), leaf(b"b"), leaf(b"c"));
        let ab = pair(&a, &b);
        let all = pair(&ab, &c);
        assert_eq!(root(b"a", 0, 3, &[b.to_vec(), c.to_vec()]), Some(all));
        assert_eq!(root(b"b", 1, 3, &[a.to_vec(), c.to_vec()]), Some(all));
        assert_eq!(root(b"c", 2, 3, &[ab.to_vec()]), Some(all));
    }

    #[test]
    fn a_hash_too_many_or_too_few_is_no_proof() {
        let b = leaf(b"b").to_vec();
        assert_eq!(root(b"a", 0, 2, &[]), None);
        assert_eq!(root(b"a", 0, 2, &[b.clone(), b.clone()]), None);
        assert_eq!(root(b"a", 2, 2, &[b]), None);
    }
}
