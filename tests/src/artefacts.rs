//! What this workspace builds, and where it lies: the shim, its companions, the guest image, the static test tool.
//!
//! `COFFER_BIN_DIR`, `COFFER_GUEST_DIR` and `COFFER_TESTBOX` name ready ones; without them they are built here, once per process.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::packages::cache;
use crate::progress::step;
use crate::run::Run;

/// The target that the static programs are built for: with it, build scripts and macros keep the machine's own.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";
const BUILD_LIMIT: Duration = Duration::from_secs(3000);

/// Coffer as the tests use it.
#[derive(Clone, Debug)]
pub struct Coffer {
    /// Directory of `containerd-shim-coffer-v2`, `coffer-vmm`, `coffer` and `coffer-verifier`.
    pub binaries: PathBuf,
    /// Directory of the guest image.
    pub guest: PathBuf,
}

/// The workspace's directory.
pub fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// Coffer, built when nobody says where it is.
pub fn coffer() -> Result<Coffer> {
    static BUILT: OnceLock<Result<Coffer, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.clone().map_err(|error| anyhow!("cannot build coffer: {error}"))
}

/// The static test tool.
pub fn testbox() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build_testbox().map_err(|error| format!("{error:#}")));
    built.clone().map_err(|error| anyhow!("cannot build the test tool: {error}"))
}

/// The static first process of the nested machine.
pub fn lab() -> Result<PathBuf> {
    step("building the nested machine's program", || build_static("coffer-lab"))
        .context("cannot build the nested machine's program")
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    let set = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    set.map_or_else(|| workspace().join("target"), |path| workspace().join(path))
}

fn build() -> Result<Coffer> {
    let given = |name| std::env::var_os(name).map(PathBuf::from);
    let binaries = match given("COFFER_BIN_DIR") {
        Some(path) => path,
        None => step("building the shim, the machine's processes and the CLI", build_binaries)?,
    };
    let guest = match given("COFFER_GUEST_DIR") {
        Some(path) => path,
        None => step("building the guest image", || build_guest(&binaries))?,
    };
    Ok(Coffer { binaries, guest })
}

fn build_binaries() -> Result<PathBuf> {
    let packages =
        ["containerd-shim-coffer-v2", "coffer-vmm", "coffer-cli", "coffer-guest-image", "coffer-verifier"];
    let arguments = packages.iter().flat_map(|package| ["-p", package]);
    cargo().args(["build", "--quiet", "--release", "--bins"]).args(arguments).text()?;
    Ok(target().join("release"))
}

fn build_guest(binaries: &Path) -> Result<PathBuf> {
    let guest = cache().join("guest-image");
    let run = Run::new(binaries.join("coffer-guest-image")).args(["build", "--out"]).args([&guest]);
    run.directory(workspace()).limit(BUILD_LIMIT).text()?;
    Ok(guest)
}

fn build_testbox() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("COFFER_TESTBOX") {
        return Ok(path.into());
    }
    step("building the static test tool", || build_static("coffer-testbox"))
}

/// Builds the program of the package `name`, of the same name, without shared libraries.
fn build_static(name: &str) -> Result<PathBuf> {
    let run = cargo().args(["build", "--quiet", "--release", "-p", name, "--target", STATIC_TARGET]);
    let flags = "-C target-feature=+crt-static";
    run.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags).text().context("cargo failed")?;
    Ok(target().join(STATIC_TARGET).join("release").join(name))
}

fn cargo() -> Run {
    let program = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    Run::new(program).directory(workspace()).env("CARGO_TARGET_DIR", target()).limit(BUILD_LIMIT)
}
