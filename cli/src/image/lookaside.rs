//! Signatures of simple signing, which lie beside a registry and not in it: a file for each, numbered from 1, below the image's
//! digest (`NAME@sha256=HEX/signature-1`). Each becomes an artefact, as which stores and guests know signatures.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use coffer_image::artefact::{Digest, Document, MAX_ATTACHED, OPEN_PGP, Reference};
use coffer_node::images::{Added, Budget, collect};
use serde_json::json;

use super::registries_d::{Places, USUAL};
use crate::registry::Registry;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Where podman and skopeo of root keep signatures if nobody says otherwise.
const KEPT: &str = "/var/lib/containers/sigstore";

#[derive(Args)]
pub(crate) struct LookasideArguments {
    /// Where OpenPGP signatures of images lie (simple signing): a directory, file://DIR, or an address [default: what registries.d
    /// of podman and skopeo says]
    #[arg(long, value_name = "DIR|URL", env = "COFFER_LOOKASIDE")]
    lookaside: Option<String>,
    /// A directory like /etc/containers/registries.d, which says where such signatures lie
    #[arg(long, value_name = "DIR", conflicts_with = "lookaside")]
    registries_d: Option<PathBuf>,
}

/// Where the signatures of one image's name lie.
pub(super) enum Lookaside {
    Directory(PathBuf),
    Address(String),
}

impl LookasideArguments {
    /// Where signatures of `name` lie; `None`: nowhere.
    pub(super) fn of(&self, name: &Reference) -> anyhow::Result<Option<Lookaside>> {
        if let Some(place) = &self.lookaside {
            return Lookaside::parse(place).map(Some);
        }
        let usual = Path::new(USUAL);
        let directory = self.registries_d.as_deref().or(usual.is_dir().then_some(usual));
        let places = directory.map(Places::read).transpose()?.unwrap_or_default();
        match places.of(name) {
            Some(place) => Lookaside::parse(place).map(Some),
            None => Ok(Path::new(KEPT).is_dir().then(|| Lookaside::Directory(PathBuf::from(KEPT)))),
        }
    }
}

impl Lookaside {
    fn parse(text: &str) -> anyhow::Result<Self> {
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(Self::Address(text.trim_end_matches('/').to_owned()));
        }
        let path = text.strip_prefix("file://").unwrap_or(text);
        if path.contains("://") {
            bail!(
                "{text} is no place of signatures: give a directory, file://DIR, or an address with https://"
            );
        }
        Ok(Self::Directory(PathBuf::from(path)))
    }

    /// Every signature of the manifest `of`, as artefacts that refer to it.
    pub(super) fn objects(
        &self,
        registry: &Registry,
        (name, of): (&Reference, &Digest),
        budget: &mut Budget,
    ) -> anyhow::Result<Vec<Added>> {
        let below = format!("{}@sha256={}", name.path(), of.hex());
        let mut all = Vec::new();
        for number in 1..=MAX_ATTACHED {
            let file = format!("{below}/signature-{number}");
            let limit = budget.manifest();
            let found = self.read(registry, &file, limit).with_context(|| format!("reading {file}"))?;
            let Some(message) = found else { break };
            all.push(artefact(message, of, budget).map_err(anyhow::Error::msg)?);
        }
        Ok(all)
    }

    fn read(&self, registry: &Registry, file: &str, limit: usize) -> anyhow::Result<Option<Vec<u8>>> {
        match self {
            Self::Address(address) => registry.file(&format!("{address}/{file}"), limit),
            Self::Directory(directory) => {
                let file = match File::open(directory.join(file)) {
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                    opened => opened?,
                };
                let mut bytes = Vec::new();
                file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
                ensure!(bytes.len() <= limit, "it has more than {limit} bytes");
                Ok(Some(bytes))
            }
        }
    }
}

fn artefact(message: Vec<u8>, of: &Digest, budget: &mut Budget) -> Result<Added, String> {
    let pointer = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": OPEN_PGP,
        "config": pointer(EMPTY, b"{}"),
        "layers": [pointer(OPEN_PGP, &message)],
        "subject": {"mediaType": MANIFEST, "digest": of, "size": 0},
    })
    .to_string()
    .into_bytes();
    budget.spend(manifest.len())?;
    let Ok(Document::Manifest(read)) = Document::parse(&manifest) else {
        return Err("it cannot be made an artefact".to_owned());
    };
    let blobs = collect(&read, budget, &|_, most| {
        if message.len() > most { Err(format!("it has more than {most} bytes")) } else { Ok(message.clone()) }
    })?;
    let (media_type, artifact_type) = (MANIFEST.to_owned(), Some(OPEN_PGP.to_owned()));
    Ok(Added { manifest, media_type, artifact_type, blobs, name: None })
}
