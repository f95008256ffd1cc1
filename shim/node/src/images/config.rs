//! The configuration's table `[image]`.

use std::path::PathBuf;

use serde::Deserialize;

/// Which images may run, and where their signatures are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// The node's policy (JSON, a superset of containers-policy.json), for pods without a secure processor; `None`: their images
    /// are not judged. A pod with one has its policy in its initdata, and this one does not count.
    pub policy: Option<PathBuf>,
    /// What the policy would refuse is told, and runs.
    pub dry_run: bool,
    /// Directory of the node's signature objects.
    pub signatures: PathBuf,
}

impl Default for Images {
    fn default() -> Self {
        Self { policy: None, dry_run: false, signatures: PathBuf::from("/var/lib/coffer/signatures") }
    }
}

/// The table as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    policy: Option<PathBuf>,
    dry_run: Option<bool>,
    signatures: Option<PathBuf>,
}

/// A key, what it is, and what it must be.
type Wrong = (&'static str, String, &'static str);

impl Table {
    /// The checked values; `measured` says that pods have a secure processor.
    pub(crate) fn checked(self, measured: bool) -> Result<Images, Wrong> {
        let dry_run = self.dry_run.unwrap_or_default();
        let refused = |allowed| Err(("image.dry_run", dry_run.to_string(), allowed));
        if dry_run && measured {
            return refused(
                "false or left out with tee.kind: a guest with a secure processor refuses what its policy refuses",
            );
        }
        if dry_run && self.policy.is_none() {
            return refused("left out without image.policy: there is nothing to try");
        }
        let default = Images::default();
        let images = Images {
            policy: self.policy,
            dry_run,
            signatures: self.signatures.unwrap_or(default.signatures),
        };
        let policy = images.policy.iter().map(|path| ("image.policy", path));
        let relative =
            policy.chain([("image.signatures", &images.signatures)]).find(|(_, path)| path.is_relative());
        match relative {
            Some((key, path)) => Err((key, path.display().to_string(), "an absolute path")),
            None => Ok(images),
        }
    }
}
