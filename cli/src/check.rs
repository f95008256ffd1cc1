//! `coffer check`: each thing a node needs, whether it is there, and what to do where it is not.

use std::path::Path;

use coffer_guest_image::manifest::Manifest;
use coffer_node::config::{Config, Scratch};
use coffer_node::host::{Accelerator, Tool, Virtualization};
use serde::Serialize;

use crate::{Health, output};

/// How one check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Missing,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    /// What to do; empty when nothing.
    advice: String,
}

/// Runs every check and prints them.
pub(crate) fn run(config: &Config, json: bool) -> anyhow::Result<Health> {
    let findings = findings(config);
    if json {
        output::json(&findings)?;
    } else {
        let rows: Vec<Vec<String>> = findings.iter().map(row).collect();
        output::table(&["CHECK", "VERDICT", "FOUND"], &rows)?;
        for finding in findings.iter().filter(|finding| !finding.advice.is_empty()) {
            println!("\n{}: {}", finding.check, finding.advice);
        }
    }
    let missing = findings.iter().any(|finding| finding.verdict == Verdict::Missing);
    Ok(if missing { Health::Amiss } else { Health::Well })
}

fn row(finding: &Finding) -> Vec<String> {
    let verdict = match finding.verdict {
        Verdict::Ok => "ok",
        Verdict::Warning => "warning",
        Verdict::Missing => "MISSING",
    };
    vec![finding.check.to_owned(), verdict.to_owned(), finding.found.clone()]
}

fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        virtualization(&Virtualization::probe()),
        tool("qemu", &config.qemu, "install Debian's package qemu-system-x86, or set paths.qemu"),
        program("coffer-vmm", &config.vmm),
        tool(
            "mkfs.erofs",
            Path::new("mkfs.erofs"),
            "install Debian's package erofs-utils: layers are made with it",
        ),
        guest_image(&config.guest_dir),
        device(
            "tun",
            "/dev/net/tun",
            "load the kernel module tun: pods get their network through tap devices",
        ),
        tool("nft", Path::new("nft"), "install Debian's package nftables: port-forward into a pod needs it"),
    ];
    if matches!(config.scratch, Scratch::Disk { .. }) {
        let advice = "install Debian's package e2fsprogs, or set scratch to tmpfs";
        findings.push(tool("mkfs.ext4", Path::new("mkfs.ext4"), advice));
    }
    findings.push(containerd());
    findings
}

/// Explains which hypervisor `auto` picks, and why.
fn virtualization(virtualization: &Virtualization) -> Finding {
    let flag = virtualization.cpu_flag.as_deref();
    let (verdict, found, advice) = match (virtualization.accelerator(), flag, &virtualization.kvm_error) {
        (Accelerator::Kvm, flag, _) => {
            (Verdict::Ok, format!("CPU has {}, /dev/kvm answers", flag.unwrap_or("virtualization")), String::new())
        }
        (Accelerator::Tcg, None, _) => (
            Verdict::Warning,
            "the CPU offers neither VMX nor SVM: pods run in software emulation".to_owned(),
            "software emulation is for trying out and for tests: it isolates through an emulator and is slow. Use a \
             machine with hardware virtualization, or enable nested virtualization for this one"
                .to_owned(),
        ),
        (Accelerator::Tcg, Some(flag), error) => (
            Verdict::Warning,
            format!("CPU has {flag}, but /dev/kvm: {}", error.as_deref().unwrap_or("does not answer")),
            "load kvm-intel or kvm-amd, and give root access to /dev/kvm; until then pods run in software emulation"
                .to_owned(),
        ),
    };
    Finding { check: "virtualization", verdict, found, advice }
}

fn tool(check: &'static str, name: &Path, advice: &str) -> Finding {
    let tool = Tool::probe(name, "--version");
    match tool.path {
        Some(path) => {
            let version = tool.version.map(|version| format!(": {version}")).unwrap_or_default();
            ok(check, format!("{}{version}", path.display()))
        }
        None => missing(check, format!("{} is not in PATH", name.display()), advice),
    }
}

fn program(check: &'static str, path: &Path) -> Finding {
    match path.is_file() {
        true => ok(check, path.display().to_string()),
        false => missing(
            check,
            format!("{} is not there", path.display()),
            "run `coffer install`, or set paths.vmm",
        ),
    }
}

fn guest_image(dir: &Path) -> Finding {
    match Manifest::load(dir) {
        Ok(image) => {
            ok("guest image", format!("{} (kernel {})", dir.display(), image.manifest.kernel.release))
        }
        Err(err) => missing(
            "guest image",
            err.to_string(),
            "build one with `coffer-guest-image build` and run `coffer install`, or set paths.guest",
        ),
    }
}

fn device(check: &'static str, path: &str, advice: &str) -> Finding {
    match std::fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => ok(check, path.to_owned()),
        Err(err) => missing(check, format!("{path}: {err}"), advice),
    }
}

fn containerd() -> Finding {
    let tool = Tool::probe(Path::new("containerd"), "--version");
    match (tool.path, tool.version) {
        (Some(_), Some(version)) => ok("containerd", version),
        (Some(path), None) => ok("containerd", path.display().to_string()),
        (None, _) => Finding {
            check: "containerd",
            verdict: Verdict::Warning,
            found: "not in PATH".to_owned(),
            advice: "Coffer is a runtime of containerd 1.6 or later; fine if yours lives elsewhere"
                .to_owned(),
        },
    }
}

fn ok(check: &'static str, found: String) -> Finding {
    Finding { check, verdict: Verdict::Ok, found, advice: String::new() }
}

fn missing(check: &'static str, found: String, advice: &str) -> Finding {
    Finding { check, verdict: Verdict::Missing, found, advice: advice.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kvm_device_without_cpu_support_is_explained_as_software_emulation() {
        let finding = virtualization(&Virtualization { cpu_flag: None, kvm_error: None });
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.advice.contains("software emulation"));
    }

    #[test]
    fn a_cpu_with_svm_and_a_device_that_opens_is_well() {
        let finding = virtualization(&Virtualization { cpu_flag: Some("svm".to_owned()), kvm_error: None });
        assert_eq!(finding.verdict, Verdict::Ok);
    }

    #[test]
    fn a_missing_tool_names_the_package_to_install() {
        let finding = tool("x", Path::new("coffer-no-such-program"), "install Debian's package x");
        assert_eq!(finding.verdict, Verdict::Missing);
        assert_eq!(finding.advice, "install Debian's package x");
    }
}
