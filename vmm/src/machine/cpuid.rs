//! What each processor of the machine says about itself: what the host's can do, less what a pod must not have, and the
//! machine's own topology: one package, one thread per core.

use crate::kvm::CpuidLeaf;

/// Leaves that are made here.
const FEATURES: u32 = 0x1;
const SERIAL_NUMBER: u32 = 0x3;
const CACHES: u32 = 0x4;
const POWER: u32 = 0x6;
const COUNTERS: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const SIZES: u32 = 0x8000_0008;
const NESTED: u32 = 0x8000_000a;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;
const ENCRYPTION: u32 = 0x8000_001f;

/// Bits of leaf 1, ECX: what is taken away (MONITOR, VMX, PDCM), and what the monitor adds.
const WITHOUT: u32 = 1 << 3 | 1 << 5 | 1 << 15;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;

/// Bit of leaf 1, ECX: random numbers by RDRAND.
const RANDOM: u32 = 1 << 30;

/// Bit of leaf 1, EDX: there is more than one processor in the package.
const SEVERAL: u32 = 1 << 28;

/// Bit of leaf 0x8000_0001, ECX: nested virtualization on AMD.
const SVM: u32 = 1 << 2;

/// Bit of leaf 6, EAX: the local APIC's timer does not stop in deep sleep.
const TIMER_ALWAYS_RUNS: u32 = 1 << 2;

/// KVM's flag: the leaf depends on ECX.
const INDEXED: u32 = 1;

/// The leaves of processor `cpu` of `cpus`, made of those that KVM supports.
pub(super) fn leaves(supported: &[CpuidLeaf], cpu: u8, cpus: u8, deadline: bool) -> Vec<CpuidLeaf> {
    let made = |leaf: &&CpuidLeaf| ![TOPOLOGY, TOPOLOGY_V2, NESTED, ENCRYPTION].contains(&leaf.function);
    let mut leaves: Vec<CpuidLeaf> = supported.iter().filter(made).copied().collect();
    for leaf in &mut leaves {
        adapt(leaf, u32::from(cpu), u32::from(cpus));
        if leaf.function == FEATURES && deadline {
            leaf.registers[2] |= TSC_DEADLINE;
        }
    }
    let highest = supported.iter().find(|leaf| leaf.function == 0).map_or(0, |leaf| leaf.registers[0]);
    for function in [TOPOLOGY, TOPOLOGY_V2].into_iter().filter(|function| *function <= highest) {
        leaves.extend(topology(function, u32::from(cpu), u32::from(cpus)));
    }
    leaves
}

/// Whether processors made of these leaves give random numbers.
pub(super) fn give_random_numbers(supported: &[CpuidLeaf]) -> bool {
    supported.iter().any(|leaf| leaf.function == FEATURES && leaf.registers[2] & RANDOM != 0)
}

fn adapt(leaf: &mut CpuidLeaf, cpu: u32, cpus: u32) {
    let [eax, ebx, ecx, edx] = &mut leaf.registers;
    match leaf.function {
        FEATURES => {
            *ebx = *ebx & 0xffff | cpus << 16 | cpu << 24;
            *ecx = *ecx & !WITHOUT | HYPERVISOR;
            *edx = if cpus > 1 { *edx | SEVERAL } else { *edx & !SEVERAL };
        }
        SERIAL_NUMBER | COUNTERS => leaf.registers = [0; 4],
        CACHES | AMD_CACHES => {
            let level = *eax >> 5 & 7;
            let sharing = if level >= 3 { cpus.next_power_of_two() - 1 } else { 0 };
            *eax = *eax & 0x3fff | sharing << 14;
            if leaf.function == CACHES && *eax & 0x1f != 0 {
                *eax |= (cpus.next_power_of_two() - 1).min(0x3f) << 26;
            }
        }
        POWER => leaf.registers = [TIMER_ALWAYS_RUNS, 0, 0, 0],
        EXTENDED_FEATURES => *ecx &= !SVM,
        SIZES => *ecx = id_bits(cpus) << 12 | (cpus - 1),
        AMD_TOPOLOGY => leaf.registers = [cpu, cpu & 0xff, 0, 0],
        _ => {}
    }
}

/// Bits that tell the processors of the package apart.
fn id_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

/// The levels of one topology leaf: threads of a core, cores of the package, and the end.
fn topology(function: u32, cpu: u32, cpus: u32) -> [CpuidLeaf; 3] {
    let leaf = |index, registers| CpuidLeaf { function, index, flags: INDEXED, registers };
    [leaf(0, [0, 1, 1 << 8, cpu]), leaf(1, [id_bits(cpus), cpus, 2 << 8 | 1, cpu]), leaf(2, [0, 0, 2, cpu])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported() -> Vec<CpuidLeaf> {
        let leaf = |function, registers| CpuidLeaf { function, registers, ..CpuidLeaf::default() };
        vec![
            leaf(0, [0xd, 0, 0, 0]),
            leaf(1, [0x600, 0xab01_0800, WITHOUT | 1, SEVERAL]),
            leaf(4, [0x1_c163, 0, 0, 0]),
            leaf(TOPOLOGY, [9, 9, 9, 9]),
            leaf(EXTENDED_FEATURES, [0, 0, SVM | 1, 0]),
            leaf(NESTED, [1, 1, 1, 1]),
        ]
    }

    fn of(leaves: &[CpuidLeaf], function: u32, index: u32) -> Option<[u32; 4]> {
        leaves.iter().find(|leaf| (leaf.function, leaf.index) == (function, index)).map(|leaf| leaf.registers)
    }

    #[test]
    fn each_processor_has_its_own_number() {
        let leaves = leaves(&supported(), 3, 4, true);
        assert_eq!(of(&leaves, 1, 0).unwrap()[1], 0x0304_0800);
        assert_eq!(of(&leaves, TOPOLOGY, 1), Some([2, 4, 0x201, 3]));
    }

    #[test]
    fn nested_virtualization_is_not_passed_on() {
        let leaves = leaves(&supported(), 0, 1, false);
        assert_eq!(of(&leaves, 1, 0).unwrap()[2], HYPERVISOR | 1);
        assert_eq!(of(&leaves, EXTENDED_FEATURES, 0).unwrap()[2], 1);
        assert_eq!(of(&leaves, NESTED, 0), None);
    }

    #[test]
    fn one_processor_does_not_say_that_there_are_several() {
        assert_eq!(of(&leaves(&supported(), 0, 1, true), 1, 0).unwrap()[3], 0);
    }

    #[test]
    fn random_numbers_are_told_by_their_bit_and_passed_on() {
        let mut leaves = supported();
        assert!(!give_random_numbers(&leaves));
        leaves[1].registers[2] |= RANDOM;
        assert!(give_random_numbers(&leaves));
        assert_ne!(of(&super::leaves(&leaves, 0, 1, true), 1, 0).unwrap()[2] & RANDOM, 0);
    }

    #[test]
    fn the_last_cache_is_shared_and_the_cores_are_counted() {
        let eax = of(&leaves(&supported(), 0, 64, true), 4, 0).unwrap()[0];
        assert_eq!((eax >> 14 & 0xfff, eax >> 26, eax & 0x3fff), (63, 63, 0x163));
    }

    #[test]
    fn a_host_without_the_newer_leaf_gives_none() {
        assert_eq!(of(&leaves(&supported(), 0, 2, true), TOPOLOGY_V2, 0), None);
    }
}
