//! The list of memory ranges that QEMU hands to a TDX firmware, which is the first thing that RTMR0 is extended with.
//!
//! ```text
//! handoff   kind u16 = 1 | length u16 = 56 | 0 u32 | version u32 = 9 | zeros[36] | address of the list's end u64
//! range     kind u16 = 3 | length u16 = 48 | 0 u32 | owner[16] = 0 | type u32 | attributes u32 = 7 | start u64 | length u64
//! end       kind u16 = 0xffff | length u16 = 8 | 0 u32        the firmware's digest ends before it
//! ```
//! Ranges are QEMU's memory of a q35 machine, cut where pages were added before launch; UEFI PI specification, volume 3.

use sha2::{Digest, Sha384};

use super::tdvf::{Tdvf, TdvfKind, TdvfSection};
use crate::measure::DIGEST_BYTES;

const FOUR_GIB: u64 = 1 << 32;
/// From this much memory on less of it lies below 4 GiB.
const MANY: u64 = 0xb000_0000;
const BELOW_OF_MANY: u64 = 0x8000_0000;
/// The most memory of a machine, in bytes: what 46 bits of address reach.
const MOST_MEMORY: u64 = 1 << 46;
const HANDOFF_BYTES: u16 = 56;
const RANGE_BYTES: u16 = 48;
const END_BYTES: u64 = 8;
/// Memory that was added, and is known to be the guest's.
const ADDED: u32 = 0;
/// Memory that the guest must accept first.
const UNACCEPTED: u32 = 7;

/// Why there is no such list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HobError {
    /// Not whole MiB, or not a plausible amount.
    #[error("a machine of {found} bytes of memory cannot be: whole MiB, at most 64 TiB, can")]
    Memory {
        /// Bytes asked for.
        found: u64,
    },
    /// Pages to add where there is no memory.
    #[error("the firmware wants memory at {address:#x}, a machine of {memory} bytes has none there")]
    Outside {
        /// Guest address of the section.
        address: u64,
        /// Bytes of memory.
        memory: u64,
    },
    /// A list that does not fit.
    #[error("the list of memory ranges takes {needed} bytes, the firmware has {room} for it")]
    Long {
        /// Bytes of the list.
        needed: u64,
        /// Bytes of the section.
        room: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    start: u64,
    end: u64,
    kind: u32,
}

/// The digest of the list that a machine with `memory` bytes hands to `firmware`.
///
/// # Errors
/// [`HobError`]
pub fn td_hob_digest(firmware: &Tdvf, memory: u64) -> Result<[u8; DIGEST_BYTES], HobError> {
    let is_memory = |section: &&TdvfSection| matches!(section.kind, TdvfKind::Hob | TdvfKind::Temporary);
    let added: Vec<&TdvfSection> = firmware.sections().iter().filter(is_memory).collect();
    let mut spans = memory_of(memory)?;
    for section in &added {
        let outside = HobError::Outside { address: section.address, memory };
        spans = without(&spans, section).ok_or(outside)?;
    }
    spans.sort_unstable();
    let place = added.iter().find(|section| section.kind == TdvfKind::Hob);
    let (address, room) = place.map_or((0, 0), |section| (section.address, section.bytes));
    let list = u64::from(HANDOFF_BYTES) + u64::from(RANGE_BYTES) * spans.len() as u64 + END_BYTES;
    if list > room {
        return Err(HobError::Long { needed: list, room });
    }
    Ok(Sha384::digest(written(&spans, address.saturating_add(list))).into())
}

/// QEMU's memory of a q35 machine.
fn memory_of(memory: u64) -> Result<Vec<Span>, HobError> {
    if memory == 0 || memory > MOST_MEMORY || !memory.is_multiple_of(1 << 20) {
        return Err(HobError::Memory { found: memory });
    }
    let below = if memory >= MANY { BELOW_OF_MANY } else { memory };
    let low = Span { start: 0, end: below, kind: UNACCEPTED };
    let high = Span {
        start: FOUR_GIB,
        end: FOUR_GIB.saturating_add(memory.saturating_sub(below)),
        kind: UNACCEPTED,
    };
    Ok(if memory > below { vec![low, high] } else { vec![low] })
}

/// `spans` with the pages of `section` as added ones; `None` if they are not all within one range.
fn without(spans: &[Span], section: &TdvfSection) -> Option<Vec<Span>> {
    let (start, end) = (section.address, section.address.checked_add(section.bytes)?);
    let around = |span: &Span| span.kind == UNACCEPTED && span.start <= start && end <= span.end;
    let place = spans.iter().position(around)?;
    let whole = spans.get(place)?;
    let parts =
        [Span { end: start, ..*whole }, Span { start, end, kind: ADDED }, Span { start: end, ..*whole }];
    let others = spans.iter().enumerate().filter(|(at, _)| *at != place).map(|(_, span)| *span);
    Some(others.chain(parts.into_iter().filter(|part| part.start < part.end)).collect())
}

fn written(spans: &[Span], end: u64) -> Vec<u8> {
    let mut list = head(1, HANDOFF_BYTES);
    list.extend(9_u32.to_le_bytes());
    list.extend([0; 36]);
    list.extend(end.to_le_bytes());
    for span in spans {
        list.extend(head(3, RANGE_BYTES));
        list.extend([0; 16]);
        list.extend(span.kind.to_le_bytes());
        list.extend(7_u32.to_le_bytes());
        list.extend(span.start.to_le_bytes());
        list.extend(span.end.saturating_sub(span.start).to_le_bytes());
    }
    list
}

fn head(kind: u16, length: u16) -> Vec<u8> {
    let mut head = kind.to_le_bytes().to_vec();
    head.extend(length.to_le_bytes());
    head.extend([0; 4]);
    head
}

#[cfg(test)]
mod tests {
    use super::super::tdvf::tests::{ITEMS, image};
    use super::*;

    fn of(mebibytes: u64) -> Result<String, HobError> {
        let firmware = Tdvf::parse(image(&ITEMS)).expect("firmware");
        td_hob_digest(&firmware, mebibytes << 20)
            .map(|digest| digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    #[test]
    fn the_list_is_that_of_a_recorded_machine_of_2_gib() {
        // The first event of `misc/ccel-ovmf.bin` among the attestation crate's samples: OVMF with these sections.
        let recorded = "0b8772e5b0b41b83e6044a68397e02f49fb47066b4fbe4917ea2c45c64f323fdacbb37948f821ebaf8bc9c938ba8a749";
        assert_eq!(of(2048).as_deref(), Ok(recorded));
    }

    #[test]
    fn the_list_is_that_of_a_recorded_machine_with_memory_above_4_gib() {
        // The first event of `misc/ccel-grub.bin`.
        let recorded = "05dc148f05a035080b22372d049c35ef80260050516606b4d9d4eaa2e4d1e06c556374b00217496a235235d1e3d0e026";
        assert_eq!(of(10240).as_deref(), Ok(recorded));
    }

    #[test]
    fn memory_that_leaves_no_room_for_the_firmwares_own_is_refused() {
        assert_eq!(of(8), Err(HobError::Outside { address: 0x81_0000, memory: 8 << 20 }));
    }

    #[test]
    fn memory_that_no_machine_has_is_refused() {
        assert_eq!(of(0), Err(HobError::Memory { found: 0 }));
        assert_eq!(of(1 << 27), Err(HobError::Memory { found: 1 << 47 }));
    }

    #[test]
    fn a_list_that_does_not_fit_is_refused() {
        let mut items = ITEMS.to_vec();
        items[4].3 = 0x1000;
        items.extend((0..58_u64).map(|at| (0, 0, 0x90_0000 + at * 0x2000, 0x1000, 3, 0)));
        let firmware = Tdvf::parse(image(&items)).expect("firmware");
        let refused = HobError::Long { needed: 64 + 48 * 125, room: 0x1000 };
        assert_eq!(td_hob_digest(&firmware, 1 << 31), Err(refused));
    }
}
