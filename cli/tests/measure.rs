//! `coffer measure` beside sev-snp-measure of PyPI: both must say the same of the same machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use coffer_tests::packages::{Unpacked, cache, unpacked};
use coffer_tests::run::Run;

const OTHER: &str = "sev-snp-measure==0.0.13";
const LIMIT: Duration = Duration::from_secs(300);

/// One machine: firmware, whether it boots a kernel and an initrd, command line, vCPUs, type, features.
struct Machine {
    firmware: Firmware,
    files: Files,
    append: &'static str,
    vcpus: &'static str,
    vcpu: &'static str,
    features: &'static str,
}

#[derive(Clone, Copy)]
enum Firmware {
    AmdSev,
    Debian12,
    Debian12Small,
    Debian13,
    Debian13SecureBoot,
}

#[derive(Clone, Copy)]
enum Files {
    None,
    Kernel,
    KernelAndInitrd,
}

use Files::{Kernel, KernelAndInitrd};
use Firmware::{AmdSev, Debian12, Debian12Small, Debian13, Debian13SecureBoot};

const fn boots(
    files: Files,
    append: &'static str,
    vcpus: &'static str,
    vcpu: &'static str,
    features: &'static str,
) -> Machine {
    Machine { firmware: AmdSev, files, append, vcpus, vcpu, features }
}

const fn from_disk(firmware: Firmware, vcpus: &'static str, vcpu: &'static str) -> Machine {
    Machine { firmware, files: Files::None, append: "", vcpus, vcpu, features: "0x1" }
}

const MACHINES: [Machine; 28] = [
    boots(KernelAndInitrd, "console=ttyS0", "1", "EPYC", "0x1"),
    boots(KernelAndInitrd, "console=ttyS0", "1", "EPYC-v4", "0x1"),
    boots(KernelAndInitrd, "console=ttyS0", "2", "EPYC-IBPB", "0x1"),
    boots(KernelAndInitrd, "console=ttyS0", "2", "EPYC-Rome", "0x1"),
    boots(KernelAndInitrd, "console=ttyS0", "3", "EPYC-Rome-v2", "0x1"),
    boots(KernelAndInitrd, "console=ttyS0", "4", "EPYC-Milan", "0x1"),
    boots(KernelAndInitrd, "console=ttyS0", "4", "EPYC-Milan-v2", "0x1"),
    boots(KernelAndInitrd, "console=ttyS0", "8", "EPYC-Genoa", "0x1"),
    boots(KernelAndInitrd, "console=ttyS0", "8", "EPYC-Genoa-v1", "0x21"),
    boots(KernelAndInitrd, "console=ttyS0", "16", "EPYC-Turin", "0x1"),
    boots(KernelAndInitrd, "console=ttyS0", "1", "EPYC-Turin", "0x21"),
    boots(KernelAndInitrd, "", "1", "EPYC-Milan", "0x1"),
    boots(KernelAndInitrd, "", "2", "EPYC-Milan", "0x21"),
    boots(KernelAndInitrd, "quiet panic=-1 coffer.initdata=\u{e4}\u{f6} \"a b\"", "1", "EPYC-Milan", "0x1"),
    boots(Kernel, "console=ttyS0", "1", "EPYC-Milan", "0x1"),
    boots(Kernel, "", "1", "EPYC-Genoa", "0x1"),
    boots(Kernel, "", "255", "EPYC-Genoa", "0x1"),
    boots(Files::None, "", "1", "EPYC-Milan", "0x1"),
    boots(Files::None, "", "6", "EPYC-Turin", "0x5"),
    from_disk(Debian12, "1", "EPYC-v4"),
    from_disk(Debian12, "2", "EPYC-Milan"),
    from_disk(Debian12Small, "1", "EPYC-Milan"),
    from_disk(Debian12Small, "4", "EPYC-Genoa"),
    from_disk(Debian13, "1", "EPYC-Rome"),
    from_disk(Debian13, "2", "EPYC-Genoa"),
    from_disk(Debian13, "64", "EPYC-Turin"),
    from_disk(Debian13SecureBoot, "1", "EPYC-Milan"),
    from_disk(Debian13SecureBoot, "2", "EPYC-v3"),
];

/// Firmware of Debian and the other program, fetched once.
struct Beside {
    amd_sev: PathBuf,
    debian_12: PathBuf,
    debian_13: PathBuf,
    program: PathBuf,
}

fn beside() -> &'static Beside {
    static READY: OnceLock<Beside> = OnceLock::new();
    READY.get_or_init(|| Beside {
        amd_sev: unpacked(Unpacked::OvmfAmdSev).expect("ovmf-amdsev"),
        debian_12: unpacked(Unpacked::Ovmf12).expect("ovmf of Debian 12"),
        debian_13: unpacked(Unpacked::Ovmf13).expect("ovmf of Debian 13"),
        program: other_program(),
    })
}

/// The other program, in an environment of Python's own below the cache.
fn other_program() -> PathBuf {
    let place = cache().join("python").join(OTHER);
    let program = place.join("bin/sev-snp-measure");
    if !program.exists() {
        let made = Run::new("python3").args(["-m", "venv", "--clear"]).arg(&place).limit(LIMIT).text();
        made.expect("an environment of Python");
        let installed =
            Run::new(place.join("bin/pip")).args(["install", "--quiet", OTHER]).limit(LIMIT).text();
        installed.expect("sev-snp-measure from PyPI");
    }
    program
}

impl Firmware {
    fn path(self) -> PathBuf {
        let files = beside();
        match self {
            AmdSev => files.amd_sev.join("usr/share/ovmf/OVMF.amdsev.fd"),
            Debian12 => files.debian_12.join("usr/share/ovmf/OVMF.fd"),
            Debian12Small => files.debian_12.join("usr/share/OVMF/OVMF_CODE.fd"),
            Debian13 => files.debian_13.join("usr/share/ovmf/OVMF.fd"),
            Debian13SecureBoot => files.debian_13.join("usr/share/OVMF/OVMF_CODE_4M.secboot.fd"),
        }
    }
}

/// The arguments that both programs understand.
fn arguments(machine: &Machine, kernel: &Path, initrd: &Path) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let mut all = vec!["--ovmf".to_owned(), path(&machine.firmware.path())];
    let pairs = [
        ("--vcpus", machine.vcpus.to_owned()),
        ("--vcpu-type", machine.vcpu.to_owned()),
        ("--guest-features", machine.features.to_owned()),
    ];
    all.extend(pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    if !matches!(machine.files, Files::None) {
        all.extend(["--kernel".to_owned(), path(kernel), "--append".to_owned(), machine.append.to_owned()]);
    }
    if matches!(machine.files, KernelAndInitrd) {
        all.extend(["--initrd".to_owned(), path(initrd)]);
    }
    all
}

fn coffer(arguments: &[String]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    command.args(["measure", "--tee", "snp"]).args(arguments).output().expect("coffer runs")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn both_programs_say_the_same_of_28_machines() {
    let folder = tempfile::tempdir().expect("a folder");
    let (kernel, initrd) = (folder.path().join("kernel"), folder.path().join("initrd"));
    let bytes =
        |seed: u32, count: u32| (0..count).map(|at| (at.wrapping_mul(seed) >> 7) as u8).collect::<Vec<u8>>();
    std::fs::write(&kernel, bytes(2_654_435_761, 3_000_001)).expect("a kernel");
    std::fs::write(&initrd, bytes(2_246_822_519, 700_003)).expect("an initrd");
    let differing: Vec<String> = MACHINES
        .iter()
        .filter_map(|machine| {
            let arguments = arguments(machine, &kernel, &initrd);
            let theirs = Run::new(&beside().program).args(["--mode", "snp"]).args(&arguments).text();
            let theirs = theirs.expect("sev-snp-measure runs");
            let ours = text(&coffer(&arguments));
            let same = ours.trim() == theirs.trim() && ours.trim().len() == 96;
            (!same).then(|| format!("{arguments:?}: ours {ours}, theirs {theirs}"))
        })
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn a_kernel_under_firmware_that_would_not_check_it_is_refused() {
    let machine = Machine { firmware: Debian13, files: Kernel, ..from_disk(Debian13, "1", "EPYC-Milan") };
    let output = coffer(&arguments(&machine, Path::new("/proc/version"), Path::new("")));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("takes no hashes of a kernel"), "{}", text(&output));
}

#[test]
fn a_file_of_variables_is_no_firmware() {
    let path = beside().debian_13.join("usr/share/OVMF/OVMF_VARS_4M.fd").display().to_string();
    let output = coffer(&["--ovmf", &path, "--vcpus", "1", "--vcpu-type", "EPYC"].map(str::to_owned));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("has no OVMF table at its end"), "{}", text(&output));
}

#[test]
fn the_digest_is_printed_as_json_with_what_it_is_of() {
    let firmware = Debian13.path().display().to_string();
    let output =
        coffer(&["--ovmf", &firmware, "--vcpus", "2", "--vcpu-sig", "0xa00f11", "--json"].map(str::to_owned));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let named =
        coffer(&["--ovmf", &firmware, "--vcpus", "2", "--vcpu-type", "EPYC-Milan"].map(str::to_owned));
    assert_eq!(
        (json["tee"].as_str(), json["measurement"].as_str()),
        (Some("snp"), Some(text(&named).trim()))
    );
}

#[test]
fn a_type_that_is_no_epyc_is_refused_with_those_that_are_known() {
    let output = coffer(&["--ovmf", "x", "--vcpus", "2", "--vcpu-type", "Skylake"].map(str::to_owned));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("EPYC-Milan"), "{}", text(&output));
}
