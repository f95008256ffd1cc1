//! The nested machine as a node: it runs the pods' test suites as they are run outside, with the built-in monitor.
//!
//! Its root file system is this machine's, read-only, with a layer above that is gone at the end. What containerd keeps is on
//! a disk of its own, as on a node.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::initrd;
use super::nested::{Frame, Outcome, Time, boot};
use crate::artefacts::{self, target, workspace};
use crate::packages::{Unpacked, cache, unpacked};
use crate::progress::step;
use crate::run::Run;

/// MiB of memory of the node: containerd, its files in memory, and a dozen pods.
pub(super) const MEMORY: u32 = 6144;

/// Of the disk; it takes no more of the host's than what is written.
const DISK: &str = "16G";

/// The benchmark of a pod's cost, which can run there like a suite.
pub const COST: &str = "coffer-cost";

/// Building the suites.
const BUILD: std::time::Duration = std::time::Duration::from_secs(1800);

/// What is to run on the node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// In this order.
    pub suites: Vec<Suite>,
    /// How the machine's time passes.
    pub time: Time,
    /// Seconds after which the machine is ended.
    pub limit: u32,
    /// Whether it says every now and then which threads are busy.
    pub busy: bool,
}

/// A suite, or a part of it.
#[derive(Clone, Debug, Default)]
pub struct Suite {
    /// Its name as in `tests/tests`, or `coffer-cost`.
    pub name: String,
    /// Only tests whose name contains one of these; none means all.
    pub tests: Vec<String>,
    /// Tests to leave out.
    pub skip: Vec<String>,
    /// Variables of its environment.
    pub variables: Vec<(&'static str, String)>,
}

/// What `full-test` runs, with the newest containerd: a few tests of each suite, and as many rounds of the leftovers' matrix as
/// there are victims. `docs/testing.md` says what all of it takes, by `cargo lab --pods`.
pub fn sample() -> Vec<Suite> {
    let suite = |name: &str, tests: &[&str]| Suite {
        name: name.to_owned(),
        tests: tests.iter().map(|test| format!("{test}::coffer_on_2")).collect(),
        ..Suite::default()
    };
    let ctr = [
        "run_brings_output_and_exit_code",
        "exec_brings_output_and_exit_code",
        "a_terminal_has_the_size_that_it_is_given",
        "a_quota_holds_a_machine_s_processors_and_not_its_devices",
    ];
    let cri = [
        "two_containers_share_network_and_memory_and_nothing_else",
        "the_pod_has_the_address_that_the_network_gave_it",
    ];
    let rounds = vec![("COFFER_ROUNDS", "4".to_owned())];
    vec![
        suite("pods_ctr", &ctr),
        suite("pods_cri", &cri),
        suite("pods_volumes", &["the_node_s_directories_are_seen_with_the_rights_given"]),
        suite("pods_restart", &["pods_outlive_a_killed_containerd"]),
        Suite { variables: rounds, ..suite("pods_leftovers", &["nothing_is_left_whatever_dies_whenever"]) },
    ]
}

/// Runs suites in a nested machine, and shows every line of it.
pub fn run_suites(wanted: &Node) -> Result<Outcome> {
    let coffer = artefacts::coffer()?;
    let testbox = artefacts::testbox()?;
    let init = artefacts::lab()?;
    let kernel = unpacked(Unpacked::LabKernel)?;
    let modules = indexed(&kernel)?;
    let logs = target().join("coffer-test-logs");
    std::fs::create_dir_all(&logs)?;
    let mut told = shown(&[workspace(), &target(), &coffer.binaries, &coffer.guest, &testbox, &cache()]);
    told.extend([format!("modules {}", modules.display()), format!("share logs {}", logs.display())]);
    let variables = [
        ("COFFER_BIN_DIR", coffer.binaries),
        ("COFFER_GUEST_DIR", coffer.guest),
        ("COFFER_TESTBOX", testbox),
        ("COFFER_CACHE", cache()),
        ("CARGO_TARGET_DIR", target()),
    ];
    told.extend(variables.map(|(name, path)| format!("set {name} {}", path.display())));
    let passed_on = ["COFFER_SEED", "COFFER_ROUNDS", "COFFER_PAIR"].into_iter();
    told.extend(passed_on.filter_map(|name| Some(format!("set {name} {}", std::env::var(name).ok()?))));
    told.push("set RUST_BACKTRACE 0".to_owned());
    for suite in &wanted.suites {
        suite.tell(&mut told)?;
    }
    let archive = initrd::build_node(&kernel, &init, &format!("{}\n", told.join("\n")))?;
    let disk = disk()?;
    let devices = [
        "-fsdev local,id=outer,path=/,security_model=none,readonly=on,multidevs=remap",
        "-device virtio-9p-pci,fsdev=outer,mount_tag=outer",
        &format!("-fsdev local,id=logs,path={},security_model=none", logs.display()),
        "-device virtio-9p-pci,fsdev=logs,mount_tag=logs",
        &format!("-drive file={},format=raw,if=none,id=disk,cache=unsafe", disk.path().display()),
        "-device virtio-blk-pci,drive=disk",
    ];
    let devices = devices.iter().flat_map(|words| words.split(' ')).map(str::to_owned).collect();
    boot(
        &kernel,
        &archive,
        &Frame {
            line: (if wanted.busy { "lab.console=1" } else { "" }).to_owned(),
            time: wanted.time,
            memory: MEMORY,
            limit: wanted.limit,
            devices,
        },
    )
}

impl Suite {
    fn tell(&self, told: &mut Vec<String>) -> Result<()> {
        told.extend(self.variables.iter().map(|(name, value)| format!("once {name} {value}")));
        // In the others a test changes its node.
        if ["pods_cri", "pods_ctr", "pods_stdio", "pods_volumes"].contains(&self.name.as_str()) {
            told.push("once COFFER_KEEP_NODE 1".to_owned());
        }
        let mut words = vec!["run".to_owned(), program(&self.name)?.display().to_string()];
        if self.name != COST {
            words.push("--test-threads=1".to_owned());
            words.extend(self.tests.iter().cloned());
            words.extend(self.skip.iter().flat_map(|name| ["--skip".to_owned(), name.clone()]));
        }
        told.push(words.join(" "));
        Ok(())
    }
}

/// Shows the node what of this lies in `/tmp`, which it has one of its own of. Of a file its directory is shown.
fn shown(paths: &[&Path]) -> Vec<String> {
    let mut shown: Vec<&Path> = Vec::new();
    for path in paths.iter().filter(|path| path.starts_with("/tmp")) {
        let directory = if path.is_file() { path.parent().unwrap_or(path) } else { path };
        if !shown.iter().any(|above| directory.starts_with(above)) {
            shown.push(directory);
        }
    }
    shown.iter().map(|path| format!("show {}", path.display())).collect()
}

/// The modules' directory of an unpacked kernel package, with the index that an installation would have made.
fn indexed(kernel: &Path) -> Result<PathBuf> {
    let modules = initrd::only_directory(&kernel.join("lib/modules"))?;
    if !modules.join("modules.dep.bin").exists() {
        let release = modules.file_name().context("a release")?;
        step("indexing the nested machine's modules", || {
            Run::new("/usr/sbin/depmod").arg("-b").arg(kernel).arg(release).text()
        })?;
    }
    Ok(modules)
}

/// An empty file system on a disk that nobody else sees.
fn disk() -> Result<tempfile::NamedTempFile> {
    let disk = tempfile::NamedTempFile::new_in(target())?;
    Run::new("truncate").args(["-s", DISK]).arg(disk.path()).text()?;
    Run::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=1"]).arg(disk.path()).text()?;
    Ok(disk)
}

/// Builds a suite, or the benchmark of a pod's cost, and gives its program.
fn program(suite: &str) -> Result<PathBuf> {
    let wanted: &[&str] = match suite {
        COST => &["build", "--bin"],
        _ => &["test", "--no-run", "--test"],
    };
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let run = Run::new(cargo).directory(workspace()).env("CARGO_TARGET_DIR", target()).limit(BUILD);
    let built = step(&format!("building {suite}"), || {
        run.args(wanted).arg(suite).args(["--quiet", "--message-format=json", "-p", "coffer-tests"]).text()
    })?;
    for line in built.lines() {
        let message: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        if let (Some(path), Some(true)) =
            (message["executable"].as_str(), message["target"]["name"].as_str().map(|name| name == suite))
        {
            return Ok(path.into());
        }
    }
    bail!("cargo built no program for {suite}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_tmp_is_shown_once() {
        let paths = ["/tmp/clone", "/tmp/clone/target", "/root/programs", "/tmp/guest"].map(Path::new);
        assert_eq!(shown(&paths), ["show /tmp/clone", "show /tmp/guest"]);
    }

    #[test]
    fn the_sample_names_tests_that_there_are() {
        let missing: Vec<String> = sample()
            .iter()
            .flat_map(|suite| {
                let file = workspace().join(format!("tests/tests/{}.rs", suite.name));
                let text = std::fs::read_to_string(file).expect("a suite's file");
                let wanted = suite.tests.iter().filter_map(|test| test.strip_suffix("::coffer_on_2"));
                wanted
                    .filter(|test| !text.contains(&format!(" {test};")))
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(missing, Vec::<String>::new());
        assert!(sample().iter().all(|suite| !suite.tests.is_empty()), "a suite of which all is run");
    }
}
