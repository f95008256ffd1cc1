//! Damage: how it is described, and doing it.

use proptest::sample::Index;

/// What is done to good bytes: replace some, cut the end, repeat a part.
pub(crate) type Damage = (Vec<(Index, u8)>, Option<Index>, Option<(Index, Index)>);

/// The bytes with that done to them.
pub(crate) fn damaged(good: &[u8], (replaced, cut, repeated): Damage) -> Vec<u8> {
    let mut bytes = good.to_vec();
    replaced.into_iter().for_each(|(at, byte)| *at.get_mut(&mut bytes) = byte);
    if let Some((from, to)) = repeated {
        let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
        let part = bytes[from.min(to)..from.max(to)].to_vec();
        bytes.splice(from..from, part);
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes
}
