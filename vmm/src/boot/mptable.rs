//! The processors and interrupt lines, as Intel's MultiProcessor Specification 1.4 describes them to a kernel.
//!
//! ```text
//! pointer (in the last KiB below 640 KiB) ─▶ table: header, processors, one ISA bus, one IOAPIC, its lines, local lines
//! ```

use vm_memory::{Bytes, GuestAddress};

use crate::memory::{LOW_END, MP_TABLE, Memory};

/// Where Linux looks for the pointer first.
const POINTER: u64 = LOW_END - 1024;

/// Input lines of the IOAPIC.
const LINES: u8 = 24;

const IOAPIC: u32 = 0xfec0_0000;
const LOCAL_APIC: u32 = 0xfee0_0000;

/// Version of a local APIC as KVM has it.
const APIC_VERSION: u8 = 0x14;

const ENTRY_PROCESSOR: u8 = 0;
const ENTRY_BUS: u8 = 1;
const ENTRY_IOAPIC: u8 = 2;
const ENTRY_INTERRUPT: u8 = 3;
const ENTRY_LOCAL: u8 = 4;

/// Kinds of interrupt.
const VECTORED: u8 = 0;
const NMI: u8 = 1;
const EXTERNAL: u8 = 3;

/// Writes the table for `cpus` processors and the lines that something is at: a kernel prepares each line that it is told of,
/// which takes an exit for it. `false` if the guest has no memory there.
pub(super) fn write(memory: &Memory, cpus: u8, lines: &[u8]) -> bool {
    let table = table(cpus, lines);
    memory.write_slice(&table, GuestAddress(MP_TABLE)).is_ok()
        && memory.write_slice(&pointer(), GuestAddress(POINTER)).is_ok()
}

fn pointer() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(b"_MP_");
    bytes[4..8].copy_from_slice(&MP_TABLE.to_le_bytes()[..4]);
    bytes[8] = 1; // length in units of 16 bytes
    bytes[9] = 4; // revision 1.4
    bytes[10] = checksum(&bytes);
    bytes
}

fn table(cpus: u8, lines: &[u8]) -> Vec<u8> {
    let ioapic = cpus;
    let mut entries = Vec::new();
    for cpu in 0..cpus {
        // Usable; the first one is what the system starts on.
        let flags = if cpu == 0 { 3 } else { 1 };
        // Signature and features: what CPUID says counts, but a processor without a local APIC would not be used.
        let signature = [0x00, 0x06, 0, 0];
        let features = 0x0201_u32.to_le_bytes();
        entries.push(
            [&[ENTRY_PROCESSOR, cpu, APIC_VERSION, flags][..], &signature, &features, &[0; 8]].concat(),
        );
    }
    entries.push([&[ENTRY_BUS, 0][..], b"ISA   "].concat());
    entries.push([&[ENTRY_IOAPIC, ioapic, 0x11, 1][..], &IOAPIC.to_le_bytes()].concat());
    for line in (0..LINES).filter(|line| lines.contains(line)) {
        // Polarity and trigger as the bus has them: an ISA bus's rising edge.
        entries.push(vec![ENTRY_INTERRUPT, VECTORED, 0, 0, 0, line, ioapic, line]);
    }
    // Every local APIC's two inputs: the old interrupt controllers, and NMI.
    entries.push(vec![ENTRY_LOCAL, EXTERNAL, 0, 0, 0, 0, 0xff, 0]);
    entries.push(vec![ENTRY_LOCAL, NMI, 0, 0, 0, 0, 0xff, 1]);
    with_header(&entries)
}

fn with_header(entries: &[Vec<u8>]) -> Vec<u8> {
    let body = entries.concat();
    let length = u16::try_from(44 + body.len()).unwrap_or(u16::MAX);
    let count = u16::try_from(entries.len()).unwrap_or(u16::MAX);
    let mut table = b"PCMP".to_vec();
    table.extend(length.to_le_bytes());
    table.extend([4, 0]); // revision, checksum
    table.extend(b"COFFER  ");
    table.extend(b"MICROVM     ");
    table.extend([0; 6]); // no table of the manufacturer's
    table.extend(count.to_le_bytes());
    table.extend(LOCAL_APIC.to_le_bytes());
    table.extend([0; 4]);
    table.extend(body);
    let sum = checksum(&table);
    if let Some(place) = table.get_mut(7) {
        *place = sum;
    }
    table
}

/// What makes the sum of all bytes 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [u8; 24] =
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];

    #[test]
    fn both_structures_sum_up_to_zero() {
        assert_eq!(checksum(&pointer()), 0);
        assert_eq!(checksum(&table(64, &ALL)), 0);
    }

    #[test]
    fn the_largest_table_ends_before_the_pointer() {
        assert!(MP_TABLE + table(64, &ALL).len() as u64 <= POINTER);
    }

    #[test]
    fn the_header_counts_bytes_and_entries() {
        let table = table(2, &[0, 4, 23, 99]);
        assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
        assert_eq!(u16::from_le_bytes([table[34], table[35]]), 2 + 1 + 1 + 3 + 2);
    }
}
