//! `coffer measure --tee tdx`: MRTD and RTMR0 to RTMR2 of a trust domain, before it is launched. A value that depends on
//! something that was not given is left out, and the output says on what.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use coffer_attestation::tdx::{EventLog, MAX_LOG_BYTES};
use coffer_guest_image::manifest::Manifest;
use coffer_guest_image::tdx::{EfiBoot, EfiKernel, Register, Release, Tdvf, mrtd, td_hob_digest};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha384};

use crate::{Health, output};

/// The most that is read of a kernel or an initrd, in bytes.
const MOST: u64 = 1 << 30;

const NO_KERNEL: &str = "no kernel was given: what a boot loader on a disk starts is not known";
const NO_MEMORY: &str = "it begins with the machine's memory: give --memory";
const NO_LOG: &str = "it goes on with ACPI tables that QEMU makes and variables that the firmware makes: give --event-log, \
                      recorded on a machine like this one";

type Digest48 = [u8; 48];

/// What is to be launched, as far as it was said.
pub(crate) struct Machine<'a> {
    pub(crate) firmware: Vec<u8>,
    pub(crate) guest: Option<&'a Path>,
    pub(crate) kernel: Option<&'a Path>,
    pub(crate) initrd: Option<&'a Path>,
    pub(crate) append: &'a str,
    pub(crate) vcpus: u32,
    /// In bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) edk2: Option<Release>,
    pub(crate) event_log: Option<&'a Path>,
}

/// A register: the digests it is extended with as far as they are known, and its value or why it has none.
struct Told {
    name: &'static str,
    events: Vec<Digest48>,
    value: Result<Digest48, &'static str>,
}

/// Prints what the hardware will report.
pub(crate) fn run(mut machine: Machine<'_>, json: bool) -> anyhow::Result<Health> {
    let firmware = Tdvf::parse(std::mem::take(&mut machine.firmware)).context("reading firmware")?;
    let mut told = vec![rtmr0(&machine, &firmware)?];
    told.extend(started(&machine)?);
    let mrtd = hex::encode(mrtd(&firmware));
    if json {
        print_json(&mrtd, &told, &machine)?
    } else {
        print_lines(&mrtd, &told)
    }
    Ok(Health::Well)
}

/// What firmware measures of its configuration.
fn rtmr0(machine: &Machine<'_>, firmware: &Tdvf) -> anyhow::Result<Told> {
    let name = "rtmr0";
    let Some(memory) = machine.memory else {
        return Ok(Told { name, events: Vec::new(), value: Err(NO_MEMORY) });
    };
    let ranges = td_hob_digest(firmware, memory)?;
    let events = vec![ranges, Sha384::digest(firmware.variables()).into()];
    let Some(path) = machine.event_log else {
        return Ok(Told { name, events, value: Err(NO_LOG) });
    };
    let log = EventLog::parse(&read(path, MAX_LOG_BYTES as u64)?)
        .with_context(|| format!("reading the event log {}", path.display()))?;
    let recorded: Vec<Digest48> = log
        .events
        .iter()
        .filter(|event| event.extends() && event.rtmr() == Some(0))
        .map(|event| event.digest)
        .collect();
    let of = ["list of memory ranges", "variables"];
    for ((computed, recorded), what) in events.iter().zip(&recorded).zip(of) {
        let (computed, recorded) = (hex::encode(computed), hex::encode(recorded));
        ensure!(
            computed == recorded,
            "the event log is of another machine: its {what} has the digest {recorded}, this machine's {computed}"
        );
    }
    ensure!(recorded.len() > events.len(), "the event log ends before firmware measured its configuration");
    Ok(Told { name, value: Ok(Register::of(&recorded).bytes()), events: recorded })
}

/// RTMR1 and RTMR2.
fn started(machine: &Machine<'_>) -> anyhow::Result<[Told; 2]> {
    let Some(files) = files(machine)? else {
        return Ok(["rtmr1", "rtmr2"].map(|name| Told { name, events: Vec::new(), value: Err(NO_KERNEL) }));
    };
    let release: Release =
        machine.edk2.context("give --edk2: which release the firmware is decides what it measures")?;
    let kernel = EfiKernel::parse(&read(&files.kernel, MOST)?)
        .with_context(|| format!("measuring the kernel {}", files.kernel.display()))?;
    let digested = |path: &PathBuf| Ok::<_, anyhow::Error>(Sha384::digest(read(path, MOST)?).into());
    let initrd = files.initrd.as_ref().map(digested).transpose()?;
    let boot = EfiBoot { kernel: &kernel, initrd, cmdline: &files.cmdline, release };
    let told = |name, events: Vec<Digest48>| Told { name, value: Ok(Register::of(&events).bytes()), events };
    Ok([told("rtmr1", boot.rtmr1()), told("rtmr2", boot.rtmr2()?)])
}

/// What is booted.
struct Files {
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    cmdline: String,
}

fn files(machine: &Machine<'_>) -> anyhow::Result<Option<Files>> {
    let Some(dir) = machine.guest else {
        let files = |kernel| Files {
            kernel,
            initrd: machine.initrd.map(Path::to_owned),
            cmdline: machine.append.to_owned(),
        };
        return Ok(machine.kernel.map(Path::to_owned).map(files));
    };
    let image = Manifest::load(dir).context("reading the guest image")?;
    let cmdline = image.manifest.boot.cmdline;
    let off = ["acpi=off", "pci=off"].into_iter().find(|word| cmdline.split(' ').any(|found| found == *word));
    if let Some(word) = off {
        anyhow::bail!(
            "this guest image is for machines without firmware: it boots {} with {word}. A trust domain needs both ACPI \
             and PCI, and a kernel with an EFI stub: give the image's bzImage and initrd.img with --kernel, --initrd and \
             --append",
            image.kernel.display()
        );
    }
    Ok(Some(Files { kernel: image.kernel, initrd: Some(image.initrd), cmdline }))
}

fn read(path: &Path, most: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.take(most + 1).read_to_end(&mut bytes).with_context(|| format!("reading {}", path.display()))?;
    ensure!(bytes.len() as u64 <= most, "{} has more than {most} bytes", path.display());
    Ok(bytes)
}

fn print_json(mrtd: &str, told: &[Told], machine: &Machine<'_>) -> anyhow::Result<()> {
    let by_name = |value: &dyn Fn(&Told) -> Option<Value>| -> Map<String, Value> {
        told.iter().filter_map(|told| Some((told.name.to_owned(), value(told)?))).collect()
    };
    let mut all = json!({
        "tee": "tdx",
        "measurement": mrtd,
        "vcpus": machine.vcpus,
        "events": by_name(&|told| Some(told.events.iter().map(hex::encode).collect())),
        "not_computed": by_name(&|told| told.value.err().map(Value::from)),
    });
    if let Value::Object(all) = &mut all {
        all.extend(by_name(&|told| told.value.ok().map(|value| hex::encode(value).into())));
        all.extend(machine.memory.map(|memory| ("memory".to_owned(), memory.into())));
        all.extend(machine.edk2.map(|release| ("edk2".to_owned(), release.to_string().into())));
    }
    output::json(&all)
}

fn print_lines(mrtd: &str, told: &[Told]) {
    println!("mrtd   {mrtd}");
    for register in told {
        match register.value {
            Ok(value) => println!("{}  {}", register.name, hex::encode(value)),
            Err(reason) => println!("{}  not computed: {reason}", register.name),
        }
    }
}

/// Takes bytes with a unit, or MiB without one, as QEMU does.
pub(crate) fn memory(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1 << 30),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1 << 20),
    };
    let number: Option<u64> = number.parse().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| format!("{text:?} is no size such as 2G or 2048M"))
}

#[cfg(test)]
mod tests {
    use super::memory;

    #[test]
    fn memory_is_said_as_to_qemu() {
        assert_eq!((memory("2G"), memory("2048M"), memory("2048")), (Ok(2 << 30), Ok(2 << 30), Ok(2 << 30)));
        assert!(["", "G", "2K", "-1", "99999999999999999999G"].iter().all(|text| memory(text).is_err()));
    }
}
