//! `coffer measure` beside programs of others: both must say the same of the same machine. For SNP that is sev-snp-measure of
//! PyPI; for TDX virt-firmware of PyPI, which reads firmware's tables and digests EFI programs, and the igvm crate, which
//! computes MRTD from pages.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use coffer_attestation::tdx::EventLog;
use coffer_tests::packages::{Unpacked, cache, unpacked};
use coffer_tests::run::Run;
use igvm::IgvmDirectiveHeader;
use igvm::measurement::generate_tdx_measurement;
use igvm_defs::{IgvmPageDataFlags, IgvmPageDataType};

const OTHER: &str = "sev-snp-measure==0.0.13";
const OTHER_FOR_EFI: &str = "virt-firmware==26.10";
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
        program: other_program(OTHER, "sev-snp-measure"),
    })
}

/// `program` of a package of Python's, in an environment of its own below the cache.
fn other_program(package: &str, program: &str) -> PathBuf {
    let place = cache().join("python").join(package);
    let program = place.join("bin").join(program);
    if !program.exists() {
        let made = Run::new("python3").args(["-m", "venv", "--clear"]).arg(&place).limit(LIMIT).text();
        made.expect("an environment of Python");
        let installed =
            Run::new(place.join("bin/pip")).args(["install", "--quiet", package]).limit(LIMIT).text();
        installed.expect("a package from PyPI");
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

/// Firmware of Debian that can start a trust domain, and the release of edk2 that it was built from.
fn firmware_for_tdx() -> [(PathBuf, &'static str); 4] {
    let tdx = unpacked(Unpacked::OvmfIntelTdx).expect("ovmf-inteltdx");
    [
        (Debian12.path(), "202502"),
        (Debian13.path(), "202502"),
        (AmdSev.path(), "202508"),
        (tdx.join("usr/share/ovmf/OVMF.inteltdx.ms.fd"), "202508"),
    ]
}

fn tdx(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    command.args(["measure", "--tee", "tdx", "--vcpus", "2", "--json"]).args(arguments);
    command.output().expect("coffer runs")
}

fn told(arguments: &[&str]) -> serde_json::Value {
    let output = tdx(arguments);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("JSON, not {}", text(&output)))
}

/// A program of virt-firmware's environment.
fn efi_program(name: &str) -> PathBuf {
    // The last that is put there, so that where it is all others are.
    static READY: OnceLock<PathBuf> = OnceLock::new();
    READY.get_or_init(|| other_program(OTHER_FOR_EFI, "virt-fw-dump")).with_file_name(name)
}

/// The pages of a trust domain as virt-firmware reads them, measured by the igvm crate.
fn other_mrtd(firmware: &Path) -> String {
    let image = std::fs::read(firmware).expect("firmware");
    let dump = Run::new(efi_program("virt-fw-dump"))
        .arg("-i")
        .arg(firmware)
        .arg("--ovmf-meta")
        .text()
        .expect("virt-fw-dump runs");
    let sections = dump.lines().skip_while(|line| !line.contains("guid:TdxMetadataOffset")).skip(1);
    let field = |line: &str, name: &str| {
        let value = line.split(' ').find_map(|word| word.strip_prefix(name));
        value.map(|hex| u64::from_str_radix(hex.trim_start_matches("0x"), 16).expect("a number"))
    };
    let mut pages = Vec::new();
    for line in sections.take_while(|line| !line.contains("guid:")) {
        let (Some(start), Some(bytes)) = (field(line, "mbase="), field(line, "msize=")) else { continue };
        let measured = field(line, "flags=") == Some(1);
        for page in (0..bytes).step_by(4096) {
            let from = field(line, "fbase=").map(|base| (base + page) as usize);
            let data = from.map(|from| image[from..from + 4096].to_vec()).unwrap_or_default();
            pages.push(IgvmDirectiveHeader::PageData {
                gpa: start + page,
                compatibility_mask: 1,
                flags: IgvmPageDataFlags::new().with_unmeasured(!measured),
                data_type: IgvmPageDataType::NORMAL,
                data,
            });
        }
    }
    assert!(pages.len() > 200, "{} pages in {dump}", pages.len());
    hex::encode(generate_tdx_measurement(&pages, 1).expect("a measurement"))
}

#[test]
fn mrtd_is_what_others_compute_of_debians_firmware() {
    let differing: Vec<String> = firmware_for_tdx()
        .iter()
        .filter_map(|(path, _)| {
            let ours = told(&["--firmware", &path.display().to_string()]);
            let theirs = other_mrtd(path);
            (ours["measurement"].as_str() != Some(theirs.as_str()))
                .then(|| format!("{}: ours {ours}, theirs {theirs}", path.display()))
        })
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

/// Debian's cloud kernel, signed, and its Authenticode digest as virt-firmware computes it.
fn kernel_beside() -> (PathBuf, String) {
    let boot = unpacked(Unpacked::CloudKernel).expect("a kernel").join("boot");
    let mut files = std::fs::read_dir(boot).expect("a folder").map(|file| file.expect("a file").path());
    let kernel = files.find(|path| path.display().to_string().contains("/vmlinuz-"));
    let kernel = kernel.expect("a kernel");
    let python = efi_program("python3");
    let digest = "import sys, pefile\nfrom virt.peutils import pesign\n\
                  print(pesign.pe_authenticode_hash(pefile.PE(sys.argv[1]), 'sha384').hex())";
    let theirs = Run::new(python).args(["-c", digest]).arg(&kernel).text().expect("virt-firmware runs");
    (kernel, theirs.trim().to_owned())
}

#[test]
fn a_signed_kernel_is_measured_as_others_digest_it() {
    let (kernel, theirs) = kernel_beside();
    let [.., (firmware, release)] = firmware_for_tdx();
    let (firmware, kernel) = (firmware.display().to_string(), kernel.display().to_string());
    let told = told(&["--firmware", &firmware, "--kernel", &kernel, "--append", "quiet", "--edk2", release]);
    assert_eq!(told["events"]["rtmr1"][0].as_str(), Some(theirs.as_str()));
    assert_eq!(told["rtmr1"].as_str().map(str::len), Some(96));
}

const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/testdata/tdx/misc/ccel-ovmf.bin");

/// Digests of the recorded events of one register.
fn recorded(rtmr: usize) -> Vec<String> {
    let log = EventLog::parse(&std::fs::read(RECORDED).expect("a log")).expect("a log");
    let events = log.events.iter().filter(|event| event.extends() && event.rtmr() == Some(rtmr));
    events.map(|event| hex::encode(event.digest)).collect()
}

#[test]
fn what_firmware_says_of_a_start_is_what_was_recorded_on_hardware() {
    let (kernel, _) = kernel_beside();
    let [.., (firmware, release)] = firmware_for_tdx();
    let (firmware, kernel) = (firmware.display().to_string(), kernel.display().to_string());
    let told = told(&["--firmware", &firmware, "--kernel", &kernel, "--append", "quiet", "--edk2", release]);
    let ours: Vec<&str> = told["events"]["rtmr1"]
        .as_array()
        .expect("events")
        .iter()
        .skip(1)
        .flat_map(|event| event.as_str())
        .collect();
    let recorded_separator = recorded(0).into_iter().nth(7).expect("a separator");
    // The recorded firmware is from before November 2024 and extended RTMR0 where it should have extended RTMR1.
    let mut theirs: Vec<String> = recorded(1).into_iter().skip(1).collect();
    theirs.insert(1, recorded_separator);
    assert_eq!(ours, theirs);
}

#[test]
fn memory_and_variables_are_measured_as_was_recorded_on_hardware() {
    // Both had the sections and the empty variables of OVMF's usual build, on a machine of 2 GiB.
    let [(of_2_mib, _), (of_4_mib, _), ..] = firmware_for_tdx();
    let events = |firmware: &Path| {
        told(&["--firmware", &firmware.display().to_string(), "--memory", "2G"])["events"]["rtmr0"].clone()
    };
    let recorded = recorded(0);
    assert_eq!(events(&of_2_mib)[0].as_str(), Some(recorded[0].as_str()));
    assert_eq!(events(&of_4_mib)[1].as_str(), Some(recorded[1].as_str()));
}

#[test]
fn a_register_that_depends_on_what_was_not_given_is_left_out_with_the_reason() {
    let firmware = Debian13.path().display().to_string();
    let told = told(&["--firmware", &firmware, "--memory", "2G"]);
    assert!(told.get("rtmr0").is_none() && told.get("rtmr1").is_none());
    assert!(told["not_computed"]["rtmr0"].as_str().expect("a reason").contains("ACPI tables"));
    assert!(told["not_computed"]["rtmr2"].as_str().expect("a reason").contains("no kernel was given"));
}

#[test]
fn an_event_log_of_another_machine_is_refused() {
    let firmware = Debian13.path().display().to_string();
    let output = tdx(&["--firmware", &firmware, "--memory", "2G", "--event-log", RECORDED]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("its list of memory ranges has the digest 0b8772e5"), "{}", text(&output));
}

#[test]
fn a_kernel_without_an_efi_stub_is_refused_for_a_trust_domain() {
    let firmware = Debian13.path().display().to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let kernel = folder.path().join("vmlinux");
    std::fs::write(&kernel, b"\x7fELF\x02\x01\x01").expect("a kernel");
    let kernel = kernel.display().to_string();
    let output =
        tdx(&["--firmware", &firmware, "--kernel", &kernel, "--append", "quiet", "--edk2", "202502"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("TDX firmware starts only EFI programs"), "{}", text(&output));
}
