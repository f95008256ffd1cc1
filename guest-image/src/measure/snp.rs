//! Puts a machine's pages together in the order in which QEMU adds them.

use super::firmware::{Firmware, FirmwareError, Section, SectionKind};
use super::hashes::DirectBoot;
use super::launch::{DIGEST_BYTES, LaunchDigest, PAGE_BYTES};
use super::vcpu::VcpuSignature;
use super::vmsa::{RESET_VECTOR, Vmsa};

/// The most vCPUs that a machine of QEMU has.
pub(super) const MOST_VCPUS: u32 = 4096;

/// A machine that is to be launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnpMachine<'a> {
    /// What starts first.
    pub firmware: &'a Firmware,
    /// Kernel, initrd and command line, if the firmware boots them and no disk.
    pub boot: Option<DirectBoot>,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// Their type.
    pub vcpu: VcpuSignature,
    /// SEV features: 1 is SNP alone, as KVM starts guests by default since Linux 6.6; 0x21 adds debug swap.
    pub features: u64,
}

/// Why a machine has no launch digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeasureError {
    /// The firmware itself.
    #[error(transparent)]
    Firmware(#[from] FirmwareError),
    /// No vCPU, or more than there can be.
    #[error("a machine has 1 to {MOST_VCPUS} vCPUs, not {found}")]
    Vcpus {
        /// How many were asked for.
        found: u32,
    },
    /// Nobody would check the kernel.
    #[error(
        "this firmware takes no hashes of a kernel, so a kernel would not be measured: use OVMF's AmdSev build"
    )]
    NoHashes,
    /// The firmware looks for hashes in another place than it has a page for.
    #[error("the firmware looks for hashes at {address:#x}, its page for them is {bytes} bytes at {page:#x}")]
    HashesElsewhere {
        /// Where it looks.
        address: u32,
        /// Address of the section.
        page: u32,
        /// Length of the section.
        bytes: u32,
    },
    /// Firmware that no SNP guest can start with.
    #[error(
        "this firmware names no pages for SNP and no place for vCPUs: use an OVMF with support for SEV-SNP"
    )]
    NoSnp,
}

/// What the secure processor will say it measured, before it did.
pub fn snp_launch_digest(machine: &SnpMachine<'_>) -> Result<[u8; DIGEST_BYTES], MeasureError> {
    if !(1..=MOST_VCPUS).contains(&machine.vcpus) {
        return Err(MeasureError::Vcpus { found: machine.vcpus });
    }
    let firmware = machine.firmware;
    let reset_address = match (firmware.reset_address(), firmware.sections()) {
        (Some(address), [_, ..]) => address,
        _ => return Err(MeasureError::NoSnp),
    };
    let takes_hashes = firmware.sections().iter().any(|section| section.kind == SectionKind::KernelHashes);
    if machine.boot.is_some() && !takes_hashes {
        return Err(MeasureError::NoHashes);
    }
    let mut digest = LaunchDigest::new();
    digest.add_normal(firmware.address(), firmware.image());
    for section in firmware.sections() {
        add_section(&mut digest, section, machine)?;
    }
    let vmsa = |start| Vmsa { start, signature: machine.vcpu, features: machine.features }.page();
    digest.add_vmsa(&vmsa(RESET_VECTOR));
    let other = vmsa(reset_address);
    (1..machine.vcpus).for_each(|_| digest.add_vmsa(&other));
    Ok(digest.bytes())
}

fn add_section(
    digest: &mut LaunchDigest,
    section: &Section,
    machine: &SnpMachine<'_>,
) -> Result<(), MeasureError> {
    let address = u64::from(section.address);
    let pages = usize::try_from(section.bytes).unwrap_or(usize::MAX) / PAGE_BYTES;
    match (section.kind, &machine.boot) {
        (SectionKind::Memory | SectionKind::ServiceModule, _) | (SectionKind::KernelHashes, None) => {
            digest.add_zero(address, pages);
        }
        (SectionKind::Secrets, _) => digest.add_secrets(address),
        (SectionKind::Cpuid, _) => digest.add_cpuid(address),
        (SectionKind::KernelHashes, Some(boot)) => {
            let looked_at = machine.firmware.hashes_address().unwrap_or(0);
            let elsewhere = MeasureError::HashesElsewhere {
                address: looked_at,
                page: section.address,
                bytes: section.bytes,
            };
            let offset =
                looked_at.checked_sub(section.address).and_then(|offset| usize::try_from(offset).ok());
            let page = offset.filter(|_| pages == 1).and_then(|offset| boot.page(offset));
            digest.add_normal(address, &page.ok_or(elsewhere)?);
        }
    }
    Ok(())
}
