//! `coffer measure`: the launch digest of a confidential machine, before it is launched. That of a trust domain has registers
//! beside it: `trust_domain.rs`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use coffer_guest_image::manifest::Manifest;
use coffer_guest_image::measure::{
    DirectBoot, Firmware, SnpMachine, VcpuSignature, simulated_launch_digest, snp_launch_digest,
};
use coffer_guest_image::tdx::Release;
use serde_json::json;

use crate::trust_domain::{self, Machine};
use crate::{Health, output};

/// The most that is read of firmware, in bytes; the largest that can be measured is half of it.
const MOST_FIRMWARE: u64 = 128 << 20;

#[derive(Args)]
pub(crate) struct MeasureArguments {
    /// Kind of the machine
    #[arg(long)]
    tee: Tee,
    /// Firmware: OVMF, for SNP in its build for SEV where a kernel is booted directly, for TDX as one file with variables
    #[arg(long, visible_alias = "firmware", value_name = "FILE", required_if_eq_any([("tee", "snp"), ("tee", "tdx")]))]
    ovmf: Option<PathBuf>,
    /// Guest image whose kernel, initrd and command line are booted
    #[arg(long, value_name = "DIR", conflicts_with = "kernel")]
    guest: Option<PathBuf>,
    /// Kernel that is booted without a boot loader
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Its initrd
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Its command line
    #[arg(long, value_name = "TEXT", requires = "kernel", default_value = "")]
    append: String,
    /// How many vCPUs the machine has
    #[arg(long, value_name = "N")]
    vcpus: u32,
    /// Their type, by QEMU's name, such as EPYC-Milan
    #[arg(long, value_name = "NAME", conflicts_with = "vcpu_sig")]
    vcpu_type: Option<VcpuSignature>,
    /// Their type, by CPUID signature, such as 0xa00f11
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    vcpu_sig: Option<u64>,
    /// SEV features of the guest: 0x1 is SNP alone, 0x21 adds debug swap
    #[arg(long, value_name = "NUMBER", value_parser = number, default_value = "0x1")]
    guest_features: u64,
    /// TDX: memory of the machine, such as 2G; RTMR0 depends on it
    #[arg(long, value_name = "SIZE", value_parser = trust_domain::memory)]
    memory: Option<u64>,
    /// TDX: release of edk2 that the firmware was built from, such as 202508; RTMR1 and RTMR2 depend on it
    #[arg(long, value_name = "RELEASE")]
    edk2: Option<Release>,
    /// TDX: event log (CCEL) that was recorded on a machine like this one, whose other events of RTMR0 are believed
    #[arg(long, value_name = "FILE", requires = "memory")]
    event_log: Option<PathBuf>,
}

/// Kinds of machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tee {
    /// AMD SEV-SNP on QEMU with KVM
    Snp,
    /// Intel TDX on QEMU 10.1 or later with KVM
    Tdx,
    /// A simulated processor, as this node plays one
    Sim,
}

/// Prints the digest that the hardware will report.
pub(crate) fn run(arguments: &MeasureArguments, json: bool) -> anyhow::Result<Health> {
    let ovmf = match (arguments.tee, &arguments.ovmf) {
        (Tee::Tdx, Some(ovmf)) => return trust_domain::run(trust_domain(arguments, ovmf)?, json),
        (Tee::Snp, Some(ovmf)) => ovmf,
        _ => return simulated(arguments, boot(arguments)?, json),
    };
    let boot = boot(arguments)?;
    let firmware = Firmware::parse(read_firmware(ovmf)?)
        .with_context(|| format!("reading firmware from {}", ovmf.display()))?;
    let vcpu = vcpu(arguments)?;
    let (vcpus, features) = (arguments.vcpus, arguments.guest_features);
    let machine = SnpMachine { firmware: &firmware, boot, vcpus, vcpu, features };
    let digest = hex::encode(snp_launch_digest(&machine)?);
    if json {
        let features = format!("{features:#x}");
        let vcpu = vcpu.to_string();
        output::json(&json!({
            "tee": "snp",
            "measurement": digest,
            "vcpus": vcpus,
            "vcpu_signature": vcpu,
            "guest_features": features,
        }))?;
    } else {
        println!("{digest}");
    }
    Ok(Health::Well)
}

fn trust_domain<'a>(arguments: &'a MeasureArguments, ovmf: &Path) -> anyhow::Result<Machine<'a>> {
    Ok(Machine {
        firmware: read_firmware(ovmf)?,
        guest: arguments.guest.as_deref(),
        kernel: arguments.kernel.as_deref(),
        initrd: arguments.initrd.as_deref(),
        append: &arguments.append,
        vcpus: arguments.vcpus,
        memory: arguments.memory,
        edk2: arguments.edk2,
        event_log: arguments.event_log.as_deref(),
    })
}

/// What a simulated processor will report.
fn simulated(arguments: &MeasureArguments, boot: Option<DirectBoot>, json: bool) -> anyhow::Result<Health> {
    let boot = boot.context("give --guest, or --kernel with --initrd and --append")?;
    let digest = hex::encode(simulated_launch_digest(&boot, arguments.vcpus)?);
    if json {
        output::json(&json!({
            "tee": "snp",
            "simulated": true,
            "measurement": digest,
            "vcpus": arguments.vcpus,
        }))?;
    } else {
        println!("{digest}");
    }
    Ok(Health::Well)
}

/// Kernel, initrd and command line, given by themselves or as a guest image.
fn boot(arguments: &MeasureArguments) -> anyhow::Result<Option<DirectBoot>> {
    let Some(dir) = &arguments.guest else {
        return arguments.kernel.as_deref().map(|kernel| read_boot(kernel, arguments)).transpose();
    };
    let image = Manifest::load(dir).context("reading the guest image")?;
    let open = |path: &Path| File::open(path).with_context(|| format!("opening {}", path.display()));
    let mut initrd = open(&image.initrd)?;
    let boot = DirectBoot::read(open(&image.kernel)?, Some(&mut initrd), &image.manifest.boot.cmdline);
    boot.map(Some).context("hashing kernel and initrd")
}

fn vcpu(arguments: &MeasureArguments) -> anyhow::Result<VcpuSignature> {
    match (arguments.vcpu_type, arguments.vcpu_sig) {
        (Some(signature), _) => Ok(signature),
        (None, Some(number)) => {
            let signature = u32::try_from(number).context("--vcpu-sig has more than 32 bits")?;
            Ok(VcpuSignature(signature))
        }
        (None, None) => anyhow::bail!("give --vcpu-type or --vcpu-sig"),
    }
}

fn read_firmware(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST_FIRMWARE).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().with_context(|| format!("reading firmware from {}", path.display()))
}

fn read_boot(kernel: &Path, arguments: &MeasureArguments) -> anyhow::Result<DirectBoot> {
    let open = |path: &Path| File::open(path).with_context(|| format!("opening {}", path.display()));
    let mut initrd = arguments.initrd.as_deref().map(open).transpose()?;
    let initrd = initrd.as_mut().map(|file| -> &mut dyn Read { file });
    DirectBoot::read(open(kernel)?, initrd, &arguments.append).context("hashing kernel and initrd")
}

/// Takes `0x` and hexadecimal digits, or a decimal number.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text:?} is no number such as 0x21 or 33"))
}
