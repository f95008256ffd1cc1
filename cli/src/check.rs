//! `coffer check`: each thing a node needs, whether it is there, and what to do where it is not.

use std::path::Path;

use coffer_guest_image::manifest::Manifest;
use coffer_node::config::{Config, HypervisorChoice, Scratch};
use coffer_node::host::{Backend, Tool, Virtualization, find_program};
use coffer_node::images::read_policy;
use serde::Serialize;

use crate::install::DECODER;
use crate::{Health, output};

/// Who is kept from io_uring: nobody (0), who has no right to it (1), which a monitor has when it makes its ring, everybody (2).
const IO_URING: &str = "/proc/sys/kernel/io_uring_disabled";

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
    let virtualization = Virtualization::probe();
    let mut findings = vec![
        hypervisor(config.hypervisor, &virtualization),
        qemu(config, virtualization.backend(config.hypervisor)),
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
        let advice = "install Debian's package e2fsprogs, or set scratch.kind to encrypted or tmpfs";
        findings.push(tool("mkfs.ext4", Path::new("mkfs.ext4"), advice));
    }
    findings.push(ok("scratch", scratch(config.scratch)));
    if matches!(virtualization.backend(config.hypervisor), Backend::Builtin) {
        findings.push(io_uring(std::fs::read_to_string(IO_URING).ok().as_deref()));
    }
    if config.limits != Default::default() {
        findings.push(limits(virtualization.backend(config.hypervisor)));
    }
    findings.extend(config.images.policy.as_deref().map(image_policy));
    findings.push(containerd());
    findings.push(encrypted_layers());
    findings
}

/// Explains which hypervisor runs the pods here, and why.
fn hypervisor(wanted: HypervisorChoice, virtualization: &Virtualization) -> Finding {
    let backend = virtualization.backend(wanted);
    let finding = |verdict, why: &str, advice: &str| Finding {
        check: "hypervisor",
        verdict,
        found: format!("{}: {why}", backend.as_str()),
        advice: advice.to_owned(),
    };
    match (virtualization.unfit(), backend) {
        (None, _) => {
            let flag = virtualization.cpu_flag.as_deref().unwrap_or("virtualization");
            finding(Verdict::Ok, &format!("the CPU has {flag}, and /dev/kvm answers"), "")
        }
        (Some(why), Backend::Builtin) => finding(
            Verdict::Missing,
            &format!("asked for by the configuration, but {why}"),
            "enable virtualization (nested, if this is a virtual machine), load kvm-intel or kvm-amd, and give root \
             access to /dev/kvm; or set hypervisor to \"auto\"",
        ),
        (Some(why), Backend::Qemu(_)) => finding(
            Verdict::Warning,
            &format!("{why}, so pods run in software emulation"),
            "software emulation is for trying out and for tests: it isolates through an emulator and is slow. Use a \
             machine with hardware virtualization, or enable nested virtualization for this one; load kvm-intel or \
             kvm-amd, and give root access to /dev/kvm",
        ),
    }
}

/// Who unpacks encrypted layers, as the guests that have their keys do not on the node.
fn encrypted_layers() -> Finding {
    let check = "encrypted layers";
    if find_program(Path::new(DECODER)).is_none() {
        return ok(check, "containerd unpacks placeholders, by the drop-in of `coffer install`".to_owned());
    }
    Finding {
        check,
        verdict: Verdict::Warning,
        found: format!("{DECODER} is there, and is what containerd runs for them"),
        advice: format!(
            "images of `coffer image encrypt` cannot be pulled here: {DECODER} asks the node for keys, which only guests get. \
             Remove it and run `coffer install` again, unless other runtimes on this node need it"
        ),
    }
}

/// QEMU, which only a node that uses it needs.
fn qemu(config: &Config, backend: Backend) -> Finding {
    let found = tool("qemu", &config.qemu, "install Debian's package qemu-system-x86, or set paths.qemu");
    match (backend, found.verdict) {
        (Backend::Builtin, Verdict::Missing) => ok("qemu", "not there, and not needed".to_owned()),
        _ => found,
    }
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

/// Whether pods could be given the node's policy; it may name no files, which guests do not have.
fn image_policy(path: &Path) -> Finding {
    let advice = "see `coffer image policy explain --policy FILE`; pods are refused until it is right";
    match read_policy(path).map_err(anyhow::Error::new) {
        Ok(_) => ok("image policy", path.display().to_string()),
        Err(err) => missing("image policy", format!("{err:#}"), advice),
    }
}

/// Whether machines of coffer-vmm may wait for a disk beside everything else: `setting` is what the kernel says of who is kept from
/// that, from Linux 6.6 on.
fn io_uring(setting: Option<&str>) -> Finding {
    let check = "io_uring";
    match setting.map(str::trim) {
        None | Some("0" | "1") => ok(check, "a disk that is slow holds up nothing else of its pod".to_owned()),
        Some(kept) => Finding {
            check,
            verdict: Verdict::Warning,
            found: format!("kernel.io_uring_disabled is {kept}"),
            advice: "a disk that is slow holds up network and other disks of its pod; set kernel.io_uring_disabled to 1 or 0, and \
                     each machine makes one ring before it gives up its rights, which can read, write and flush only"
                .to_owned(),
        },
    }
}

/// Whether what runs pods keeps them to the node's limits of disks and interfaces, where there are any.
fn limits(backend: Backend) -> Finding {
    match backend {
        Backend::Builtin => ok("limits", "kept for each pod by coffer-vmm".to_owned()),
        Backend::Qemu(_) => missing(
            "limits",
            "set, but pods run on QEMU, which keeps none".to_owned(),
            "every pod is refused until this node runs coffer-vmm (see hypervisor) or [limits] is taken out of the configuration",
        ),
    }
}

/// Where what pods write goes.
fn scratch(scratch: Scratch) -> String {
    match scratch {
        Scratch::Tmpfs => "each guest's memory".to_owned(),
        Scratch::Disk { bytes } => format!("{} MiB on the node for each pod, in plain text", bytes >> 20),
        Scratch::Encrypted { bytes } => {
            format!("{} MiB on the node for each pod, encrypted by its guest", bytes >> 20)
        }
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

    fn virtualization(cpu_flag: Option<&str>, kvm_error: Option<&str>) -> Virtualization {
        Virtualization { cpu_flag: cpu_flag.map(str::to_owned), kvm_error: kvm_error.map(str::to_owned) }
    }

    #[test]
    fn a_kvm_device_without_cpu_support_is_explained_as_software_emulation() {
        let finding = hypervisor(HypervisorChoice::Auto, &virtualization(None, None));
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.found.starts_with("qemu-tcg: the CPU offers neither"), "{}", finding.found);
        assert!(finding.advice.contains("software emulation"));
    }

    #[test]
    fn a_cpu_with_svm_and_a_device_that_opens_runs_the_built_in_monitor() {
        let finding = hypervisor(HypervisorChoice::Auto, &virtualization(Some("svm"), None));
        assert_eq!(finding.verdict, Verdict::Ok);
        assert_eq!(finding.found, "builtin: the CPU has svm, and /dev/kvm answers");
    }

    #[test]
    fn qemu_that_is_asked_for_runs_where_the_monitor_could() {
        let finding = hypervisor(HypervisorChoice::Qemu, &virtualization(Some("vmx"), None));
        assert!(finding.found.starts_with("qemu-kvm: "), "{}", finding.found);
    }

    #[test]
    fn a_node_that_keeps_machines_from_io_uring_is_told_what_that_costs() {
        assert_eq!(io_uring(None).verdict, Verdict::Ok);
        assert_eq!(["0\n", "1\n"].map(|setting| io_uring(Some(setting)).verdict), [Verdict::Ok; 2]);
        let kept = io_uring(Some("2\n"));
        assert_eq!((kept.verdict, kept.found.as_str()), (Verdict::Warning, "kernel.io_uring_disabled is 2"));
    }

    #[test]
    fn limits_that_nothing_would_keep_are_amiss() {
        let finding = limits(virtualization(None, None).backend(HypervisorChoice::Auto));
        assert_eq!(finding.verdict, Verdict::Missing);
        assert!(finding.advice.contains("coffer-vmm"), "{}", finding.advice);
        let finding = limits(virtualization(Some("vmx"), None).backend(HypervisorChoice::Auto));
        assert_eq!(finding.verdict, Verdict::Ok);
    }

    #[test]
    fn an_encrypted_scratch_is_called_so() {
        assert_eq!(
            scratch(Scratch::Encrypted { bytes: 1 << 30 }),
            "1024 MiB on the node for each pod, encrypted by its guest"
        );
        assert!(scratch(Scratch::Disk { bytes: 1 << 30 }).ends_with("in plain text"));
    }

    #[test]
    fn a_monitor_that_is_asked_for_and_cannot_run_is_amiss() {
        let finding =
            hypervisor(HypervisorChoice::Builtin, &virtualization(Some("svm"), Some("Permission denied")));
        assert_eq!(finding.verdict, Verdict::Missing);
        assert!(finding.found.contains("Permission denied"), "{}", finding.found);
    }

    #[test]
    fn a_missing_tool_names_the_package_to_install() {
        let finding = tool("x", Path::new("coffer-no-such-program"), "install Debian's package x");
        assert_eq!(finding.verdict, Verdict::Missing);
        assert_eq!(finding.advice, "install Debian's package x");
    }
}
