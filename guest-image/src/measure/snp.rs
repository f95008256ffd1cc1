//! Puts a machine's pages together in the order in which QEMU adds them.

use super::firmware::{Firmware, FirmwareError, Section, SectionKind};
use super::hashes::DirectBoot;
use super::launch::{DIGEST_BYTES, LaunchDigest, PAGE_BYTES};
use super::vcpu::VcpuSignature;
use super::vmsa::{RESET_VECTOR, Vmsa};

/// The most vCPUs that a machine of QEMU has.
const MOST_VCPUS: u32 = 4096;

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

#[cfg(test)]
mod tests {
    use super::*;

    // The digests here are those that sev-snp-measure's own tests expect of the same firmware.
    const AMD_SEV: &[u8] = include_bytes!("../../testdata/measure/ovmf-amdsev-suffix.bin");
    const OVMF_X64: &[u8] = include_bytes!("../../testdata/measure/ovmf-x64-suffix.bin");

    fn measured(
        firmware: &[u8],
        cmdline: Option<&str>,
        vcpus: u32,
        features: u64,
    ) -> Result<String, MeasureError> {
        let firmware = Firmware::parse(firmware.to_vec())?;
        let boot = cmdline.map(|cmdline| DirectBoot::read(&b""[..], None, cmdline).expect("memory is read"));
        let vcpu = "EPYC-v4".parse().expect("a type");
        let digest = snp_launch_digest(&SnpMachine { firmware: &firmware, boot, vcpus, vcpu, features })?;
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn hex(parts: [&str; 2]) -> Result<String, MeasureError> {
        Ok(parts.concat())
    }

    #[test]
    fn one_vcpu_with_a_kernel() {
        let expected = hex([
            "6d287813eb5222d770f75005c664e34c204f385ce832cc2c",
            "e7d0d6f354454362f390ef83a92046c042e706363b4b08fa",
        ]);
        assert_eq!(measured(AMD_SEV, Some("console=ttyS0 loglevel=7"), 1, 0x1), expected);
    }

    #[test]
    fn one_vcpu_with_debug_swap() {
        let expected = hex([
            "803f691094946e42068aaa3a8f9e26a5c89f36f7b73ecfb2",
            "8c653360fe4b3aba7e534442e7e1e17895dfe778d0228977",
        ]);
        assert_eq!(measured(AMD_SEV, Some("console=ttyS0 loglevel=7"), 1, 0x21), expected);
    }

    #[test]
    fn four_vcpus() {
        let expected = hex([
            "5061fffb019493a903613d56d54b94912a1a2f9e4502385f",
            "5c194616753720a92441310ba6c4933de877c36e23046ad5",
        ]);
        assert_eq!(measured(AMD_SEV, Some(""), 4, 0x1), expected);
    }

    #[test]
    fn firmware_that_takes_hashes_without_a_kernel() {
        let expected = hex([
            "19358ba9a7615534a9a1e2f0dfc29384dcd4dcb7062ff9c6",
            "013b26869a5fc6ecabe033c48dd6f6db5d6d76e7c5df632d",
        ]);
        assert_eq!(measured(AMD_SEV, None, 1, 0x1), expected);
    }

    #[test]
    fn firmware_that_takes_no_hashes_without_a_kernel() {
        let expected = hex([
            "da0296de8193586a5512078dcd719eccecbd87e2b825ad41",
            "48c44f665dc87df21e5b49e21523a9ad993afdb6a30b4005",
        ]);
        assert_eq!(measured(OVMF_X64, None, 1, 0x1), expected);
    }

    #[test]
    fn firmware_that_takes_no_hashes_is_refused_with_a_kernel() {
        assert_eq!(measured(OVMF_X64, Some(""), 1, 0x1), Err(MeasureError::NoHashes));
    }

    #[test]
    fn a_machine_without_a_vcpu_is_refused() {
        assert_eq!(measured(AMD_SEV, Some(""), 0, 0x1), Err(MeasureError::Vcpus { found: 0 }));
    }
}
