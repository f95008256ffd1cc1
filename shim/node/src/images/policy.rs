//! The node's image policy, for guests without a secure processor.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use coffer_image::policy::{MAX_POLICY_BYTES, NoFiles, Policy, PolicyError};

/// Why the node has no policy that could be given to a guest.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// The node's policy is not there.
    #[error(
        "cannot read the node's image policy {path}: make the file, or take image.policy out of the configuration"
    )]
    NoPolicy {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The node's policy is none.
    #[error("the node's image policy {path} cannot be used")]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: PolicyError,
    },
}

/// The policy's JSON, which was parsed as a guest parses it: it may name no files, since guests have none of the node's.
///
/// # Errors
/// [`PolicyFileError`]
pub fn read_policy(path: &Path) -> Result<Vec<u8>, PolicyFileError> {
    let document =
        bounded(path).map_err(|source| PolicyFileError::NoPolicy { path: path.to_owned(), source })?;
    Policy::parse(&document, &NoFiles)
        .map_err(|source| PolicyFileError::Policy { path: path.to_owned(), source })?;
    Ok(document)
}

fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than a policy may have: the parser says so.
    let limit = u64::try_from(MAX_POLICY_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
