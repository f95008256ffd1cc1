//! An image as its publisher has it: a directory (OCI image layout) that is signed, sealed and given to nodes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::images::Image;
use crate::node::Node;
use crate::wait;

/// An image in a directory.
pub struct Published {
    directory: PathBuf,
    /// The name under which nodes have it.
    pub name: String,
    /// `sha256:…` of its manifest.
    pub digest: String,
}

impl Published {
    /// Writes `image` to a directory of its own.
    pub fn new(node: &Node, image: Image) -> Result<Self> {
        let name = image.name.clone();
        let archive = node.layout.data.join("published.tar");
        image.write(&archive)?;
        let directory = directory_of(node, &name)?;
        tar::Archive::new(fs::File::open(&archive)?).unpack(&directory)?;
        fs::remove_file(archive)?;
        Self::of(directory, name)
    }

    /// The same image, sealed, under another name.
    pub fn sealed(&self, node: &Node, name: &str) -> Result<Self> {
        let directory = directory_of(node, name)?;
        let run = node.coffer_command().args(["image", "seal"]).arg(&self.directory);
        let run = run.args(["--reference", &self.digest, "--to"]).arg(&directory);
        run.limit(Duration::from_secs(120)).text()?;
        Self::of(directory, name.to_owned())
    }

    /// The same image with encrypted layers, under another name, and a node that can pull such images; `key` is a URI, and a file.
    pub fn encrypted(&self, node: &Node, name: &str, key: (&str, &Path)) -> Result<Self> {
        let directory = directory_of(node, name)?;
        let run = node.coffer_command().args(["image", "encrypt"]).arg(&self.directory);
        let run = run.args(["--reference", &self.digest, "--to"]).arg(&directory);
        let run = run.args(["--key", &format!("{}={}", key.0, key.1.display())]);
        run.limit(Duration::from_secs(120)).text()?;
        let program = node.layout.placeholder_program();
        if !program.exists() {
            symlink(node.coffer_program(), &program)?;
        }
        Self::of(directory, name.to_owned())
    }

    /// Signs it with the private key in the file `key`.
    pub fn sign(&self, node: &Node, key: &Path) -> Result<()> {
        let run = node.coffer_command().args(["image", "sign"]).arg(&self.directory);
        let run = run.args(["--reference", &self.digest, "--key"]).arg(key);
        run.text().map(drop)
    }

    /// How whoever signed it is called by `policy`, which takes it.
    pub fn signer(&self, node: &Node, policy: &Value) -> Result<String> {
        let file = node.layout.data.join("published-policy.json");
        fs::write(&file, policy.to_string())?;
        let run = node.coffer_command().args(["--json", "image", "verify"]).arg(&self.directory);
        let run = run.args(["--reference", &self.digest, "--name", &self.name, "--policy"]).arg(&file);
        let judgement: Value = serde_json::from_str(&run.text()?)?;
        let name = judgement.pointer("/requirements/0/signers/0/name").and_then(Value::as_str);
        name.map(str::to_owned).with_context(|| format!("nobody signed {}: {judgement}", self.name))
    }

    /// Gives its signatures to the node's store.
    pub fn bring_signatures(&self, node: &Node) -> Result<()> {
        let run = node.coffer_command().args(["image", "fetch"]).arg(&self.directory);
        run.args(["--reference", &self.digest]).text().map(drop)
    }

    /// Gives the image to the node's containerd, for its CRI.
    pub fn import(&self, node: &Node) -> Result<()> {
        let archive = node.layout.data.join("import.tar");
        let mut tar = tar::Builder::new(fs::File::create(&archive)?);
        let mut entry = self.entry()?;
        entry["annotations"] = json!({ "io.containerd.image.name": self.name });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
        for (path, text) in
            [("index.json", index.as_str()), ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)]
        {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, path, text.as_bytes())?;
        }
        tar.append_dir_all("blobs", self.directory.join("blobs"))?;
        tar.finish()?;
        node.ctr_in("k8s.io", ["images", "import"]).arg(&archive).text()?;
        fs::remove_file(archive)?;
        wait::until_true("the CRI to know the image", Duration::from_secs(20), || {
            node.cri().has_image(&self.name).unwrap_or(false)
        })
    }

    /// The manifest's bytes, read as JSON.
    pub fn manifest(&self) -> Result<Value> {
        let hex = self.digest.trim_start_matches("sha256:");
        Ok(serde_json::from_slice(&fs::read(self.directory.join("blobs/sha256").join(hex))?)?)
    }

    fn of(directory: PathBuf, name: String) -> Result<Self> {
        let index = index_of(&directory)?;
        let digest = index["manifests"][0]["digest"].as_str().context("the directory names no manifest")?;
        Ok(Self { digest: digest.to_owned(), directory, name })
    }

    fn entry(&self) -> Result<Value> {
        let index = index_of(&self.directory)?;
        let entries = index["manifests"].as_array().context("an index without manifests")?;
        let mine = entries.iter().find(|entry| entry["digest"] == json!(self.digest));
        mine.cloned().context("the image is not in its directory any more")
    }
}

fn index_of(directory: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(directory.join("index.json"))?)?)
}

fn directory_of(node: &Node, name: &str) -> Result<PathBuf> {
    let directory = node.layout.data.join("published").join(name.replace(['/', ':'], "-"));
    fs::create_dir_all(&directory)?;
    Ok(directory)
}
