//! Which hypervisor runs this node's guests, and why.
//!
//! ```text
//! configured   the CPU has VMX or SVM, and /dev/kvm opens   elsewhere
//! auto         the built-in monitor                          QEMU with software emulation, and a notice
//! builtin      the built-in monitor                          refused at the boot, with the reason
//! qemu         QEMU with KVM                                 QEMU with software emulation, and a notice
//! ```

use std::path::Path;
use std::sync::Arc;

use coffer_node::config::HypervisorChoice;
use coffer_node::host::{Backend, Virtualization};

use super::Hypervisor;
use super::builtin::Builtin;
use super::qemu::Qemu;

/// The hypervisor of this node.
pub(crate) struct Choice {
    /// Boots the machines.
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    /// Its name for records and traces: `builtin`, `qemu-kvm` or `qemu-tcg`.
    pub(crate) name: &'static str,
    /// What the operator should know about it, to be logged once.
    pub(crate) notice: Option<String>,
}

/// Chooses the hypervisor: `qemu` and `vmm` are programs as the configuration names them.
pub(crate) fn choose(wanted: HypervisorChoice, qemu: &Path, vmm: &Path) -> Choice {
    let virtualization = Virtualization::probe();
    let backend = virtualization.backend(wanted);
    let (hypervisor, notice): (Arc<dyn Hypervisor>, _) = match backend {
        Backend::Builtin => (Arc::new(Builtin::new(vmm, virtualization)), None),
        Backend::Qemu(accelerator) => {
            (Arc::new(Qemu::new(qemu, vmm, accelerator)), virtualization.unfit().map(notice))
        }
    };
    Choice { hypervisor, name: backend.as_str(), notice }
}

fn notice(why: String) -> String {
    format!(
        "pods run in software emulation because {why}: it is for trying out and for tests, isolates through an \
         emulator and is slow"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn virtualization(cpu_flag: Option<&str>, kvm_error: Option<&str>) -> Virtualization {
        Virtualization { cpu_flag: cpu_flag.map(str::to_owned), kvm_error: kvm_error.map(str::to_owned) }
    }

    #[test]
    fn hardware_virtualization_needs_no_notice() {
        assert_eq!(virtualization(Some("vmx"), None).unfit(), None);
    }

    #[test]
    fn a_kvm_device_without_cpu_support_is_not_enough() {
        let notice = notice(virtualization(None, None).unfit().unwrap());
        assert!(notice.contains("neither VMX nor SVM"), "{notice}");
    }

    #[test]
    fn the_reason_why_kvm_does_not_open_is_told() {
        let notice = notice(virtualization(Some("svm"), Some("Permission denied")).unfit().unwrap());
        assert!(notice.contains("Permission denied"), "{notice}");
    }
}
