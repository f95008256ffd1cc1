//! The slim kernel: Debian's kernel source, `allnoconfig`, and our own fragment.

use std::fs;
use std::path::Path;

use super::apt::{self, Package};
use super::config::{self, FRAGMENT};
use super::error::{KernelError, command as failed, file};
use super::make::{build, make, run_make};
use super::{Cache, Kernel, elf};
use crate::command::{command, run};
use crate::digest::Digest;
use crate::manifest::{FileName, KernelFacts, KernelKind};
use crate::progress::Progress;

/// The package of the kernel's source. Its version changes with Debian's security updates, its series does not.
const SOURCE: &str = "linux-source-6.12";

/// What the build uses beside a Rust toolchain.
const BUILD_PACKAGES: &[&str] = &[
    "bc",
    "binutils",
    "bison",
    "flex",
    "gcc",
    "libc6-dev",
    "libelf-dev",
    "lz4",
    "make",
    "perl",
    "util-linux",
    "xz-utils",
];

/// To be raised when this file, `elf.rs` or `make.rs` changes what comes out.
const RECIPE: u32 = 4;

/// No ACPI, PCI or legacy device is looked for, since the machine has none: the shim adds what it has as
/// `virtio_mmio.device=`. A panic or a reboot ends the machine at once by a triple fault. On a machine of one processor the
/// kernel would rewrite every locked instruction of its own text: that costs more than the locks do in a pod's life, and
/// under emulation a third of the boot. While it boots it waits for grace periods, which are hurried until its first process
/// runs. Nobody needs to know which way to compute parities is the fastest, nor a directory for each cache of the kernel's own
/// (`/sys/kernel/slab`), of which there are thousands of files.
const CMDLINE: &str = "console=ttyS0 loglevel=4 reboot=t panic=-1 acpi=off pci=off cgroup_no_v1=all \
    tsc=reliable no_timer_check noreplace-smp rcupdate.rcu_expedited=1 rcupdate.rcu_normal_after_boot=1 \
    initcall_blacklist=calibrate_xor_blocks,slab_late_init rdinit=/init";

/// For a hypervisor: neither unpacked nor moved before it runs.
const VMLINUX: FileName = FileName::ours("vmlinux");

/// For firmware.
const BZIMAGE: FileName = FileName::ours("bzImage");

const FACTS: &str = "facts.json";

impl Kernel {
    /// The slim kernel, from the cache or built now, from the newest source or from `version` of it.
    pub fn slim(cache: &Cache, version: Option<&str>) -> Result<Self, KernelError> {
        apt::install_missing(BUILD_PACKAGES)?;
        let source = Package::find(SOURCE, version, cache.root())?;
        let dir = cache.entry(&key(&source)?, |keep, work| make_kernel(&source, keep, work))?;
        open(&dir)
    }
}

/// The hash of all that the kernel is made of and with.
fn key(source: &Package) -> Result<Digest, KernelError> {
    let tools = ["gcc", "ld", "lz4"].map(|tool| run(command(tool).arg("--version")));
    let mut inputs = format!("slim {RECIPE}\n{source}\n{}\n", Digest::of(FRAGMENT.as_bytes()));
    for tool in tools {
        let text = tool.map_err(failed("ask for the compiler's version"))?;
        inputs.push_str(text.lines().next().unwrap_or_default());
        inputs.push('\n');
    }
    Ok(Digest::of(inputs.as_bytes()))
}

fn make_kernel(source: &Package, keep: &Path, work: &Path) -> Result<(), KernelError> {
    let tree = unpack(source, work)?;
    let config = configure(source, &tree)?;
    build(&tree, &["bzImage", "vmlinux"])?;
    let vmlinux = tree.join("vmlinux");
    let elf = fs::read(&vmlinux).map_err(file(&vmlinux))?;
    let packed = elf::repack(&elf).map_err(|source| KernelError::Elf { source })?;
    write(&keep.join(VMLINUX.as_str()), packed)?;
    let image = tree.join("arch/x86/boot/bzImage");
    fs::copy(&image, keep.join(BZIMAGE.as_str())).map_err(file(&image))?;
    let release = tree.join("include/config/kernel.release");
    let facts = KernelFacts {
        kind: KernelKind::Slim,
        release: fs::read_to_string(&release).map_err(file(&release))?.trim().to_owned(),
        package: source.to_string(),
        config: Digest::of(config.as_bytes()),
    };
    write(&keep.join("config"), config)?;
    save_facts(keep, &facts)
}

fn unpack(source: &Package, work: &Path) -> Result<std::path::PathBuf, KernelError> {
    source.extract(work)?;
    let archive = work.join("usr/src").join(format!("{SOURCE}.tar.xz"));
    if !archive.exists() {
        return Err(KernelError::NotInPackage {
            package: source.to_string(),
            file: archive.display().to_string(),
        });
    }
    let progress = Progress::begin("unpacking the kernel's source");
    run(command("tar").arg("-xf").arg(&archive).arg("-C").arg(work))
        .map_err(failed("unpack the kernel's source"))?;
    fs::remove_file(&archive).map_err(file(&archive))?;
    progress.end();
    Ok(work.join(SOURCE))
}

/// Configures the tree and returns its full configuration.
fn configure(source: &Package, tree: &Path) -> Result<String, KernelError> {
    let fragment = tree.join("coffer.config");
    write(&fragment, FRAGMENT)?;
    let mut configure = make(tree);
    configure.env("KCONFIG_ALLCONFIG", &fragment).args(["-s", "allnoconfig"]);
    run_make(&mut configure, "configure the kernel")?;
    let path = tree.join(".config");
    let config = fs::read_to_string(&path).map_err(file(&path))?;
    let (vital, others): (Vec<_>, Vec<_>) =
        config::lost(FRAGMENT, &config).into_iter().partition(config::Lost::is_vital);
    for lost in others {
        eprintln!("coffer-guest-image: kernel option {lost}");
    }
    if !vital.is_empty() {
        let options = vital.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        return Err(KernelError::OptionsLost { package: source.to_string(), options });
    }
    Ok(config)
}

fn open(dir: &Path) -> Result<Kernel, KernelError> {
    Ok(Kernel {
        boots: VMLINUX,
        files: [VMLINUX, BZIMAGE].map(|name| (name.clone(), dir.join(name.as_str()))).into(),
        facts: load_facts(dir)?,
        modules: Vec::new(),
        cmdline: CMDLINE,
        needs_acpi: false,
    })
}

pub(super) fn save_facts(dir: &Path, facts: &KernelFacts) -> Result<(), KernelError> {
    let path = dir.join(FACTS);
    let text =
        serde_json::to_vec(facts).map_err(|source| KernelError::Damaged { path: path.clone(), source })?;
    write(&path, text)
}

pub(super) fn load_facts(dir: &Path) -> Result<KernelFacts, KernelError> {
    let path = dir.join(FACTS);
    let text = fs::read(&path).map_err(file(&path))?;
    serde_json::from_slice(&text).map_err(|source| KernelError::Damaged { path, source })
}

fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), KernelError> {
    fs::write(path, content).map_err(file(path))
}
