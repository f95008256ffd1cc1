//! Where an image is: in a directory, or in a registry, from which its manifests and what is attached to it come into a directory
//! of this process. Either way the rest sees a directory of images.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use coffer_attestation::verdict::printable;
use coffer_image::artefact::{Digest, Document, MAX_ATTACHED, Reference};
use coffer_node::images::{Added, Budget, Layout, collect};

use super::lookaside::{Lookaside, LookasideArguments};
use crate::registry::{Fetched, Registry, RegistryArguments, Repository};

/// How an image of a registry is written.
const REGISTRY: &str = "docker://";

#[derive(Args)]
pub(crate) struct ImageArguments {
    /// The image: docker://NAME in a registry, or a directory (OCI image layout)
    #[arg(value_name = "IMAGE", required_unless_present = "layout")]
    image: Option<String>,
    /// The same as a directory given as IMAGE
    #[arg(long, value_name = "DIR", conflicts_with = "image")]
    layout: Option<PathBuf>,
    /// Which image of the directory, by its tag there or its digest [default: the only one]
    #[arg(long, value_name = "TAG")]
    reference: Option<String>,
    /// For which machines, of an image for several
    #[arg(long, value_name = "OS/ARCH", default_value = "linux/amd64", value_parser = platform)]
    platform: (String, String),
    #[command(flatten)]
    pub(crate) registry: RegistryArguments,
    #[command(flatten)]
    lookaside: LookasideArguments,
}

/// A directory with the image.
pub(crate) struct Source {
    pub(crate) layout: Layout,
    /// What the image is called in it.
    pub(crate) wanted: Option<String>,
    /// What the image is called in its registry.
    pub(crate) name: Option<Reference>,
    /// What is attached to the image and could not be had, and why.
    pub(crate) left_out: Vec<String>,
    /// Kept as long as it is read.
    _place: Option<tempfile::TempDir>,
}

impl ImageArguments {
    /// The image's name, if it is in a registry.
    pub(crate) fn name(&self) -> anyhow::Result<Option<Reference>> {
        let Some(name) = self.image.as_ref().and_then(|image| image.strip_prefix(REGISTRY)) else {
            return Ok(None);
        };
        let name: Reference = name.parse().with_context(|| format!("{name:?} is no name of an image"))?;
        Ok(Some(name.or_latest()))
    }

    /// The directory that was given.
    pub(crate) fn directory(&self) -> anyhow::Result<&Path> {
        let given = self.layout.as_deref().or(self.image.as_deref().map(Path::new));
        given.context("say which image: docker://NAME, or a directory")
    }

    pub(crate) fn reference(&self) -> Option<&str> {
        self.reference.as_deref()
    }

    pub(crate) fn platform(&self) -> (&str, &str) {
        (&self.platform.0, &self.platform.1)
    }

    /// Opens the directory, or makes one of what the registry has.
    pub(crate) fn open(&self) -> anyhow::Result<Source> {
        self.open_until(None)
    }

    /// The same; no registry is asked after `until`, and what it was not asked for then is left out.
    pub(crate) fn open_until(&self, until: Option<Instant>) -> anyhow::Result<Source> {
        let Some(name) = self.name()? else {
            let layout = Layout::open(self.directory()?)?;
            let wanted = self.reference.clone();
            return Ok(Source { layout, wanted, name: None, left_out: Vec::new(), _place: None });
        };
        if self.reference.is_some() {
            bail!("--reference is for directories: the name of an image in a registry has its tag");
        }
        let place = tempfile::tempdir().context("making a directory for what the registry has")?;
        let registry = self.registry.open(until)?;
        let (beside, faults) = self.lookaside.of(&name)?;
        let from = (&registry, beside.as_ref());
        let (image, mut left_out) = download(from, &name, self.platform(), place.path())?;
        for why in faults {
            leave_out(&image.1, &mut left_out, why);
        }
        let (layout, wanted) = (image.0, Some(image.1.to_string()));
        Ok(Source { layout, wanted, name: Some(name), left_out, _place: Some(place) })
    }
}

fn platform(text: &str) -> Result<(String, String), String> {
    let (os, architecture) = text.split_once('/').ok_or("write it as in linux/amd64")?;
    Ok((os.to_owned(), architecture.to_owned()))
}

/// How `name` is asked for: by digest if there is one.
pub(crate) fn wanted(name: &Reference) -> String {
    name.digest().map_or_else(|| name.tag().unwrap_or("latest").to_owned(), ToString::to_string)
}

/// Brings manifests and signature objects; layers stay where they are. Answers what was left out too.
fn download(
    (registry, beside): (&Registry, Option<&Lookaside>),
    name: &Reference,
    (os, architecture): (&str, &str),
    place: &Path,
) -> anyhow::Result<((Layout, Digest), Vec<String>)> {
    let (repository, top) = find(registry, name)?;
    let mut digests = vec![top.digest];
    let mut below = Vec::new();
    let document = Document::parse(&top.bytes).with_context(|| format!("reading the manifest of {name}"))?;
    if let Document::Index(index) = document {
        let chosen = index.for_platform(os, architecture);
        let chosen = chosen.with_context(|| format!("the image is not there for {os}/{architecture}"))?;
        let manifest = repository.manifest(&chosen.digest.to_string())?;
        let manifest =
            manifest.with_context(|| format!("the registry has not the manifest {}", chosen.digest))?;
        digests.push(manifest.digest);
        below.push(manifest.bytes);
    }
    let digest = top.digest;
    let image = Added {
        manifest: top.bytes,
        media_type: top.media_type,
        artifact_type: None,
        blobs: below,
        name: name.tag().map(str::to_owned),
    };
    let mut layout = Layout::create(place)?.put(&image)?;
    let (mut budget, mut left_out) = (Budget::default(), Vec::new());
    for of in digests {
        for object in attached(&repository, &of, &mut budget, &mut left_out) {
            layout = layout.put(&object)?;
        }
        let Some(beside) = beside else { continue };
        let (objects, end) = beside.objects(registry, (name, &of), &mut budget);
        for object in objects {
            layout = layout.put(&object)?;
        }
        if let Err(error) = end {
            leave_out(&of, &mut left_out, format!("{error:#}"));
        }
    }
    Ok(((layout, digest), left_out))
}

/// The first place that has the image.
fn find<'a>(registry: &'a Registry, name: &Reference) -> anyhow::Result<(Repository<'a>, Fetched)> {
    let mut why = None;
    for repository in registry.sources(name)? {
        match repository.manifest(&wanted(name)) {
            Ok(Some(found)) => return Ok((repository, found)),
            Ok(None) => {}
            Err(error) => why = Some(error),
        }
    }
    let why = why.unwrap_or_else(|| anyhow::anyhow!("the registry has no such image"));
    Err(why.context(format!("looking for {name}")))
}

/// What refers to `digest`, and what stands under its signatures' tag. What cannot be had, or is more than is judged, is named
/// and left out: others may do, and a missing one makes no image better.
fn attached(
    repository: &Repository<'_>,
    digest: &Digest,
    budget: &mut Budget,
    left_out: &mut Vec<String>,
) -> Vec<Added> {
    let tag = digest.signature_tag();
    let mut wanted = vec![(tag.clone(), Some(tag))];
    match repository.referrers(digest) {
        Ok(referrers) => {
            if let Some(more) = referrers.len().checked_sub(MAX_ATTACHED).filter(|more| *more > 0) {
                leave_out(
                    digest,
                    left_out,
                    format!("{more} more than the {MAX_ATTACHED} artefacts that are read"),
                );
            }
            wanted.extend(referrers.iter().take(MAX_ATTACHED).map(|it| (it.digest.to_string(), None)));
        }
        Err(error) => leave_out(digest, left_out, format!("what refers to it: {error:#}")),
    }
    let mut all = Vec::new();
    for (reference, name) in wanted {
        match object(repository, &reference, name, budget) {
            Ok(found) => all.extend(found),
            Err(error) => leave_out(digest, left_out, format!("{reference}: {error:#}")),
        }
    }
    all
}

fn leave_out(of: &Digest, left_out: &mut Vec<String>, why: String) {
    eprintln!("coffer: left out, of what is attached to {of}: {}", printable(&why));
    left_out.push(why);
}

/// A manifest with signature objects, and those; `None` for what is something else.
fn object(
    repository: &Repository<'_>,
    reference: &str,
    name: Option<String>,
    budget: &mut Budget,
) -> anyhow::Result<Option<Added>> {
    let Some(fetched) = repository.bounded_manifest(reference, budget.manifest())? else { return Ok(None) };
    budget.spend(fetched.bytes.len()).map_err(anyhow::Error::msg)?;
    let Document::Manifest(manifest) = Document::parse(&fetched.bytes)? else { return Ok(None) };
    let read = |digest: &Digest, most| repository.blob(digest, most).map_err(|error| format!("{error:#}"));
    let blobs = collect(&manifest, budget, &read).map_err(anyhow::Error::msg)?;
    let artifact_type = Some(manifest.artifact_type);
    let (manifest, media_type) = (fetched.bytes, fetched.media_type);
    Ok((!blobs.is_empty()).then_some(Added { manifest, media_type, artifact_type, blobs, name }))
}
