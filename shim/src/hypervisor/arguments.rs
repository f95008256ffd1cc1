//! QEMU's command line: what the machine is made of, and nothing that it does not need.

use std::ffi::OsString;
use std::os::fd::RawFd;

use coffer_node::host::Accelerator;
use coffer_vmm::spec::VmSpec;

/// Id of the SCSI controller that all disks are on.
pub(super) const CONTROLLER: &str = "disks";

/// Paths of kernel and initrd in QEMU's own root directory.
pub(super) const KERNEL: &str = "/kernel";
/// See [`KERNEL`].
pub(super) const INITRD: &str = "/initrd";

/// Translated code is kept in at most so many MiB: QEMU's own choice is up to a gigabyte per machine.
const TRANSLATED_MIB: u32 = 64;

/// Descriptors that QEMU inherits.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// Socket of the machine protocol.
    pub(super) qmp: RawFd,
    /// Socket to the vsock device.
    pub(super) vsock: RawFd,
    /// One tap per interface, in order.
    pub(super) taps: Vec<RawFd>,
}

/// The arguments for this machine. Disks are added later, over the machine protocol, all in the same way.
pub(super) fn arguments(spec: &VmSpec, accelerator: Accelerator, files: &Files) -> Vec<OsString> {
    let memory = spec.memory_mib;
    let mut line = Line(Vec::new());
    line.add("-name", format!("guest={},debug-threads=on", plain(&spec.id)));
    machine(&mut line, accelerator);
    line.add("-smp", spec.vcpus.to_string());
    line.add("-m", format!("{memory}M"));
    // Shared, because the vsock device's process maps it too.
    line.add("-object", format!("memory-backend-memfd,id=memory,size={memory}M,share=on"));
    for switch in ["-nodefaults", "-no-user-config", "-no-reboot", "-S"] {
        line.switch(switch);
    }
    line.add("-display", "none");
    line.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    line.add("-global", "virtio-mmio.force-legacy=false");
    line.add("-kernel", KERNEL);
    line.add("-initrd", INITRD);
    line.add("-append", spec.cmdline.clone());
    line.add("-chardev", "stdio,id=console,signal=off");
    line.add("-serial", "chardev:console");
    line.add("-chardev", format!("socket,id=qmp,fd={}", files.qmp));
    line.add("-mon", "chardev=qmp,mode=control");
    devices(&mut line, spec, files);
    line.0
}

fn machine(line: &mut Line, accelerator: Accelerator) {
    // The timer (pit) and its interrupt controller (pic) stay: without them a kernel under emulation finds no clock.
    line.add("-M", "microvm,acpi=off,rtc=on,isa-serial=on,auto-kernel-cmdline=on,memory-backend=memory");
    match accelerator {
        Accelerator::Kvm => {
            line.add("-accel", "kvm");
            line.add("-cpu", "host");
        }
        Accelerator::Tcg => {
            line.add("-accel", format!("tcg,thread=multi,tb-size={TRANSLATED_MIB}"));
            line.add("-cpu", "max");
        }
    }
}

fn devices(line: &mut Line, spec: &VmSpec, files: &Files) {
    line.add("-device", format!("virtio-scsi-device,id={CONTROLLER}"));
    line.add("-chardev", format!("socket,id=vsock,fd={}", files.vsock));
    line.add("-device", "vhost-user-vsock-device,chardev=vsock");
    line.add("-object", "rng-builtin,id=random");
    line.add("-device", "virtio-rng-device,rng=random");
    for (index, (nic, tap)) in spec.nics.iter().zip(&files.taps).enumerate() {
        let [a, b, c, d, e, f] = nic.mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        line.add("-netdev", format!("tap,id=net{index},fd={tap},vhost=off"));
        line.add("-device", format!("virtio-net-device,netdev=net{index},mac={mac},host_mtu={}", nic.mtu));
    }
}

/// Only what cannot be taken for the separator of QEMU's option lists.
fn plain(id: &str) -> String {
    id.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).collect()
}

struct Line(Vec<OsString>);

impl Line {
    fn switch(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn add(&mut self, name: &str, value: impl Into<OsString>) {
        self.switch(name);
        self.0.push(value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coffer_vmm::spec::Nic;
    use std::fs::File;

    fn spec() -> VmSpec {
        VmSpec {
            id: "pod,1".to_owned(),
            kernel: "/k".into(),
            initrd: "/i".into(),
            cmdline: "console=ttyS0".to_owned(),
            vcpus: 2,
            memory_mib: 300,
            disks: Vec::new(),
            nics: vec![Nic {
                tap: File::open("/dev/null").unwrap().into(),
                more: Vec::new(),
                mac: [2, 0, 0, 0, 0, 10],
                mtu: 1450,
            }],
            limits: coffer_vmm::spec::Limits::default(),
            run_dir: "/run".into(),
            uid: 7,
            cgroup_procs: Vec::new(),
        }
    }

    fn line(accelerator: Accelerator) -> Vec<String> {
        let files = Files { qmp: 10, vsock: 11, taps: vec![12] };
        arguments(&spec(), accelerator, &files).into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn a_comma_in_the_id_does_not_become_an_option() {
        assert!(line(Accelerator::Tcg).contains(&"guest=pod1,debug-threads=on".to_owned()));
    }

    #[test]
    fn an_interface_has_its_address_and_mtu() {
        let device = "virtio-net-device,netdev=net0,mac=02:00:00:00:00:0a,host_mtu=1450".to_owned();
        assert!(line(Accelerator::Tcg).contains(&device));
    }

    #[test]
    fn the_guest_does_not_run_before_it_is_told_to() {
        assert!(line(Accelerator::Tcg).contains(&"-S".to_owned()));
    }

    #[test]
    fn the_host_cpu_is_passed_on_only_with_kvm() {
        assert!(line(Accelerator::Kvm).contains(&"host".to_owned()));
        assert!(!line(Accelerator::Tcg).contains(&"host".to_owned()));
    }
}
