//! Debian's packaged cloud kernel: nothing to compile, but larger, slower to boot, and full of modules.

use std::fs;
use std::path::{Path, PathBuf};

use super::apt::{self, Package};
use super::error::{KernelError, command as failed, file};
use super::modules::{WANTED, in_order};
use super::slim::{load_facts, save_facts};
use super::{Cache, Kernel};
use crate::command::{command, run};
use crate::digest::Digest;
use crate::manifest::{FileName, KernelFacts, KernelKind};

/// Depends on the newest kernel of the suite that this machine runs.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// To be raised when this file or `modules.rs` changes what comes out.
const RECIPE: u32 = 1;

/// This kernel does not read devices from its command line, so ACPI and PCI must stay on.
const CMDLINE: &str = "console=ttyS0 loglevel=4 reboot=t panic=-1 cgroup_no_v1=all tsc=reliable no_timer_check \
    8250.nr_uarts=1 rdinit=/init";

const BZIMAGE: FileName = FileName::ours("bzImage");
const MODULES: &str = "modules.txt";

impl Kernel {
    /// Debian's kernel with its modules, from the cache or fetched now, the newest or the one that depends on
    /// `version` of the metapackage.
    pub fn debian(cache: &Cache, version: Option<&str>) -> Result<Self, KernelError> {
        apt::install_missing(&["kmod", "xz-utils"])?;
        let package = Package::find(METAPACKAGE, version, cache.root())?.dependency("linux-image-")?;
        let inputs = format!("debian {RECIPE}\n{package}\n{WANTED:?}\n");
        let dir = cache.entry(&Digest::of(inputs.as_bytes()), |keep, work| fetch(&package, keep, work))?;
        open(&dir)
    }
}

fn fetch(package: &Package, keep: &Path, work: &Path) -> Result<(), KernelError> {
    package.extract(work)?;
    let release = package.name.trim_start_matches("linux-image-").to_owned();
    copy(&work.join("boot").join(format!("vmlinuz-{release}")), &keep.join(BZIMAGE.as_str()))?;
    let modules = collect(work, &release, keep)?;
    let list = keep.join(MODULES);
    fs::write(&list, modules.join("\n")).map_err(file(&list))?;
    let config = work.join("boot").join(format!("config-{release}"));
    let config = fs::read(&config).map_err(file(&config))?;
    let config = Digest::of(&config);
    save_facts(keep, &KernelFacts { kind: KernelKind::Debian, release, package: package.to_string(), config })
}

/// Copies the wanted modules to `keep` and returns their names in the order of loading.
fn collect(work: &Path, release: &str, keep: &Path) -> Result<Vec<String>, KernelError> {
    // Newer packages have /usr/lib/modules, older ones /lib/modules; depmod wants the latter.
    let (old, new) = (work.join("lib/modules"), work.join("usr/lib/modules"));
    if !old.exists() && new.exists() {
        fs::create_dir_all(work.join("lib")).map_err(file(work))?;
        fs::rename(&new, &old).map_err(file(&old))?;
    }
    run(command("depmod").arg("-b").arg(work).arg(release)).map_err(failed("order the kernel's modules"))?;
    let tree = old.join(release);
    let table = tree.join("modules.dep");
    let table = fs::read_to_string(&table).map_err(file(&table))?;
    in_order(&table, WANTED).iter().map(|module| keep_module(&tree.join(module), keep)).collect()
}

/// Copies a module, unpacked: the agent hands its bytes to the kernel as they are.
fn keep_module(module: &Path, keep: &Path) -> Result<String, KernelError> {
    let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let target = keep.join(&name);
    copy(module, &target)?;
    let Some(unpacked) = name.strip_suffix(".xz") else { return Ok(name) };
    run(command("xz").arg("-d").arg(&target)).map_err(failed("unpack a kernel module"))?;
    Ok(unpacked.to_owned())
}

fn copy(from: &Path, to: &Path) -> Result<(), KernelError> {
    fs::copy(from, to).map_err(file(from)).map(drop)
}

fn open(dir: &Path) -> Result<Kernel, KernelError> {
    let list = dir.join(MODULES);
    let list = fs::read_to_string(&list).map_err(file(&list))?;
    let modules: Vec<PathBuf> = list.lines().map(|name| dir.join(name)).collect();
    Ok(Kernel {
        facts: load_facts(dir)?,
        boots: BZIMAGE,
        files: vec![(BZIMAGE, dir.join(BZIMAGE.as_str()))],
        modules,
        cmdline: CMDLINE,
        needs_acpi: true,
    })
}
