//! The contents of one installed version, and its name: equal bytes have equal names, so installing twice is harmless.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use coffer_guest_image::manifest::{MANIFEST_FILE, Manifest};
use sha2::{Digest, Sha256};

/// The shim's binary; containerd derives this name from `io.containerd.coffer.v2`.
pub(super) const SHIM: &str = "containerd-shim-coffer-v2";
/// This command's binary.
pub(super) const CLI: &str = "coffer";
const VMM: &str = "coffer-vmm";

/// One file of a version.
#[derive(Debug)]
pub(super) struct Artefact {
    from: PathBuf,
    /// Below the version's directory.
    pub(super) to: PathBuf,
    mode: u32,
}

/// The artefacts of a version: binaries in `from`, the verified guest image in `guest`.
pub(super) fn artefacts(from: &Path, guest: &Path) -> anyhow::Result<Vec<Artefact>> {
    let image = Manifest::load(guest).context("the guest image to install is not sound")?;
    let mut artefacts = Vec::new();
    for name in [SHIM, VMM, CLI] {
        let path = from.join(name);
        if !path.is_file() {
            bail!(
                "{} is not there: build it with `cargo build --release`, or name the directory by --from",
                path.display()
            );
        }
        artefacts.push(Artefact { from: path, to: PathBuf::from(name), mode: 0o755 });
    }
    let names = image.manifest.files.keys().map(|name| name.as_str().to_owned());
    for name in names.chain([MANIFEST_FILE.to_owned()]) {
        let to = Path::new("guest").join(&name);
        artefacts.push(Artefact { from: guest.join(&name), to, mode: 0o644 });
    }
    Ok(artefacts)
}

/// `<package version>-<first 12 hex digits of a digest over names and contents>`.
pub(super) fn name(artefacts: &[Artefact]) -> anyhow::Result<String> {
    let mut digest = Sha256::new();
    for artefact in artefacts {
        digest.update(artefact.to.as_os_str().as_encoded_bytes());
        digest.update([0]);
        let content =
            fs::read(&artefact.from).with_context(|| format!("reading {}", artefact.from.display()))?;
        digest.update(Sha256::digest(&content));
    }
    let hex: String = digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{}-{hex}", env!("CARGO_PKG_VERSION")))
}

/// Copies a version into place: complete under its name, or not there.
pub(super) fn copy(artefacts: &[Artefact], target: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if target.is_dir() {
        return Ok(());
    }
    let half = target.with_extension("half");
    remove_tree(&half)?;
    for artefact in artefacts {
        let to = half.join(&artefact.to);
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        fs::copy(&artefact.from, &to)
            .and_then(|_| fs::set_permissions(&to, fs::Permissions::from_mode(artefact.mode)))
            .with_context(|| format!("copying {} to {}", artefact.from.display(), to.display()))?;
    }
    fs::rename(&half, target).with_context(|| format!("renaming {} to {}", half.display(), target.display()))
}

/// Removes a directory; a missing one is fine.
pub(super) fn remove_tree(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}
