//! Facts about this machine, for `coffer check` and for choosing a hypervisor. Data only: what to make of it, and
//! how to say it, is the caller's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::statvfs;
use rustix::system::uname;
use serde::Serialize;

use crate::config::{Config, HypervisorChoice};
use crate::net::{self, NetAbilities};

/// Sockets on which containerd usually listens.
const CONTAINERD_SOCKETS: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/docker/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
];

/// Everything that `coffer check` looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Release of the running kernel.
    pub kernel: String,
    /// What it offers for running guests.
    pub virtualization: Virtualization,
    /// How a guest's code would run.
    pub accelerator: Accelerator,
    /// What its network can do.
    pub network: NetAbilities,
    /// QEMU.
    pub qemu: Tool,
    /// The converter of layers.
    pub mkfs_erofs: Tool,
    /// The maker of scratch disks.
    pub mkfs_ext4: Tool,
    /// The device process.
    pub vmm: Tool,
    /// containerd's binary.
    pub containerd: Tool,
    /// containerd's sockets that are there.
    pub containerd_sockets: Vec<PathBuf>,
    /// The guest image's manifest, if it is there.
    pub guest_manifest: Option<PathBuf>,
    /// Bytes free for layers.
    pub layers_free_bytes: Option<u64>,
    /// Which cgroup versions are mounted.
    pub cgroups: Cgroups,
}

/// What the CPU and kernel offer for running guests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Virtualization {
    /// `vmx` or `svm` where the CPU has it.
    pub cpu_flag: Option<String>,
    /// Why `/dev/kvm` cannot be opened; `None`: it can.
    pub kvm_error: Option<String>,
}

/// How a guest's code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// By the CPU, through KVM.
    Kvm,
    /// By software emulation: for trying out and for tests; slow.
    Tcg,
}

/// What runs the guests of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Our own monitor, on KVM.
    Builtin,
    /// QEMU, on KVM or with software emulation.
    Qemu(Accelerator),
}

/// A program that Coffer needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tool {
    /// Name or path as configured.
    pub name: PathBuf,
    /// Where it was found.
    pub path: Option<PathBuf>,
    /// What it says its version is.
    pub version: Option<String>,
}

/// Mounted cgroup hierarchies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cgroups {
    /// Version 2 with controllers.
    V2,
    /// Version 1, perhaps with an empty version 2 beside it.
    V1,
    /// None.
    None,
}

impl Host {
    /// Looks at everything; runs each tool once for its version. Needs root for a complete answer.
    pub fn probe(config: &Config) -> Self {
        let virtualization = Virtualization::probe();
        let manifest = config.guest_dir.join("manifest.json");
        Host {
            kernel: uname().release().to_string_lossy().into_owned(),
            accelerator: virtualization.accelerator(),
            virtualization,
            network: net::probe(),
            qemu: Tool::probe(&config.qemu, "--version"),
            mkfs_erofs: Tool::probe(Path::new("mkfs.erofs"), "-V"),
            mkfs_ext4: Tool::probe(Path::new("mkfs.ext4"), "-V"),
            vmm: Tool::probe(&config.vmm, "--version"),
            containerd: Tool::probe(Path::new("containerd"), "--version"),
            containerd_sockets: CONTAINERD_SOCKETS
                .map(PathBuf::from)
                .into_iter()
                .filter(|path| path.exists())
                .collect(),
            guest_manifest: manifest.is_file().then_some(manifest),
            layers_free_bytes: free_bytes(&config.layers_dir),
            cgroups: Cgroups::probe(),
        }
    }
}

impl Virtualization {
    /// Asks CPU and kernel.
    pub fn probe() -> Self {
        let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let opened = fs::File::options().read(true).write(true).open("/dev/kvm");
        Virtualization { cpu_flag: cpu_flag(&cpu_info), kvm_error: opened.err().map(|err| err.to_string()) }
    }

    /// KVM only where the CPU itself virtualizes: a `/dev/kvm` without VMX or SVM is an emulation that an ordinary
    /// kernel does not survive.
    pub fn accelerator(&self) -> Accelerator {
        match (&self.cpu_flag, &self.kvm_error) {
            (Some(_), None) => Accelerator::Kvm,
            _ => Accelerator::Tcg,
        }
    }

    /// What runs the guests where the configuration says `wanted`. What is asked for by name is taken at its word:
    /// whether it can run is for whoever starts it to say.
    pub fn backend(&self, wanted: HypervisorChoice) -> Backend {
        match (wanted, self.accelerator()) {
            (HypervisorChoice::Builtin, _) | (HypervisorChoice::Auto, Accelerator::Kvm) => Backend::Builtin,
            (HypervisorChoice::Auto | HypervisorChoice::Qemu, accelerator) => Backend::Qemu(accelerator),
        }
    }

    /// Why an ordinary kernel cannot run on KVM here; `None`: it can.
    pub fn unfit(&self) -> Option<String> {
        match (&self.cpu_flag, &self.kvm_error) {
            (None, _) => Some("the CPU offers neither VMX nor SVM".to_owned()),
            (Some(flag), Some(error)) => {
                Some(format!("the CPU has {flag}, but /dev/kvm cannot be used ({error})"))
            }
            (Some(_), None) => None,
        }
    }
}

impl Backend {
    /// Its name in records, traces and `coffer check`.
    pub fn as_str(self) -> &'static str {
        match self {
            Backend::Builtin => "builtin",
            Backend::Qemu(Accelerator::Kvm) => "qemu-kvm",
            Backend::Qemu(Accelerator::Tcg) => "qemu-tcg",
        }
    }
}

impl Accelerator {
    /// The name that QEMU knows it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

impl Tool {
    /// Finds a program and asks it for its version with `flag`.
    pub fn probe(name: &Path, flag: &str) -> Self {
        let path = find_program(name);
        let version = path.as_deref().and_then(|path| version_of(path, flag));
        Tool { name: name.to_owned(), path, version }
    }
}

impl Cgroups {
    fn probe() -> Self {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if table.lines().any(|line| line.contains(" - cgroup ")) {
            return Cgroups::V1;
        }
        if table.lines().any(|line| line.contains(" - cgroup2 ")) { Cgroups::V2 } else { Cgroups::None }
    }
}

/// Looks a program up in PATH, and in the usual directories, which a service's PATH may lack.
pub fn find_program(name: &Path) -> Option<PathBuf> {
    if name.is_absolute() {
        return name.is_file().then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual =
        ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The first number of a version text: `QEMU emulator version 7.2.11 (…)` → `[7, 2, 11]`.
pub fn version_numbers(text: &str) -> Vec<u32> {
    let words = text.split(|c: char| c.is_whitespace() || c == ',' || c == '(' || c == '~');
    let mut versions = words
        .map(|word| word.trim_start_matches('v'))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'));
    let version = versions.next().unwrap_or_default();
    version
        .split('.')
        .map_while(|part| part.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
        .collect()
}

fn cpu_flag(cpu_info: &str) -> Option<String> {
    let flags = cpu_info.lines().find(|line| line.starts_with("flags"))?;
    flags.split_ascii_whitespace().find(|flag| matches!(*flag, "vmx" | "svm")).map(str::to_owned)
}

fn version_of(path: &Path, flag: &str) -> Option<String> {
    let output = Command::new(path).arg(flag).stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .find(|line| !version_numbers(line).is_empty())
        .map(|line| line.trim().chars().take(200).collect())
}

/// Of the file system that the nearest existing parent is on.
fn free_bytes(dir: &Path) -> Option<u64> {
    let existing = dir.ancestors().find(|parent| parent.exists())?;
    let stat = statvfs(existing).map_err(io::Error::from).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn virtualization(cpu_flag: Option<&str>, kvm_error: Option<&str>) -> Virtualization {
        Virtualization { cpu_flag: cpu_flag.map(str::to_owned), kvm_error: kvm_error.map(str::to_owned) }
    }

    #[test]
    fn kvm_is_chosen_where_the_cpu_virtualizes() {
        assert_eq!(virtualization(Some("svm"), None).accelerator(), Accelerator::Kvm);
    }

    #[test]
    fn a_kvm_device_without_a_cpu_behind_it_is_not_trusted() {
        assert_eq!(virtualization(None, None).accelerator(), Accelerator::Tcg);
    }

    #[test]
    fn a_closed_kvm_device_means_emulation() {
        assert_eq!(virtualization(Some("vmx"), Some("Permission denied")).accelerator(), Accelerator::Tcg);
    }

    #[test]
    fn a_flag_is_found_as_a_whole_word() {
        assert_eq!(cpu_flag("flags\t\t: fpu vmx_x sse svm\n"), Some("svm".to_owned()));
        assert_eq!(cpu_flag("flags\t\t: fpu xsvm\n"), None);
    }

    #[test]
    fn versions_are_read_out_of_what_tools_print() {
        assert_eq!(version_numbers("QEMU emulator version 7.2.11 (Debian 1:7.2)"), [7, 2, 11]);
        assert_eq!(version_numbers("mkfs.erofs 1.5"), [1, 5]);
        assert_eq!(version_numbers("mke2fs 1.47.0 (5-Feb-2023)"), [1, 47, 0]);
        assert_eq!(
            version_numbers("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1"),
            [1, 6, 20]
        );
        assert_eq!(version_numbers("containerd containerd.io v2.1.9 abc"), [2, 1, 9]);
    }

    #[test]
    fn a_program_is_found_beside_a_poor_path() {
        assert!(find_program(Path::new("sh")).is_some());
        assert_eq!(find_program(Path::new("/nonexistent/tool")), None);
    }

    #[test]
    fn this_machine_is_described() {
        let host = Host::probe(&Config::default());
        assert!(host.mkfs_erofs.version.is_some_and(|version| !version_numbers(&version).is_empty()));
        assert_ne!(host.cgroups, Cgroups::None);
    }
}
