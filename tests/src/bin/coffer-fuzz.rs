//! `cargo fuzz`: builds the fuzzing program so that libFuzzer sees where an input leads, and runs each target for a while.
//!
//! Inputs that led somewhere new stay in `target/fuzz/corpus/TARGET`, and the next run goes on from them. An input that fails is
//! kept in `target/fuzz/failures`, and said by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use coffer_tests::artefacts::{target, workspace};
use coffer_tests::packages;
use coffer_tests::progress::{say, step};
use coffer_tests::run::Run;

/// Feeds the readers of hostile bytes with inputs that are made to reach every branch of them.
#[derive(Parser)]
struct Arguments {
    /// Only targets whose name contains this
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where an earlier run's random numbers began
    #[arg(long)]
    seed: Option<u32>,
}

/// Every target of `tests/fuzz/src/main.rs`, the longest input that it is given, and what it starts from.
const TARGETS: &[(&str, u32, &[&str])] = &[
    ("vmm_kernel", 65_536, &[]),
    ("vmm_control", 256, &[]),
    ("vmm_vsock_packet", 64, &[]),
    ("vmm_block", 4096, &[]),
    ("vmm_scsi", 4096, &[]),
    ("vmm_vsock", 4096, &[]),
    ("vmm_random", 2048, &[]),
    ("vmm_balloon", 2048, &[]),
    ("vmm_net", 8192, &[]),
    ("snp_report", 1184, &["report.bin"]),
    ("snp_evidence", 65_536, &["coco-evidence.json"]),
    ("tdx_quote", 16_384, &["quote.bin"]),
    ("tdx_evidence", 65_536, &[]),
    ("tdx_collateral", 65_536, &["collateral.json"]),
    ("tdx_event_log", 65_536, &["ccel.bin", "ccel-grub.bin", "ccel-ovmf.bin", "ccel_table.dat"]),
    ("azure_evidence", 16_384, &[]),
    ("certificate", 8192, &["vcek.der", "intel-sgx-root-ca.der", "milan_ask_ark_asvk.pem"]),
    ("revocation_list", 8192, &["pckcrl", "rootcrl.der"]),
    ("kbs_bodies", 16_384, &[]),
    ("initdata", 8192, &[]),
    ("token", 4096, &[]),
    ("image_manifest", 8192, &[]),
    ("image_reference", 512, &[]),
    ("image_policy", 16_384, &[]),
    ("image_bundle", 16_384, &[]),
    ("image_payload", 16_384, &[]),
    ("layer", 8192, &[]),
    ("layer_erofs", 4096, &[]),
    ("layer_sealed", 4096, &[]),
    ("layer_encrypted", 16_384, &[]),
    ("image_envelope", 16_384, &[]),
    ("image_openpgp", 4096, &[]),
    ("image_keyring", 8192, &[]),
    ("tdx_firmware", 16_384, &[]),
    ("tdx_kernel", 16_384, &[]),
];

/// Coverage as libFuzzer reads it, and every check of arithmetic that a debug build has.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions=on -Coverflow-checks=on";
const BUILT_FOR: &str = "x86_64-unknown-linux-gnu";
const BUILD_LIMIT: Duration = Duration::from_secs(1800);

/// MiB that a target may take, and seconds that one input may take: each needs far less.
const MEMORY: u32 = 1024;
const SLOWEST: u32 = 10;

fn main() -> ExitCode {
    match fuzz(&Arguments::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            println!("{failed} targets failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("coffer-fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn fuzz(arguments: &Arguments) -> Result<usize> {
    packages::install()?;
    let program = step("building the fuzzing program", build)?;
    let wanted = |name: &str| arguments.target.as_ref().is_none_or(|part| name.contains(part));
    let mut failed = 0;
    let chosen: Vec<_> = TARGETS.iter().filter(|(name, _, _)| wanted(name)).collect();
    ensure!(!chosen.is_empty(), "no target is named so");
    for (name, longest, seeds) in chosen {
        if !run(&program, name, *longest, seeds, arguments)? {
            failed += 1;
        }
    }
    Ok(failed)
}

fn build() -> Result<PathBuf> {
    let place = target().join("fuzz");
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let run = Run::new(cargo).directory(workspace()).env("CARGO_TARGET_DIR", &place).limit(BUILD_LIMIT);
    // With a target named, build scripts and macros are built without the flags.
    run.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", FLAGS)
        .args(["build", "--quiet", "--release", "-p", "coffer-fuzz-targets", "--target", BUILT_FOR])
        .text()?;
    Ok(place.join(BUILT_FOR).join("release/coffer-fuzz-targets"))
}

/// Runs one target; says whether nothing was found.
fn run(program: &Path, name: &str, longest: u32, seeds: &[&str], arguments: &Arguments) -> Result<bool> {
    let place = target().join("fuzz");
    let (corpus, failures) = (place.join("corpus").join(name), place.join("failures"));
    let start = place.join("seeds").join(name);
    for directory in [&corpus, &failures, &start] {
        fs::create_dir_all(directory)?;
    }
    sow(&workspace().join("attestation/testdata"), seeds, &start)?;
    let mut command = std::process::Command::new(program);
    command
        .args([&corpus, &start])
        .arg(format!("-max_total_time={}", arguments.seconds))
        .arg(format!("-max_len={longest}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .arg(format!("-timeout={SLOWEST}"))
        .arg(format!("-artifact_prefix={}/{name}-", failures.display()))
        .arg("-print_final_stats=1")
        .args(arguments.seed.map(|seed| format!("-seed={seed}")))
        .env("COFFER_FUZZ_TARGET", name)
        .stdin(Stdio::null());
    let output = step(&format!("fuzzing {name}"), || command.output()).context("cannot start it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let number = |what: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(what));
        line.map_or("?", str::trim).to_owned()
    };
    let seed = number("INFO: Seed:");
    if output.status.success() {
        let (inputs, reached) = (number("stat::number_of_executed_units:"), reached(&said));
        println!("fuzz {name}: {inputs} inputs, {reached} places reached, seed {seed}");
        return Ok(true);
    }
    let lines: Vec<&str> = said.lines().collect();
    say(&lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n"));
    println!("fuzz {name}: FAILED ({}), seed {seed}; the input is in {}", output.status, failures.display());
    Ok(false)
}

/// The last count of covered places.
fn reached(said: &str) -> String {
    let mut words = said.lines().rev().filter_map(|line| line.split(" cov: ").nth(1));
    words.find_map(|rest| rest.split_whitespace().next()).unwrap_or("?").to_owned()
}

/// Copies samples of these names to where a target starts from.
fn sow(from: &Path, names: &[&str], to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            sow(&path, names, to)?;
        } else if names.contains(&name.as_str()) {
            let parent = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
            fs::copy(&path, to.join(format!("{parent}-{name}")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_of_the_program_is_run() {
        let source = fs::read_to_string(workspace().join("tests/fuzz/src/main.rs")).unwrap();
        let named = source.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next());
        let named: Vec<&str> = named.collect();
        let run: Vec<&str> = TARGETS.iter().map(|(name, _, _)| *name).collect();
        assert_eq!(named, run);
    }
}
