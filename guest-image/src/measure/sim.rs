//! What a simulated processor says that it measured of a machine of QEMU's `microvm`: the page with the hashes of kernel,
//! initrd and command line, then a page for each vCPU, by the same chain as a real launch digest. There is no firmware in it,
//! because nothing of one is trusted there: the kernel starts at its own entry point.

use super::hashes::DirectBoot;
use super::launch::{DIGEST_BYTES, LaunchDigest};
use super::snp::{MOST_VCPUS, MeasureError};
use super::vcpu::VcpuSignature;
use super::vmsa::{RESET_VECTOR, Vmsa};

/// Where the page with the hashes lies: where OVMF's build for SEV has it.
const HASHES_ADDRESS: u64 = 0x81_0000;

/// A Turin: family 26, model 2, stepping 1.
const VCPU: VcpuSignature = VcpuSignature::new(26, 2, 1);

/// The launch digest of a machine with a simulated processor.
///
/// # Errors
/// [`MeasureError::Vcpus`]
pub fn simulated_launch_digest(boot: &DirectBoot, vcpus: u32) -> Result<[u8; DIGEST_BYTES], MeasureError> {
    if !(1..=MOST_VCPUS).contains(&vcpus) {
        return Err(MeasureError::Vcpus { found: vcpus });
    }
    let page = boot.page(0).ok_or(MeasureError::NoHashes)?;
    let mut digest = LaunchDigest::new();
    digest.add_normal(HASHES_ADDRESS, &page);
    let vmsa = Vmsa { start: RESET_VECTOR, signature: VCPU, features: 1 }.page();
    (0..vcpus).for_each(|_| digest.add_vmsa(&vmsa));
    Ok(digest.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kernel: &[u8], initrd: &[u8], cmdline: &str, vcpus: u32) -> [u8; DIGEST_BYTES] {
        let mut initrd = initrd;
        let boot = DirectBoot::read(kernel, Some(&mut initrd), cmdline).expect("memory is read");
        simulated_launch_digest(&boot, vcpus).expect("a digest")
    }

    #[test]
    fn every_part_of_what_boots_counts() {
        let one = of(b"kernel", b"initrd", "quiet", 1);
        assert_eq!(one, of(b"kernel", b"initrd", "quiet", 1));
        let others = [
            of(b"kernel.", b"initrd", "quiet", 1),
            of(b"kernel", b"initrd.", "quiet", 1),
            of(b"kernel", b"initrd", "quiet.", 1),
            of(b"kernel", b"initrd", "quiet", 2),
        ];
        assert!(others.iter().all(|other| *other != one));
    }

    #[test]
    fn a_machine_without_a_processor_has_no_digest() {
        let boot = DirectBoot::read(&b""[..], None, "").expect("memory is read");
        assert_eq!(simulated_launch_digest(&boot, 0), Err(MeasureError::Vcpus { found: 0 }));
    }
}
