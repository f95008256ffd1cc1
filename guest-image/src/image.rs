//! Puts an image together: kernel, initrd and manifest in one directory, all at once or not at all.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::agent::{AgentError, agent};
use crate::initrd::Initrd;
use crate::kernel::{Cache, Kernel, KernelError};
use crate::manifest::{
    AgentFacts, Boot, FORMAT, FileFacts, FileName, KernelKind, MANIFEST_FILE, Manifest, ManifestError,
};

const INITRD: FileName = FileName::ours("initrd.img");

/// Kernel and initrd are held by every node and read at every start.
const MAX_BOOT_BYTES: u64 = 24 << 20;

/// The agent stays in every pod's memory.
const MAX_AGENT_BYTES: u64 = 8 << 20;

/// What to build.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The directory that becomes the image.
    pub out: PathBuf,
    /// Which kernel.
    pub kernel: KernelKind,
    /// Version of the kernel's package, if not the newest.
    pub kernel_version: Option<String>,
    /// The agent, if it is not to be built.
    pub agent: Option<PathBuf>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no kernel.
    #[error("cannot make the kernel")]
    Kernel {
        /// Why.
        source: KernelError,
    },
    /// There is no agent.
    #[error("cannot make the agent")]
    Agent {
        /// Why.
        source: AgentError,
    },
    /// A file could not be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The output directory holds something else.
    #[error("{path} is not empty and holds no guest image; name a directory of its own")]
    NotAnImage {
        /// The output directory.
        path: PathBuf,
    },
    /// Something became too large.
    #[error("{what} has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// What was written is not what was meant.
    #[error("the image was written, but does not verify")]
    Manifest {
        /// Why.
        source: ManifestError,
    },
}

/// Builds an image and returns its manifest. An image that is there already and would be the same is left alone.
pub fn build(recipe: &Recipe, cache: &Cache) -> Result<Manifest, BuildError> {
    refuse_foreign(&recipe.out)?;
    let agent = agent(recipe.agent.as_deref()).map_err(|source| BuildError::Agent { source })?;
    let version = recipe.kernel_version.as_deref();
    let kernel = match recipe.kernel {
        KernelKind::Slim => Kernel::slim(cache, version),
        KernelKind::Debian => Kernel::debian(cache, version),
    };
    assemble(&kernel.map_err(|source| BuildError::Kernel { source })?, agent, &recipe.out)
}

/// Writes the image of this kernel and this agent to `out`.
pub fn assemble(kernel: &Kernel, agent: Vec<u8>, out: &Path) -> Result<Manifest, BuildError> {
    let facts = AgentFacts::of(&agent);
    limit("the agent", facts.size, MAX_AGENT_BYTES)?;
    let mut contents = BTreeMap::from([(INITRD, initrd(kernel, agent)?)]);
    for (name, path) in &kernel.files {
        contents.insert(name.clone(), fs::read(path).map_err(file(path))?);
    }
    let manifest = manifest(kernel, facts, &contents)?;
    if Manifest::read(out).is_ok_and(|old| old == manifest && old.verify_all(out).is_ok()) {
        return Ok(manifest);
    }
    let text = serde_json::to_string_pretty(&manifest).map_err(io::Error::other).map_err(file(out))?;
    contents.insert(FileName::ours(MANIFEST_FILE), format!("{text}\n").into_bytes());
    replace(out, &contents)?;
    manifest.verify_all(out).map_err(|source| BuildError::Manifest { source })?;
    Ok(manifest)
}

fn manifest(
    kernel: &Kernel,
    agent: AgentFacts,
    contents: &BTreeMap<FileName, Vec<u8>>,
) -> Result<Manifest, BuildError> {
    let files: BTreeMap<_, _> =
        contents.iter().map(|(name, bytes)| (name.clone(), FileFacts::of(bytes))).collect();
    let boot = Boot {
        kernel: kernel.boots.clone(),
        initrd: INITRD,
        cmdline: kernel.cmdline.to_owned(),
        needs_acpi: kernel.needs_acpi,
    };
    let size = |name| files.get(name).map_or(0, |facts| facts.size);
    limit("kernel and initrd together", size(&boot.kernel) + size(&boot.initrd), MAX_BOOT_BYTES)?;
    Ok(Manifest { format: FORMAT, boot, files, kernel: kernel.facts.clone(), agent })
}

fn initrd(kernel: &Kernel, agent: Vec<u8>) -> Result<Vec<u8>, BuildError> {
    let mut initrd = Initrd::with_agent(agent);
    if !kernel.modules.is_empty() {
        let mut modules = Vec::new();
        for path in &kernel.modules {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            modules.push((name, fs::read(path).map_err(file(path))?));
        }
        initrd.modules(modules);
    }
    initrd.to_bytes().map_err(file(Path::new(INITRD.as_str())))
}

/// Writes a new directory beside `out` and swaps the two, so that nobody ever sees a mixture.
fn replace(out: &Path, contents: &BTreeMap<FileName, Vec<u8>>) -> Result<(), BuildError> {
    let out = std::path::absolute(out).map_err(file(out))?;
    let parent = out.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(file(parent))?;
    let stage = tempfile::Builder::new().prefix(".guest-image.").tempdir_in(parent).map_err(file(parent))?;
    for (name, bytes) in contents {
        let path = stage.path().join(name.as_str());
        fs::write(&path, bytes).map_err(file(&path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o644)).map_err(file(&path))?;
    }
    fs::set_permissions(stage.path(), Permissions::from_mode(0o755)).map_err(file(stage.path()))?;
    if out.exists() {
        let swapped = renameat2(AT_FDCWD, stage.path(), AT_FDCWD, &out, RenameFlags::RENAME_EXCHANGE);
        return swapped.map_err(|error| file(&out)(error.into()));
    }
    fs::rename(stage.keep(), &out).map_err(file(&out))
}

fn refuse_foreign(out: &Path) -> Result<(), BuildError> {
    let holds_something = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if holds_something && !out.join(MANIFEST_FILE).exists() {
        return Err(BuildError::NotAnImage { path: out.to_owned() });
    }
    Ok(())
}

fn limit(what: &'static str, size: u64, limit: u64) -> Result<(), BuildError> {
    if size > limit { Err(BuildError::TooLarge { what, size, limit }) } else { Ok(()) }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> BuildError + use<> {
    let path = path.to_owned();
    move |source| BuildError::File { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::digest::Digest;
    use crate::manifest::KernelFacts;

    fn kernel(dir: &Path) -> Kernel {
        fs::write(dir.join("vmlinux"), "kernel").unwrap();
        fs::write(dir.join("bzImage"), "packed kernel").unwrap();
        Kernel {
            facts: KernelFacts {
                kind: KernelKind::Slim,
                release: "6.12.0-coffer".into(),
                package: "linux-source-6.12=6.12.0-1".into(),
                config: Digest::of(b"config"),
            },
            boots: FileName::ours("vmlinux"),
            files: ["vmlinux", "bzImage"].map(|name| (FileName::ours(name), dir.join(name))).into(),
            modules: Vec::new(),
            cmdline: "console=ttyS0",
            needs_acpi: false,
        }
    }

    fn files(dir: &Path) -> BTreeMap<std::ffi::OsString, Vec<u8>> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect()
    }

    #[test]
    fn two_images_of_the_same_inputs_are_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = kernel(dir.path());
        assemble(&kernel, b"agent".to_vec(), &dir.path().join("one")).unwrap();
        assemble(&kernel, b"agent".to_vec(), &dir.path().join("two")).unwrap();
        assert_eq!(files(&dir.path().join("one")), files(&dir.path().join("two")));
    }

    #[test]
    fn an_image_verifies_and_boots_the_first_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("image");
        let written = assemble(&kernel(dir.path()), b"agent".to_vec(), &out).unwrap();
        let image = Manifest::load(&out).unwrap();
        assert_eq!(image.manifest, written);
        assert_eq!(image.kernel, out.join("vmlinux"));
    }

    #[test]
    fn a_new_image_takes_the_place_of_the_old_one_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, out) = (kernel(dir.path()), dir.path().join("image"));
        assemble(&kernel, b"old agent".to_vec(), &out).unwrap();
        fs::write(out.join("left-over"), "x").unwrap();
        assemble(&kernel, b"new agent".to_vec(), &out).unwrap();
        assert_eq!(Manifest::load(&out).unwrap().manifest.agent, AgentFacts::of(b"new agent"));
        assert_eq!(files(&out).len(), 4);
    }

    #[test]
    fn an_image_that_would_be_the_same_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, out) = (kernel(dir.path()), dir.path().join("image"));
        assemble(&kernel, b"agent".to_vec(), &out).unwrap();
        let inode = fs::metadata(&out).unwrap().ino();
        assemble(&kernel, b"agent".to_vec(), &out).unwrap();
        assert_eq!(fs::metadata(&out).unwrap().ino(), inode);
    }

    #[test]
    fn a_directory_that_holds_something_else_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("letter"), "dear reader").unwrap();
        assert!(matches!(refuse_foreign(dir.path()), Err(BuildError::NotAnImage { .. })));
    }

    #[test]
    fn an_agent_that_is_too_large_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let agent = vec![0; (MAX_AGENT_BYTES + 1) as usize];
        let error = assemble(&kernel(dir.path()), agent, &dir.path().join("image")).unwrap_err();
        assert_eq!(error.to_string(), "the agent has 8388609 bytes, the limit is 8388608");
    }
}
