//! Which hypervisor runs this node's guests, and why.
//!
//! The built-in monitor's seat is free: once it exists, `auto` takes it where the CPU has VMX or SVM. Until then QEMU
//! runs every guest, with KVM where a stock kernel survives it and with software emulation elsewhere.

use std::path::Path;
use std::sync::Arc;

use coffer_node::config::HypervisorChoice;
use coffer_node::host::{Accelerator, Virtualization};

use super::Hypervisor;
use super::qemu::Qemu;

/// The hypervisor of this node.
pub(crate) struct Choice {
    /// Boots the machines.
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    /// Its name for records and traces: `qemu-kvm` or `qemu-tcg`.
    pub(crate) name: &'static str,
    /// What the operator should know about it, to be logged once.
    pub(crate) notice: Option<String>,
}

/// Chooses the hypervisor: `qemu` and `vmm` are programs as the configuration names them.
pub(crate) fn choose(wanted: HypervisorChoice, qemu: &Path, vmm: &Path) -> Choice {
    let virtualization = Virtualization::probe();
    match wanted {
        HypervisorChoice::Auto | HypervisorChoice::Qemu => {
            let accelerator = virtualization.accelerator();
            Choice {
                hypervisor: Arc::new(Qemu::new(qemu, vmm, accelerator)),
                name: match accelerator {
                    Accelerator::Kvm => "qemu-kvm",
                    Accelerator::Tcg => "qemu-tcg",
                },
                notice: notice(&virtualization),
            }
        }
    }
}

fn notice(virtualization: &Virtualization) -> Option<String> {
    let why = match (virtualization.accelerator(), &virtualization.cpu_flag, &virtualization.kvm_error) {
        (Accelerator::Kvm, _, _) => return None,
        (_, None, _) => "the CPU offers neither VMX nor SVM".to_owned(),
        (_, Some(flag), Some(error)) => format!("the CPU has {flag}, but /dev/kvm cannot be used ({error})"),
        (_, Some(flag), None) => format!("the CPU has {flag}, but KVM is not used"),
    };
    Some(format!(
        "pods run in software emulation because {why}: it is for trying out and for tests, isolates through an \
         emulator and is slow"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn virtualization(cpu_flag: Option<&str>, kvm_error: Option<&str>) -> Virtualization {
        Virtualization { cpu_flag: cpu_flag.map(str::to_owned), kvm_error: kvm_error.map(str::to_owned) }
    }

    #[test]
    fn hardware_virtualization_needs_no_notice() {
        assert_eq!(notice(&virtualization(Some("vmx"), None)), None);
    }

    #[test]
    fn a_kvm_device_without_cpu_support_is_not_enough() {
        let notice = notice(&virtualization(None, None)).unwrap();
        assert!(notice.contains("neither VMX nor SVM"), "{notice}");
    }

    #[test]
    fn the_reason_why_kvm_does_not_open_is_told() {
        let notice = notice(&virtualization(Some("svm"), Some("Permission denied"))).unwrap();
        assert!(notice.contains("Permission denied"), "{notice}");
    }
}
