//! Signatures of simple signing, which lie beside a registry and not in it: a file for each, numbered from 1, below the image's
//! digest (`NAME@sha256=HEX/signature-1`). Each becomes an artefact, as which stores and guests know signatures.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use coffer_image::artefact::media_type::{EMPTY, MANIFEST};
use coffer_image::artefact::{Digest, Document, MAX_ATTACHED, OPEN_PGP, Reference};
use coffer_node::images::{Added, Budget, collect};
use serde_json::json;

use super::registries_d::{Places, USUAL};
use crate::registry::Registry;

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
    /// Where signatures of `name` lie; `None`: nowhere. Answers too what the usual directory says that is not understood: nobody
    /// asked for that directory, and other signatures may do.
    ///
    /// # Errors
    /// What was asked for cannot be read.
    pub(super) fn of(&self, name: &Reference) -> anyhow::Result<(Option<Lookaside>, Vec<String>)> {
        if let Some(place) = &self.lookaside {
            return Ok((Some(Lookaside::parse(place)?), Vec::new()));
        }
        let Some(directory) = &self.registries_d else {
            let (place, faults) = Lookaside::usual(Path::new(USUAL), name);
            return Ok((place, faults.iter().map(|error| format!("{error:#}")).collect()));
        };
        let (places, faults) = Places::read(directory)?;
        match faults.into_iter().next() {
            Some(error) => Err(error),
            None => Ok((Lookaside::by(&places, name)?, Vec::new())),
        }
    }
}

impl Lookaside {
    /// What the files of `directory` say, as far as they are understood.
    fn usual(directory: &Path, name: &Reference) -> (Option<Self>, Vec<anyhow::Error>) {
        let (mut places, mut faults) = (Places::default(), Vec::new());
        if directory.is_dir() {
            match Places::read(directory) {
                Ok(found) => (places, faults) = found,
                Err(error) => faults.push(error),
            }
        }
        let place = Self::by(&places, name).unwrap_or_else(|error| {
            faults.push(error);
            None
        });
        (place, faults)
    }

    fn by(places: &Places, name: &Reference) -> anyhow::Result<Option<Self>> {
        match places.of(name) {
            Some(place) => Self::parse(place).map(Some),
            None => Ok(Path::new(KEPT).is_dir().then(|| Self::Directory(PathBuf::from(KEPT)))),
        }
    }

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

    /// Every signature of the manifest `of` up to the first that cannot be had, as artefacts that refer to it; and why that is so.
    pub(super) fn objects(
        &self,
        registry: &Registry,
        (name, of): (&Reference, &Digest),
        budget: &mut Budget,
    ) -> (Vec<Added>, anyhow::Result<()>) {
        let below = format!("{}@sha256={}", name.path(), of.hex());
        let mut all = Vec::new();
        for number in 1..=MAX_ATTACHED {
            let file = format!("{below}/signature-{number}");
            match self.object(registry, &file, (of, budget)).with_context(|| format!("reading {file}")) {
                Ok(Some(object)) => all.push(object),
                Ok(None) => break,
                Err(error) => return (all, Err(error)),
            }
        }
        (all, Ok(()))
    }

    fn object(
        &self,
        registry: &Registry,
        file: &str,
        (of, budget): (&Digest, &mut Budget),
    ) -> anyhow::Result<Option<Added>> {
        let Some(message) = self.read(registry, file, budget.manifest())? else { return Ok(None) };
        artefact(message, of, budget).map(Some).map_err(anyhow::Error::msg)
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

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;
    use crate::registry::RegistryArguments;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        registry: RegistryArguments,
    }

    #[test]
    fn a_file_that_is_not_understood_leaves_the_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let put = |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("a file");
        put("a.yaml", "docker: {r.io: {lookaside: file:///x}}\n");
        put("b.yaml", "docker:\n  r.io:\n    lookaside: file:///b\n  s.io:\n    lookaside: ftp://s\n");
        let usual = |name: &str| Lookaside::usual(directory.path(), &name.parse().expect("a reference"));
        let (place, faults) = usual("r.io/a");
        assert!(matches!(place, Some(Lookaside::Directory(path)) if path == Path::new("/b")));
        assert_eq!(faults.len(), 1);
        let (place, faults) = usual("s.io/a");
        assert!(place.is_none());
        assert_eq!(faults.len(), 2);
        let given = LookasideArguments { lookaside: None, registries_d: Some(directory.path().to_owned()) };
        assert!(given.of(&"r.io/a".parse().expect("a reference")).is_err());
    }

    #[test]
    fn what_was_read_before_a_signature_that_cannot_be_had_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let (name, of) = ("r.io/a".parse().expect("a reference"), Digest::of(b"x"));
        let beside = directory.path().join(format!("a@sha256={}", of.hex()));
        fs::create_dir_all(beside.join("signature-2")).expect("a directory");
        fs::write(beside.join("signature-1"), b"one").expect("a file");
        let registry = Arguments::parse_from(["coffer"]).registry.open(None).expect("registries");
        let place = Lookaside::Directory(directory.path().to_owned());
        let (found, end) = place.objects(&registry, (&name, &of), &mut Budget::default());
        assert_eq!(found.len(), 1);
        assert!(end.expect_err("a fault").to_string().contains("signature-2"));
    }
}
