//! An image as an OCI image layout in a tar, the form that `ctr images import` takes.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::layer::Layer;

/// An image: its name, what it runs, and its layers from the lowest up.
pub struct Image {
    /// The full reference that it gets in containerd.
    pub name: String,
    /// The configuration's `Cmd`.
    pub command: Vec<String>,
    /// The configuration's `Env`.
    pub environment: Vec<String>,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// Writes the image to a tar at `path`.
    pub fn write(self, path: &Path) -> Result<()> {
        let mut blobs = Blobs { tar: Builder::new(std::fs::File::create(path)?) };
        let mut digests = Vec::new();
        let mut layers = Vec::new();
        for layer in self.layers {
            let descriptor = blobs.add("application/vnd.oci.image.layer.v1.tar", &layer.finish()?)?;
            digests.push(descriptor["digest"].clone());
            layers.push(descriptor);
        }
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": { "Cmd": self.command, "Env": self.environment },
            "rootfs": { "type": "layers", "diff_ids": digests },
        });
        let config = blobs.add_json("application/vnd.oci.image.config.v1+json", &config)?;
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers });
        let mut manifest = blobs.add_json(manifest_type, &manifest)?;
        manifest["annotations"] = json!({ "io.containerd.image.name": self.name });
        manifest["platform"] = json!({ "architecture": "amd64", "os": "linux" });
        blobs.file(
            "index.json",
            json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string().as_bytes(),
        )?;
        blobs.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        blobs.tar.finish()?;
        Ok(())
    }
}

struct Blobs {
    tar: Builder<std::fs::File>,
}

impl Blobs {
    fn add_json(&mut self, media_type: &str, value: &Value) -> Result<Value> {
        self.add(media_type, value.to_string().as_bytes())
    }

    fn add(&mut self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        self.file(&format!("blobs/sha256/{hex}"), bytes)?;
        Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len() }))
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        Ok(self.tar.append_data(&mut header, path, bytes)?)
    }
}
