//! Every ioctl that is used, by number and name: the kernel's `include/uapi/linux/kvm.h`.

use super::call::Request;

/// The type letter of all KVM requests.
const KVMIO: u32 = 0xae;

const fn none(number: u32, name: &'static str) -> Request {
    Request::new((KVMIO << 8) | number, name)
}

const fn write(number: u32, size: u32, name: &'static str) -> Request {
    Request::new((1 << 30) | (size << 16) | (KVMIO << 8) | number, name)
}

const fn read(number: u32, size: u32, name: &'static str) -> Request {
    Request::new((2 << 30) | (size << 16) | (KVMIO << 8) | number, name)
}

const fn both(number: u32, size: u32, name: &'static str) -> Request {
    Request::new((3 << 30) | (size << 16) | (KVMIO << 8) | number, name)
}

// Of /dev/kvm.
pub(super) const GET_API_VERSION: Request = none(0x00, "KVM_GET_API_VERSION");
pub(super) const CREATE_VM: Request = none(0x01, "KVM_CREATE_VM");
pub(super) const CHECK_EXTENSION: Request = none(0x03, "KVM_CHECK_EXTENSION");
pub(super) const GET_VCPU_MMAP_SIZE: Request = none(0x04, "KVM_GET_VCPU_MMAP_SIZE");
pub(super) const GET_SUPPORTED_CPUID: Request = both(0x05, 8, "KVM_GET_SUPPORTED_CPUID");

// Of a virtual machine.
pub(super) const CREATE_VCPU: Request = none(0x41, "KVM_CREATE_VCPU");
pub(super) const SET_USER_MEMORY_REGION: Request = write(0x46, 32, "KVM_SET_USER_MEMORY_REGION");
pub(super) const SET_TSS_ADDR: Request = none(0x47, "KVM_SET_TSS_ADDR");
pub(super) const SET_IDENTITY_MAP_ADDR: Request = write(0x48, 8, "KVM_SET_IDENTITY_MAP_ADDR");
pub(super) const CREATE_IRQCHIP: Request = none(0x60, "KVM_CREATE_IRQCHIP");
pub(super) const IRQFD: Request = write(0x76, 32, "KVM_IRQFD");
pub(super) const CREATE_PIT2: Request = write(0x77, 64, "KVM_CREATE_PIT2");
pub(super) const IOEVENTFD: Request = write(0x79, 64, "KVM_IOEVENTFD");
pub(super) const ENABLE_CAP: Request = write(0xa3, 104, "KVM_ENABLE_CAP");

// Of a virtual CPU.
pub(super) const RUN: Request = none(0x80, "KVM_RUN");
pub(super) const GET_REGS: Request = read(0x81, 144, "KVM_GET_REGS");
pub(super) const SET_REGS: Request = write(0x82, 144, "KVM_SET_REGS");
pub(super) const GET_SREGS: Request = read(0x83, 312, "KVM_GET_SREGS");
pub(super) const SET_SREGS: Request = write(0x84, 312, "KVM_SET_SREGS");
pub(super) const SET_MSRS: Request = write(0x89, 8, "KVM_SET_MSRS");
pub(super) const SET_FPU: Request = write(0x8d, 416, "KVM_SET_FPU");
pub(super) const GET_LAPIC: Request = read(0x8e, 1024, "KVM_GET_LAPIC");
pub(super) const SET_LAPIC: Request = write(0x8f, 1024, "KVM_SET_LAPIC");
pub(super) const SET_CPUID2: Request = write(0x90, 8, "KVM_SET_CPUID2");
pub(super) const GET_TSC_KHZ: Request = none(0xa3, "KVM_GET_TSC_KHZ");
pub(super) const KVMCLOCK_CTRL: Request = none(0xad, "KVM_KVMCLOCK_CTRL");

/// The requests that a processor makes while the machine runs.
pub fn requests_while_running() -> [u32; 3] {
    [RUN, GET_REGS, KVMCLOCK_CTRL].map(Request::number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernels_headers() {
        assert_eq!(CREATE_VM.number(), 0xae01);
        assert_eq!(SET_USER_MEMORY_REGION.number(), 0x4020_ae46);
        assert_eq!(GET_SREGS.number(), 0x8138_ae83);
        assert_eq!(GET_SUPPORTED_CPUID.number(), 0xc008_ae05);
        assert_eq!(SET_LAPIC.number(), 0x4400_ae8f);
        assert_eq!(ENABLE_CAP.number(), 0x4068_aea3);
    }

    #[test]
    fn the_sizes_are_those_of_the_structures() {
        use kvm_bindings as kernel;
        let sizes =
            [size_of::<kernel::kvm_regs>(), size_of::<kernel::kvm_sregs>(), size_of::<kernel::kvm_fpu>()];
        assert_eq!(sizes, [144, 312, 416]);
        assert_eq!(size_of::<kernel::kvm_userspace_memory_region>(), 32);
        assert_eq!((size_of::<kernel::kvm_irqfd>(), size_of::<kernel::kvm_pit_config>()), (32, 64));
        assert_eq!((size_of::<kernel::kvm_ioeventfd>(), size_of::<kernel::kvm_enable_cap>()), (64, 104));
    }
}
