//! Other monitors, each by one line: what is started, with places for what differs from guest to guest.
//!
//! | place | what |
//! |---|---|
//! | `{kernel}`, `{initrd}`, `{cmdline}` | what is booted |
//! | `{mib}` | memory |
//! | `{disk}`, `{tap}` | a file that may only be read, the name of a tap that is there |
//! | `{dir}` | a directory for the monitor's own files |
//! | `{config}` | the file that the monitor's configuration is written to, with places of its own |
//!
//! What is between `<pod>` and `</pod>` is for guests with a pod's devices. The guest's first serial port must come out at
//! the monitor's standard output. A monitor of others is never part of this repository: its program is given by a path.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Where QEMU's own files are in the nested machine.
const QEMU: &str = "/bench/qemu";

/// A monitor to be compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// Its name in the table.
    pub(super) name: String,
    /// Its program on this machine.
    pub(super) program: PathBuf,
    /// Program and arguments.
    pub(super) line: String,
    /// What is written to its configuration file.
    pub(super) config: String,
}

impl Monitor {
    fn new(name: &str, program: &Path, arguments: &str, config: &str) -> Monitor {
        Monitor {
            name: name.to_owned(),
            program: program.to_owned(),
            line: format!("/bench/bin/{name} {arguments}"),
            config: config.to_owned(),
        }
    }

    /// Debian's QEMU with its smallest machine.
    pub(super) fn qemu() -> Monitor {
        let arguments = format!(
            "-L {QEMU} -M microvm,acpi=off,rtc=on -enable-kvm -cpu host -smp 1 -m {{mib}} -nodefaults -no-user-config \
             -display none -no-reboot -serial stdio -kernel {{kernel}} -initrd {{initrd}} -append {{cmdline}} <pod>\
             -drive id=d,file={{disk}},format=raw,if=none,readonly=on -device virtio-blk-device,drive=d \
             -device vhost-vsock-device,guest-cid=5 -netdev tap,id=n,ifname={{tap}},script=no,downscript=no \
             -device virtio-net-device,netdev=n</pod>"
        );
        Monitor::new("qemu-microvm", Path::new("/usr/bin/qemu-system-x86_64"), &arguments, "")
    }

    /// Firecracker, whose program is at `program`.
    pub fn firecracker(program: &Path) -> Monitor {
        let config = r#"{"boot-source":{"kernel_image_path":"{kernel}","initrd_path":"{initrd}",
            "boot_args":"{cmdline} pci=off i8042.noaux i8042.nomux i8042.dumbkbd"},
            "drives":[<pod>{"drive_id":"d","path_on_host":"{disk}","is_root_device":false,"is_read_only":true}</pod>],
            "machine-config":{"vcpu_count":1,"mem_size_mib":{mib}}<pod>,
            "network-interfaces":[{"iface_id":"n","host_dev_name":"{tap}"}],
            "vsock":{"guest_cid":3,"uds_path":"{dir}/vsock"}</pod>}"#;
        let arguments = "--no-api --no-seccomp --level Error --config-file {config}";
        Monitor::new("firecracker", program, arguments, config)
    }

    /// cloud-hypervisor, whose program is at `program`.
    pub fn cloud_hypervisor(program: &Path) -> Monitor {
        let arguments = "--kernel {kernel} --initramfs {initrd} --cmdline {cmdline} --cpus boot=1 --memory size={mib}M \
             --serial tty --console off <pod>--disk path={disk},readonly=on --vsock cid=4,socket={dir}/vsock \
             --net tap={tap}</pod>";
        Monitor::new("cloud-hypervisor", program, arguments, "")
    }

    /// One that somebody describes: `NAME PROGRAM ARGUMENTS`.
    pub fn described(line: &str) -> Result<Monitor> {
        let (name, rest) = line.trim().split_once(' ').context("a monitor is NAME PROGRAM ARGUMENTS")?;
        let (program, arguments) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            bail!("a monitor's name is made of letters, digits and '-', not {name:?}");
        }
        Ok(Monitor::new(name, Path::new(program), arguments, ""))
    }
}

/// Files that QEMU's smallest machine reads when it starts, by their places on a Debian.
pub(super) const QEMU_FILES: &[&str] = &[
    "/usr/share/seabios/bios-microvm.bin",
    "/usr/share/qemu/qboot.rom",
    "/usr/share/qemu/pvh.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/kvmvapic.bin",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_a_name_a_program_and_the_rest() {
        let monitor = Monitor::described("small /opt/small --kernel {kernel} --memory {mib}\n").unwrap();
        assert_eq!((monitor.name.as_str(), monitor.program.as_path()), ("small", Path::new("/opt/small")));
        assert_eq!(monitor.line, "/bench/bin/small --kernel {kernel} --memory {mib}");
    }

    #[test]
    fn a_name_that_is_a_path_is_refused() {
        assert!(Monitor::described("../x /opt/small").is_err());
        assert!(Monitor::described("small").is_err());
    }
}
