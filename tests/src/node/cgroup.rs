//! Where a machine's processes and processors are held to its limits.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Node;

impl Node {
    /// The cgroup of the machine of the pod `id` that its processors' own is below, in either version's hierarchy.
    pub fn machine_cgroup(&self, id: &str) -> Result<PathBuf> {
        let below = format!("{}/{id}/coffer-{id}", self.layout.tag);
        let hierarchies = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup"].map(|root| Path::new(root).join(&below));
        let found = hierarchies.into_iter().find(|path| path.join("processors").exists());
        found.with_context(|| format!("no cgroup of processors at {below}"))
    }
}
