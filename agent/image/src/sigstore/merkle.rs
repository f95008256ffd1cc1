//! Inclusion of an entry in a log's tree (RFC 9162, section 2.1).

use sha2::{Digest as _, Sha256};

type Hash = [u8; 32];

/// The root that `hashes` lead to from the entry at `index` of a tree of `size` entries. `None` if they are too few or too
/// many, or the entry is not below `size`.
pub(super) fn root(entry: &[u8], index: u64, size: u64, hashes: &[Vec<u8>]) -> Option<Hash> {
    let (mut place, mut last) = (index, size.checked_sub(1)?);
    if place > last {
        return None;
    }
    let mut root: Hash = Sha256::new_with_prefix([0]).chain_update(entry).finalize().into();
    for hash in hashes {
        let hash: &Hash = hash.as_slice().try_into().ok()?;
        if last == 0 {
            return None;
        }
        if place & 1 == 1 || place == last {
            root = pair(hash, &root);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            root = pair(&root, hash);
        }
        place >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(root)
}

fn pair(left: &Hash, right: &Hash) -> Hash {
    Sha256::new_with_prefix([1]).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(entry: &[u8]) -> Hash {
        Sha256::new_with_prefix([0]).chain_update(entry).finalize().into()
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
