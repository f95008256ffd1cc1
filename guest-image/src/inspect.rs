//! Describes an image for a reader, and says whether its files are what its manifest promises.

use std::fmt::Write;
use std::path::Path;

use serde_json::json;

use crate::manifest::{Manifest, ManifestError};

/// The description of the image in `dir`, and whether it verifies.
#[derive(Debug)]
pub struct Inspection {
    manifest: Manifest,
    verified: Result<(), ManifestError>,
}

impl Inspection {
    /// Reads the manifest in `dir` and hashes every file it lists.
    pub fn of(dir: &Path) -> Result<Self, ManifestError> {
        let manifest = Manifest::read(dir)?;
        let verified = manifest.verify_all(dir);
        Ok(Self { manifest, verified })
    }

    /// What is wrong with the image's files.
    pub fn verified(&self) -> Result<(), &ManifestError> {
        self.verified.as_ref().copied()
    }

    /// The manifest and the verdict as JSON.
    pub fn json(&self) -> serde_json::Value {
        let fault = self.verified.as_ref().err().map(ToString::to_string);
        json!({ "manifest": self.manifest, "verified": fault.is_none(), "fault": fault })
    }

    /// The same for a human.
    pub fn table(&self) -> String {
        let Manifest { boot, kernel, agent, files, .. } = &self.manifest;
        let mut table = String::new();
        let mut row = |key: &str, value: String| _ = writeln!(table, "{key:<10} {value}");
        row("kernel", format!("{} ({}, {})", kernel.release, kernel.kind, kernel.package));
        row("config", kernel.config.to_string());
        row("boots", format!("{} with {}", boot.kernel, boot.initrd));
        row("cmdline", boot.cmdline.clone());
        row("devices", if boot.needs_acpi { "by ACPI" } else { "by command line" }.to_owned());
        row("agent", format!("{:>9} bytes  {}", agent.size, agent.digest));
        for (name, facts) in files {
            row(name.as_str(), format!("{:>9} bytes  {}", facts.size, facts.digest));
        }
        row(
            "verified",
            self.verified.as_ref().map_or_else(|error| format!("NO: {error}"), |()| "yes".to_owned()),
        );
        table
    }
}
