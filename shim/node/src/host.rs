//! Facts about this machine, for `coffer check` and for choosing a hypervisor. Data only; nothing is printed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

/// What the CPU and kernel offer for running guests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Virtualization {
    /// `vmx` or `svm` where the CPU has it.
    pub cpu_flag: Option<String>,
    /// Why `/dev/kvm` cannot be used; `None`: it opens and answers.
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

impl Virtualization {
    /// Asks CPU and kernel.
    pub fn probe() -> Self {
        let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Virtualization {
            cpu_flag: cpu_flag(&cpu_info),
            kvm_error: kvm_error().err().map(|err| err.to_string()),
        }
    }

    /// KVM only where the CPU itself virtualizes: a `/dev/kvm` without VMX or SVM is an emulation that an ordinary
    /// kernel does not survive.
    pub fn accelerator(&self) -> Accelerator {
        match (&self.cpu_flag, &self.kvm_error) {
            (Some(_), None) => Accelerator::Kvm,
            _ => Accelerator::Tcg,
        }
    }
}

fn cpu_flag(cpu_info: &str) -> Option<String> {
    let flags = cpu_info.lines().find(|line| line.starts_with("flags"))?;
    flags.split_ascii_whitespace().find(|flag| matches!(*flag, "vmx" | "svm")).map(str::to_owned)
}

fn kvm_error() -> io::Result<()> {
    fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop)
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

/// Looks a program up in PATH (and in the sbin directories, which a service's PATH may lack).
pub fn find_program(name: &Path) -> Option<PathBuf> {
    if name.is_absolute() {
        return name.is_file().then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual =
        ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|file| file.is_file())
}

impl Tool {
    /// Finds a program and asks it for its version with `flag`.
    pub fn probe(name: &Path, flag: &str) -> Self {
        let path = find_program(name);
        let version = path.as_deref().and_then(|path| version_of(path, flag));
        Tool { name: name.to_owned(), path, version }
    }
}

fn version_of(path: &Path, flag: &str) -> Option<String> {
    let output = Command::new(path).arg(flag).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().find(|line| line.bytes().any(|b| b.is_ascii_digit())).map(|line| line.trim().to_owned())
}
