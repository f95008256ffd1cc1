//! Reads a manifest and compares the files beside it with what it says.
//!
//! What is compared is the content of the file that was opened. Whoever may write to the image's directory may still
//! swap a file afterwards: that directory belongs to root.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::format::{FORMAT, FileFacts, FileName, MANIFEST_FILE, Manifest};
use super::seen::{Fingerprint, Seen};
use crate::digest::Digest;

/// A manifest is about one KiB. What is longer is something else.
const MAX_MANIFEST: u64 = 64 * 1024;

/// A guest image whose kernel and initrd have been compared with its manifest.
#[derive(Debug, Clone)]
pub struct GuestImage {
    /// The kernel to boot.
    pub kernel: PathBuf,
    /// The initrd.
    pub initrd: PathBuf,
    /// The manifest, with the command line and where everything comes from.
    pub manifest: Manifest,
}

/// Why a guest image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file is missing or cannot be read.
    #[error("cannot read {path} of the guest image; build or install the image anew")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is not what this program writes.
    #[error("{path} is no manifest of a guest image; build or install the image anew")]
    Malformed {
        /// The manifest.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// The manifest was written by another version.
    #[error("{path} has format {found}, this program reads {FORMAT}; use image and program of one version")]
    Format {
        /// The manifest.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// The manifest is far too long.
    #[error("{path} is longer than {MAX_MANIFEST} bytes; build or install the image anew")]
    TooLong {
        /// The manifest.
        path: PathBuf,
    },
    /// The manifest boots a file that it does not list.
    #[error("{path} boots {file}, but does not list it among its files")]
    NotListed {
        /// The manifest.
        path: PathBuf,
        /// The file.
        file: FileName,
    },
    /// Something else has a file's name.
    #[error("{path} of the guest image is not a regular file")]
    NotAFile {
        /// What has the name.
        path: PathBuf,
    },
    /// A file is shorter or longer than the manifest says.
    #[error("{path} of the guest image has {found} bytes, the manifest says {expected}")]
    Size {
        /// The file.
        path: PathBuf,
        /// Length by the manifest.
        expected: u64,
        /// Length found.
        found: u64,
    },
    /// A file's content is not what the manifest says.
    #[error("{path} of the guest image hashes to {found}, the manifest says {expected}")]
    Digest {
        /// The file.
        path: PathBuf,
        /// Digest by the manifest.
        expected: Digest,
        /// Digest found.
        found: Digest,
    },
}

impl Manifest {
    /// Reads the manifest of the image in `dir`, and looks at no other file.
    pub fn read(dir: &Path) -> Result<Self, ManifestError> {
        let path = dir.join(MANIFEST_FILE);
        let mut text = Vec::new();
        let file = File::open(&path).map_err(|source| unreadable(&path, source))?;
        file.take(MAX_MANIFEST + 1).read_to_end(&mut text).map_err(|source| unreadable(&path, source))?;
        if text.len() as u64 > MAX_MANIFEST {
            return Err(ManifestError::TooLong { path });
        }
        // The format comes first: a manifest of another version would otherwise be blamed for a key we do not know.
        let OnlyFormat { format } = parse(&path, &text)?;
        if format != u64::from(FORMAT) {
            return Err(ManifestError::Format { path, found: format });
        }
        let manifest: Self = parse(&path, &text)?;
        manifest.facts(&path, &manifest.boot.kernel)?;
        manifest.facts(&path, &manifest.boot.initrd)?;
        Ok(manifest)
    }

    /// Reads the image in `dir` and hashes the kernel and the initrd it boots.
    pub fn load(dir: &Path) -> Result<GuestImage, ManifestError> {
        Self::load_with(dir, &mut None)
    }

    /// Like [`Manifest::load`], but does not hash a file again whose device, inode, size and change time are those of
    /// a file that was hashed before. `state_dir` keeps that knowledge and must be writable by root alone; that it
    /// cannot be written costs time, not the start.
    pub fn load_remembered(dir: &Path, state_dir: &Path) -> Result<GuestImage, ManifestError> {
        let mut seen = Some(Seen::open(state_dir));
        let image = Self::load_with(dir, &mut seen)?;
        if let Some(seen) = seen {
            seen.save();
        }
        Ok(image)
    }

    /// Hashes every file that the manifest lists, also those that are not booted.
    pub fn verify_all(&self, dir: &Path) -> Result<(), ManifestError> {
        self.files.iter().try_for_each(|(name, facts)| check(&dir.join(name.as_str()), facts, &mut None))
    }

    fn load_with(dir: &Path, seen: &mut Option<Seen>) -> Result<GuestImage, ManifestError> {
        let manifest = Self::read(dir)?;
        let kernel = manifest.check_file(dir, &manifest.boot.kernel, seen)?;
        let initrd = manifest.check_file(dir, &manifest.boot.initrd, seen)?;
        Ok(GuestImage { kernel, initrd, manifest })
    }

    fn check_file(
        &self,
        dir: &Path,
        name: &FileName,
        seen: &mut Option<Seen>,
    ) -> Result<PathBuf, ManifestError> {
        let facts = self.facts(&dir.join(MANIFEST_FILE), name)?;
        let path = dir.join(name.as_str());
        check(&path, facts, seen)?;
        Ok(path)
    }

    fn facts(&self, manifest: &Path, file: &FileName) -> Result<&FileFacts, ManifestError> {
        let missing = || ManifestError::NotListed { path: manifest.to_owned(), file: file.clone() };
        self.files.get(file).ok_or_else(missing)
    }
}

#[derive(Deserialize)]
struct OnlyFormat {
    format: u64,
}

fn parse<'a, T: Deserialize<'a>>(path: &Path, text: &'a [u8]) -> Result<T, ManifestError> {
    serde_json::from_slice(text).map_err(|source| ManifestError::Malformed { path: path.to_owned(), source })
}

fn unreadable(path: &Path, source: io::Error) -> ManifestError {
    ManifestError::Unreadable { path: path.to_owned(), source }
}

fn check(path: &Path, facts: &FileFacts, seen: &mut Option<Seen>) -> Result<(), ManifestError> {
    let failed = |source| unreadable(path, source);
    let file = File::open(path).map_err(failed)?;
    let before = file.metadata().map_err(failed)?;
    if !before.is_file() {
        return Err(ManifestError::NotAFile { path: path.to_owned() });
    }
    let expected = facts.size;
    if before.len() != expected {
        return Err(ManifestError::Size { path: path.to_owned(), expected, found: before.len() });
    }
    let fingerprint = Fingerprint::of(&before);
    if seen.as_ref().is_some_and(|seen| seen.knows(&fingerprint, &facts.digest)) {
        return Ok(());
    }
    let (digest, size) = Digest::of_reader(&file).map_err(failed)?;
    if size != expected {
        return Err(ManifestError::Size { path: path.to_owned(), expected, found: size });
    }
    if digest != facts.digest {
        return Err(ManifestError::Digest { path: path.to_owned(), expected: facts.digest, found: digest });
    }
    let after = file.metadata().map_err(failed)?;
    if let Some(seen) = seen
        && Fingerprint::of(&after) == fingerprint
    {
        seen.remember(fingerprint, digest);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::manifest::{AgentFacts, Boot, KernelFacts, KernelKind};

    fn name(text: &str) -> FileName {
        FileName::try_from(text.to_owned()).unwrap()
    }

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            boot: Boot {
                kernel: name("vmlinux"),
                initrd: name("initrd.img"),
                cmdline: "console=ttyS0".into(),
                needs_acpi: false,
            },
            files: [
                (name("vmlinux"), FileFacts::of(b"kernel")),
                (name("bzImage"), FileFacts::of(b"packed kernel")),
                (name("initrd.img"), FileFacts::of(b"initrd")),
            ]
            .into(),
            kernel: KernelFacts {
                kind: KernelKind::Slim,
                release: "6.12.0-coffer".into(),
                package: "linux-source-6.12=6.12.0-1".into(),
                config: Digest::of(b"config"),
            },
            agent: AgentFacts { size: 5, digest: Digest::of(b"agent") },
        }
    }

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("vmlinux"), "kernel").unwrap();
        fs::write(dir.path().join("bzImage"), "packed kernel").unwrap();
        fs::write(dir.path().join("initrd.img"), "initrd").unwrap();
        write_manifest(dir.path(), &serde_json::to_string(&manifest()).unwrap());
        dir
    }

    fn write_manifest(dir: &Path, text: &str) {
        fs::write(dir.join(MANIFEST_FILE), text).unwrap();
    }

    #[test]
    fn an_image_that_matches_its_manifest_is_loaded() {
        let dir = image();
        let image = Manifest::load(dir.path()).unwrap();
        assert_eq!(image.kernel, dir.path().join("vmlinux"));
        assert_eq!(image.initrd, dir.path().join("initrd.img"));
        assert_eq!(image.manifest, manifest());
    }

    #[test]
    fn a_changed_kernel_is_refused_and_the_message_names_file_and_both_digests() {
        let dir = image();
        fs::write(dir.path().join("vmlinux"), "kernal").unwrap();
        let message = Manifest::load(dir.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("{}", dir.path().join("vmlinux").display())), "{message}");
        assert!(message.contains(&format!("hashes to {}", Digest::of(b"kernal"))), "{message}");
        assert!(message.contains(&format!("says {}", Digest::of(b"kernel"))), "{message}");
    }

    #[test]
    fn a_truncated_initrd_is_refused_and_the_message_names_file_and_both_sizes() {
        let dir = image();
        fs::write(dir.path().join("initrd.img"), "init").unwrap();
        let message = Manifest::load(dir.path()).unwrap_err().to_string();
        assert!(
            message.ends_with("initrd.img of the guest image has 4 bytes, the manifest says 6"),
            "{message}"
        );
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let dir = image();
        let text = serde_json::to_string(&manifest()).unwrap().replacen("{", r#"{"shell":"/bin/sh","#, 1);
        write_manifest(dir.path(), &text);
        assert!(matches!(Manifest::load(dir.path()), Err(ManifestError::Malformed { .. })));
    }

    #[test]
    fn an_unknown_key_in_an_inner_table_is_refused() {
        let dir = image();
        let text =
            serde_json::to_string(&manifest()).unwrap().replace("{\"kernel\":", "{\"shell\":1,\"kernel\":");
        write_manifest(dir.path(), &text);
        assert!(matches!(Manifest::load(dir.path()), Err(ManifestError::Malformed { .. })));
    }

    #[test]
    fn a_truncated_manifest_is_refused() {
        let dir = image();
        let text = serde_json::to_string(&manifest()).unwrap();
        write_manifest(dir.path(), &text[..text.len() / 2]);
        assert!(matches!(Manifest::load(dir.path()), Err(ManifestError::Malformed { .. })));
    }

    #[test]
    fn a_manifest_without_end_is_refused() {
        let dir = image();
        write_manifest(dir.path(), &" ".repeat(1 << 20));
        assert!(matches!(Manifest::load(dir.path()), Err(ManifestError::TooLong { .. })));
    }

    #[test]
    fn a_manifest_of_a_later_format_is_refused_for_its_format() {
        let dir = image();
        write_manifest(dir.path(), r#"{"format": 2, "something": "new"}"#);
        assert!(matches!(Manifest::load(dir.path()), Err(ManifestError::Format { found: 2, .. })));
    }

    #[test]
    fn a_manifest_that_boots_a_file_it_does_not_list_is_refused() {
        let dir = image();
        let mut manifest = manifest();
        manifest.files.remove("vmlinux");
        write_manifest(dir.path(), &serde_json::to_string(&manifest).unwrap());
        assert!(matches!(Manifest::load(dir.path()), Err(ManifestError::NotListed { .. })));
    }

    #[test]
    fn a_missing_file_is_named() {
        let dir = image();
        fs::remove_file(dir.path().join("initrd.img")).unwrap();
        let message = Manifest::load(dir.path()).unwrap_err().to_string();
        assert!(message.contains("initrd.img"), "{message}");
    }

    #[test]
    fn a_directory_in_a_file_s_place_is_refused() {
        let dir = image();
        fs::remove_file(dir.path().join("vmlinux")).unwrap();
        fs::create_dir(dir.path().join("vmlinux")).unwrap();
        assert!(matches!(Manifest::load(dir.path()), Err(ManifestError::NotAFile { .. })));
    }

    #[test]
    fn a_changed_file_that_is_not_booted_matters_only_to_verify_all() {
        let dir = image();
        fs::write(dir.path().join("bzImage"), "PACKED KERNEL").unwrap();
        let image = Manifest::load(dir.path()).unwrap();
        assert!(matches!(image.manifest.verify_all(dir.path()), Err(ManifestError::Digest { .. })));
    }

    #[test]
    fn a_remembered_file_is_not_hashed_again() {
        // Proof by a lie: the memory says of this very file that it has the digest, and the wrong content passes.
        let (dir, state) = (image(), tempfile::tempdir().unwrap());
        fs::write(dir.path().join("vmlinux"), "kernal").unwrap();
        let file = Fingerprint::of(&fs::metadata(dir.path().join("vmlinux")).unwrap());
        let entries = serde_json::json!([{ "file": file, "digest": Digest::of(b"kernel") }]);
        fs::write(state.path().join("guest-image-verified.json"), entries.to_string()).unwrap();
        assert!(Manifest::load_remembered(dir.path(), state.path()).is_ok());
        assert!(Manifest::load(dir.path()).is_err());
    }

    #[test]
    fn a_remembered_file_with_another_change_time_is_hashed_again() {
        let (dir, state) = (image(), tempfile::tempdir().unwrap());
        let file = Fingerprint::of(&fs::metadata(dir.path().join("vmlinux")).unwrap());
        let entries = serde_json::json!([{ "file": file, "digest": Digest::of(b"kernel") }]);
        fs::write(state.path().join("guest-image-verified.json"), entries.to_string()).unwrap();
        // A new file of the same size under the same name, as an installation would leave it.
        fs::write(dir.path().join("new"), "kernal").unwrap();
        fs::rename(dir.path().join("new"), dir.path().join("vmlinux")).unwrap();
        assert!(matches!(
            Manifest::load_remembered(dir.path(), state.path()),
            Err(ManifestError::Digest { .. })
        ));
    }

    #[test]
    fn a_file_that_changed_a_moment_ago_is_not_remembered() {
        let (dir, state) = (image(), tempfile::tempdir().unwrap());
        Manifest::load_remembered(dir.path(), state.path()).unwrap();
        assert!(!state.path().join("guest-image-verified.json").exists());
    }

    #[test]
    fn a_damaged_memory_costs_a_hash_and_nothing_else() {
        let (dir, state) = (image(), tempfile::tempdir().unwrap());
        fs::write(state.path().join("guest-image-verified.json"), "[{]").unwrap();
        assert!(Manifest::load_remembered(dir.path(), state.path()).is_ok());
    }
}
